"""Run pieces in child processes that are paused, stopped at a time limit, and timed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from brainscale.dataset.manifest import write_manifest
from brainscale.evaluation.study.pausing import is_busy
from brainscale.evaluation.study.piece_main import SAMPLES, TEST_SAMPLES, write_request
from brainscale.evaluation.study.pieces import Piece
from brainscale.models.processor import read_cpu_model
from brainscale.storage.local import SUCCESS, make_folder, read_success, write_json

SPENT, LOG = "spent.json", "log.txt"
TAKEN = "taken"
"""Fact of a complete piece that was computed on another machine."""
CHILD = ("-m", "brainscale.evaluation.study.piece_main")
"""Arguments of the child's Python, before the folder."""
POLL_SECONDS, SAVE_SECONDS, GRACE_SECONDS = 0.2, 30.0, 60.0
"""Seconds between two looks at a child, between two records of its time, and until one that was asked to stop is
killed."""


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What a piece has taken so far, over all its starts.

    Attributes:
        seconds: seconds that its process ran, without pauses.
        cpu_seconds: CPU time of the starts that ended.
        paused_seconds: seconds that it was paused.
        starts: how often it was started.
        threads: CPU threads that it computed with.
        processor: the processor's name.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    paused_seconds: float = 0.0
    starts: int = 0
    threads: int = 0
    processor: str = ""


