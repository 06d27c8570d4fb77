"""Run the pieces of studies in order of their importance, within a time limit."""

import fcntl
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from brainscale.errors import OutputError
from brainscale.evaluation.study.budget import Estimator, RowBudget
from brainscale.evaluation.study.data_sets import IndexedData, index_data
from brainscale.evaluation.study.files import StudyFile
from brainscale.evaluation.study.pieces import Piece, RowPlan, plan_part
from brainscale.evaluation.study.processes import PieceProcess, find_done, is_done, stop_all, take_ended
from brainscale.storage.local import make_folder


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """What studies consist of, and what of it is done.

    Attributes:
        files: the studies.
        out: folder of all runs.
        data: data sets by name, those whose place was given.
        rows: rows of the parts whose data is there, in order.
        left_out: part → the data sets whose place was not given.
        released: identities of models that count as complete, although they are in no folder: those of a dry run.
    """

    files: Sequence[StudyFile]
    out: Path
    data: Mapping[str, IndexedData]
    rows: Sequence[RowPlan]
    left_out: Mapping[str, Sequence[str]]
    released: frozenset[str] = frozenset()

    def hides_ids(self, data_name: str) -> bool:
        """Return whether released tables name the samples of a data set by their hashes: if any study asks for it."""
        return any(file.study.data[data_name].hide_ids for file in self.files if data_name in file.study.data)

    def done(self) -> dict[str, Path]:
        """Return identity → folder of the complete pieces."""
        return {**dict.fromkeys(self.released, self.out), **find_done(self.out)}

    def without_weights(self) -> dict[str, list[str]]:
        """Return a row that is not complete → the initial weights whose place was not given."""
        done = self.done()
        return {
            f"{row.file.name}/{row.part}/{row.row}": [piece.missing_weights]
            for row in self.rows
            for piece in row.pieces
            if piece.missing_weights is not None and piece.identity not in done
        }

    def budget(self) -> list[RowBudget]:
        """Return the hours of each row."""
        return Estimator(self.out, self.rows, self.done()).budget(self.rows)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one call has done.

    Attributes:
        finished: number of pieces that it completed.
        left: number of chosen pieces that are not complete.
        failures: title of a piece → why it failed.
    """

    finished: int
    left: int
    failures: Mapping[str, str]


def make_plan(
    files: Sequence[StudyFile], places: Mapping[str, str], out: str, on_notice: Callable[[str], None]
) -> StudyPlan:
    """Index the data sets and plan the pieces of all parts.

    Args:
        files: the studies.
        places: data set → where it lies.
        out: folder of all runs.
        on_notice: called with each message for the user.

    Raises:
        BrainscaleError: a data set cannot be indexed, or a part cannot be divided so.
    """
    files = [file.with_places(places) for file in files]
    folder = make_folder(out)
    data: dict[str, IndexedData] = {}
    for file in files:
        for name in file.study.data:
            if name in places and name not in data:
                data[name] = index_data(file, name, places[name], folder, on_notice)
    rows: list[RowPlan] = []
    left_out: dict[str, list[str]] = {}
    for file in files:
        for name, part in file.study.parts.items():
            missing = [each for each in (part.data, part.test_data) if each is not None and each not in data]
            if missing:
                left_out[f"{file.name}/{name}"] = missing
            else:
                rows += plan_part(file, name, data)
    return StudyPlan(files=files, out=folder, data=data, rows=rows, left_out=left_out)


def choose_pieces(plan: StudyPlan, parts: Sequence[str], rows: Sequence[str]) -> list[Piece]:
    """Return the pieces to run, each model once: part by part, and in each the first repetition of every row first.

    Args:
        plan: the studies.
        parts: names of the parts to run; all without any.
        rows: names of the rows to run; all without any.
    """
    order = {(file.name, name): n for n, (file, name) in enumerate((f, p) for f in plan.files for p in f.study.parts)}
    pieces = [
        piece
        for row in plan.rows
        if (not parts or row.part in parts) and (not rows or row.row in rows)
        for piece in row.pieces
        if piece.missing_weights is None
    ]
    pieces.sort(key=lambda piece: (order[piece.study, piece.part], piece.repeat, piece.seed))
    first: dict[str, Piece] = {}
    for piece in pieces:
        first.setdefault(piece.identity, piece)
    return list(first.values())


def run_pieces(
    plan: StudyPlan,
    pieces: Sequence[Piece],
    *,
    minutes: float | None,
    busy: Path | None,
    on_notice: Callable[[str], None],
    parallel: int = 1,
) -> Outcome:
    """Run the pieces that are not complete, in order, some of them at the same time.

    A piece that would not end within the time is not begun, unless it alone takes longer than all of it: then it is
    stopped at the end, and the next call resumes it. Ctrl-C stops those that run; they are resumed too.

    Args:
        plan: the studies.
        pieces: the pieces, in order.
        minutes: time limit; None: until all are complete.
        busy: file whose lock pauses the computation, or None.
        on_notice: called with a line when a piece begins or fails, and when all are paused or go on.
        parallel: number of pieces that run at the same time.
    """
    started, done = time.monotonic(), plan.done()
    waiting = deque(enumerate((piece for piece in pieces if piece.identity not in done), 1))
    planned, finished, failures = len(waiting), 0, dict[str, str]()
    running: list[PieceProcess] = []
    estimator = Estimator(plan.out, plan.rows, done)
    say_pause = _without_repetition(on_notice)
    try:
        while waiting or running:
            while waiting and len(running) < parallel:
                number, piece = waiting.popleft()
                needed = estimator.seconds_left(piece)
                seconds = None if minutes is None else 60 * minutes - (time.monotonic() - started)
                if seconds is not None and not _fits(needed, seconds, 60 * (minutes or 0), is_first=not finished):
                    continue
                on_notice(f"{number} of {planned}: {piece.title}, about {needed / 60:.1f} minutes")
                folder = plan.out / piece.folder
                running.append(PieceProcess(piece, folder, seconds=seconds, busy=busy, on_notice=say_pause))
                running[-1].start()
            for process in (ended := take_ended(running)):
                if (failure := process.describe_failure()) is not None:
                    failures[process.piece.title] = failure
                    on_notice(f"{process.piece.title} failed: {failure} ({process.folder}/log.txt)")
                elif is_done(process.folder, process.piece.identity):
                    finished += 1
            if ended:
                estimator = Estimator(plan.out, plan.rows, plan.done())
    finally:
        stop_all(running)
    done = plan.done()
    left = sum(piece.identity not in done for piece in pieces)
    return Outcome(finished=finished, left=left, failures=failures)


def _without_repetition(on_notice: Callable[[str], None]) -> Callable[[str], None]:
    """Return a function that passes a line on unless it is the last one again: processes pause together."""
    said: list[str] = []

    def say(text: str) -> None:
        if said[-1:] != [text]:
            said.append(text)
            on_notice(text)

    return say


def _fits(needed: float, left: float, limit: float, *, is_first: bool) -> bool:
    """Return whether a piece is begun: it ends in time, or is the first and would not end in any such time.

    Args:
        needed: seconds that it takes.
        left: seconds that are left.
        limit: seconds of the whole call.
        is_first: whether no piece was completed yet.
    """
    return left > 0 and (needed <= left or (is_first and needed > limit))


@contextmanager
def own_folder(out: Path) -> Iterator[None]:
    """Keep other commands from running pieces in a folder.

    Raises:
        OutputError: another command runs there.
    """
    with (out / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(f"{out}: another `brainscale results` runs there; wait for it, or stop it") from None
        yield
