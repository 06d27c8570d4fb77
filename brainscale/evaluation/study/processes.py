"""Run pieces in child processes that are paused, stopped at a time limit, and timed."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
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
POLL_SECONDS, SAVE_SECONDS, GRACE_SECONDS = 0.5, 30.0, 60.0
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


def run_in_child(
    piece: Piece, folder: Path, *, seconds: float | None, busy: Path | None, on_notice: Callable[[str], None]
) -> str | None:
    """Run a piece in a process of its own until it ends, or until its time is over.

    The process and what it started are paused while the file `busy` is locked. Ctrl-C stops it and what it started; it
    resumes from its last checkpoint.

    Args:
        piece: the piece.
        folder: its folder.
        seconds: seconds until it is stopped; None: no limit.
        busy: file whose lock pauses it, or None.
        on_notice: called with a line when it is paused and when it goes on.

    Returns:
        Why it failed, in one line; None if it is complete or was stopped.
    """
    make_folder(folder)
    write_manifest(piece.manifest, folder / SAMPLES)
    if piece.test_manifest is not None:
        write_manifest(piece.test_manifest, folder / TEST_SAMPLES)
    write_request(folder, piece.identity, piece.config, piece.tested, piece.baseline)
    earlier, timer = read_spent(folder), _Timer()
    cpu_before = _children_cpu_seconds()
    with (folder / LOG).open("ab") as log:
        child = subprocess.Popen(  # noqa: S603 - this program itself
            [sys.executable, *CHILD, str(folder)],
            stdout=log,
            stderr=log,
            stdin=subprocess.PIPE,  # whose end tells it that this process has ended
            start_new_session=True,  # a process group of its own, which is paused and stopped as one
        )
        is_stopped = False
        try:
            is_stopped = _follow(child, timer, seconds, busy, on_notice, lambda: _save(folder, piece, earlier, timer))
        finally:
            if child.poll() is None:
                _stop(child)
            if child.stdin is not None:
                child.stdin.close()
            cpu = _children_cpu_seconds() - cpu_before
            _save(folder, piece, earlier, timer, cpu)
    if child.returncode == 0 or is_stopped:
        return None
    return _last_line(folder / LOG) or f"its process ended with status {child.returncode}"


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


def _follow(
    child: "subprocess.Popen[bytes]",
    timer: _Timer,
    seconds: float | None,
    busy: Path | None,
    on_notice: Callable[[str], None],
    save: Callable[[], None],
) -> bool:
    """Wait for a child, pausing it while others compute; return whether it was stopped at its time limit."""
    started, saved = time.monotonic(), time.monotonic()
    while child.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            child.wait(POLL_SECONDS)
        timer.tick()
        if child.returncode is not None:
            break
        if seconds is not None and time.monotonic() - started > seconds:
            _stop(child)
            return True
        if time.monotonic() - saved > SAVE_SECONDS:
            saved = time.monotonic()
            save()
        if is_busy(busy) != timer.is_paused:
            timer.is_paused = not timer.is_paused
            _signal(child, signal.SIGSTOP if timer.is_paused else signal.SIGCONT)
            on_notice("paused while tests or benchmarks run" if timer.is_paused else "resumed")
    return False


def _stop(child: "subprocess.Popen[bytes]") -> None:
    """Ask a child and what it started to stop, and kill what does not."""
    _signal(child, signal.SIGCONT)
    _signal(child, signal.SIGINT)
    try:
        child.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    finally:
        _signal(child, signal.SIGKILL)
        child.wait()


def _signal(child: "subprocess.Popen[bytes]", number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # it has ended meanwhile
        os.killpg(child.pid, number)


def _save(folder: Path, piece: Piece, earlier: Spent, timer: _Timer, cpu_seconds: float = 0.0) -> None:
    spent = Spent(
        seconds=round(earlier.seconds + timer.seconds, 2),
        cpu_seconds=round(earlier.cpu_seconds + cpu_seconds, 2),
        paused_seconds=round(earlier.paused_seconds + timer.paused_seconds, 2),
        starts=earlier.starts + 1,
        threads=piece.config.train.threads,
        processor=read_cpu_model(),
    )
    write_json(folder / SPENT, asdict(spent))


def _children_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].removeprefix("Error: ") if lines else ""


def find_done(out: Path) -> dict[str, Path]:
    """Return identity → folder of every complete piece below a folder of all runs."""
    folders = [path.parent for path in sorted(out.glob(f"runs/*/*/*/*/*/*/{SUCCESS}"))]
    return {facts["identity"]: folder for folder in folders if (facts := read_success(folder)) is not None}