def read_spent(folder: Path) -> Spent:
    """Return what the piece of a folder has taken; zeros where it was never started."""
    try:
        facts = json.loads((folder / SPENT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Spent()
    return Spent(**{field.name: facts[field.name] for field in fields(Spent)})


def was_computed_here(folder: Path) -> bool:
    """Return whether the complete piece of a folder was computed on this machine, so that its time says something."""
    facts = read_success(folder)
    return facts is not None and not facts.get(TAKEN, False)


def is_done(folder: Path, identity: str) -> bool:
    """Return whether the piece of a folder is complete and is this one."""
    facts = read_success(folder)
    return facts is not None and facts["identity"] == identity


class PieceProcess:
    """A piece that runs in a process of its own, which is paused while the file `busy` is locked.

    `start` it, `poll` it until it has ended, and `close` it in any case. A process that was stopped keeps its last
    checkpoint, and the next one for the same folder resumes it.

    Attributes:
        piece: the piece.
        folder: its folder.
    """

    def __init__(
        self, piece: Piece, folder: Path, *, seconds: float | None, busy: Path | None, on_notice: Callable[[str], None]
    ) -> None:
        """Take what the process needs.

        Args:
            piece: the piece.
            folder: its folder.
            seconds: seconds until it is stopped; None: no limit.
            busy: file whose lock pauses it, or None.
            on_notice: called with a line when it is paused and when it goes on.
        """
        self.piece, self.folder = piece, folder
        self._limit, self._busy, self._on_notice = seconds, busy, on_notice
        self._earlier, self._timer, self._cpu_seconds = read_spent(folder), _Timer(), 0.0
        self._started = self._saved = time.monotonic()
        self._kill_at: float | None = None
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Write what the process reads, and start it.

        Raises:
            OutputError: the folder cannot be written.
        """
        make_folder(self.folder)
        write_manifest(self.piece.manifest, self.folder / SAMPLES)
        if self.piece.test_manifest is not None:
            write_manifest(self.piece.test_manifest, self.folder / TEST_SAMPLES)
        write_request(self.folder, self.piece.identity, self.piece.config, self.piece.tested, self.piece.baseline)
        with (self.folder / LOG).open("ab") as log:
            self._child = subprocess.Popen(  # noqa: S603 - this program itself
                [sys.executable, *CHILD, str(self.folder)],
                stdout=log,
                stderr=log,
                stdin=subprocess.PIPE,  # whose end tells it that this process has ended
                start_new_session=True,  # a process group of its own, which is paused and stopped as one
            )

    def poll(self) -> bool:
        """Return whether the process has ended; pause, resume or stop it where it is time to."""
        has_ended, now = self._has_ended(), time.monotonic()
        self._timer.tick()
        if has_ended:
            return True
        if self._limit is not None and now - self._started > self._limit:
            self.interrupt()
        if self._kill_at is not None:
            if now > self._kill_at:
                self._signal(signal.SIGKILL)
            return False
        if now - self._saved > SAVE_SECONDS:
            self._saved = now
            self._save()
        if is_busy(self._busy) != self._timer.is_paused:
            self._timer.is_paused = not self._timer.is_paused
            self._signal(signal.SIGSTOP if self._timer.is_paused else signal.SIGCONT)
            self._on_notice("paused while tests or benchmarks run" if self._timer.is_paused else "resumed")
        return False

    def interrupt(self) -> None:
        """Ask the process and what it started to stop, once, also if it is paused; it is killed if it does not."""
        if self._kill_at is None:
            self._kill_at, self._timer.is_paused = time.monotonic() + GRACE_SECONDS, False
            self._signal(signal.SIGCONT)
            self._signal(signal.SIGINT)

    def close(self) -> None:
        """Stop the process if it runs, with what it started, and keep what it took.

        Raises:
            OutputError: the folder cannot be written.
        """
        if self._child is None:
            return
        try:
            if not self._has_ended():
                self.interrupt()
                while not self._has_ended() and time.monotonic() < (self._kill_at or 0):
                    time.sleep(POLL_SECONDS)
        finally:
            self._signal(signal.SIGKILL)
            while not self._has_ended():
                time.sleep(POLL_SECONDS)
            if self._child.stdin is not None:
                self._child.stdin.close()
            self._save()

    def describe_failure(self) -> str | None:
        """Return why it failed, in one line; None if it is complete or was asked to stop."""
        status = self._child.returncode if self._child is not None else 0
        if status == 0 or self._kill_at is not None:
            return None
        if status < 0:
            return f"its process was killed ({signal.Signals(-status).name})"
        return _last_line(self.folder / LOG) or f"its process ended with status {status}"

    def _has_ended(self) -> bool:
        """Return whether it has ended; its CPU time, with that of its children, is known then."""
        if self._child is None or self._child.returncode is not None:
            return True
        try:
            ended, status, used = os.wait4(self._child.pid, os.WNOHANG)
        except ChildProcessError:  # a Ctrl-C came between the wait and the next line
            self._child.returncode = 0  # whether the piece is complete, its folder says
            return True
        if ended:
            self._cpu_seconds = used.ru_utime + used.ru_stime
            self._child.returncode = os.waitstatus_to_exitcode(status)
        return ended != 0

    def _signal(self, number: int) -> None:
        if self._child is None:
            return
        with suppress(ProcessLookupError, PermissionError):  # it has ended meanwhile
            os.killpg(self._child.pid, number)

    def _save(self) -> None:
        spent = Spent(
            seconds=round(self._earlier.seconds + self._timer.seconds, 2),
            cpu_seconds=round(self._earlier.cpu_seconds + self._cpu_seconds, 2),
            paused_seconds=round(self._earlier.paused_seconds + self._timer.paused_seconds, 2),
            starts=self._earlier.starts + 1,
            threads=self.piece.config.train.threads,
            processor=read_cpu_model(),
        )
        write_json(self.folder / SPENT, asdict(spent))


def take_ended(running: list[PieceProcess]) -> list[PieceProcess]:
    """Wait a moment, then take the processes that have ended out of a list, close them and return them."""
    time.sleep(POLL_SECONDS)
    ended = [process for process in running if process.poll()]
    for process in ended:
        running.remove(process)
        process.close()
    return ended


def stop_all(running: Sequence[PieceProcess]) -> None:
    """Stop processes, all at the same time; an error with one of them, or another Ctrl-C, spares none."""
    with ExitStack() as stack:
        for process in running:
            stack.callback(process.close)
        for process in running:
            process.interrupt()


class _Timer:
    """Seconds that a child ran, and that it was paused."""

    def __init__(self) -> None:
        self.seconds, self.paused_seconds = 0.0, 0.0
        self.is_paused, self._last = False, time.monotonic()

    def tick(self) -> None:
        now = time.monotonic()
        if self.is_paused:
            self.paused_seconds += now - self._last
        else:
            self.seconds += now - self._last
        self._last = now


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].removeprefix("Error: ") if lines else ""


def find_done(out: Path) -> dict[str, Path]:
    """Return identity → folder of every complete piece below a folder of all runs."""
    folders = [path.parent for path in sorted(out.glob(f"runs/*/*/*/*/*/*/{SUCCESS}"))]
    return {facts["identity"]: folder for folder in folders if (facts := read_success(folder)) is not None}
