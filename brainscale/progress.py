"""What long work tells whoever watches it: what it does, and how far it is.

The work calls `announce` and `stage`; a listener that `shown_by` sets shows it. Without a listener, as for callers of
the Python API, nothing is shown. A listener belongs to the context that set it: another thread has none by itself, but
a stage may be advanced there.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a stage of a command is.

    Attributes:
        stage: its name, such as `reading` or `epoch 3/30`.
        done: units that are done; 0 as long as the stage does not count.
        total: units of the whole stage, if that is known.
        unit: what is counted, such as files.
        nbytes: bytes that are done, where bytes are counted too.
        total_nbytes: bytes of the whole stage, if they are known.
        samples: samples that are done since the stage began here, where units are no samples themselves.
        errors: samples with an error.
        seconds: time since the stage began here.
        done_before: units that were done before, by a command that was stopped.
        nbytes_before: their bytes.
    """

    stage: str
    done: int = 0
    total: int | None = None
    unit: str = ""
    nbytes: int = 0
    total_nbytes: int | None = None
    samples: int = 0
    errors: int = 0
    seconds: float = 0.0
    done_before: int = 0
    nbytes_before: int = 0

    @property
    def fraction(self) -> float | None:
        """Share of the stage that is done, by bytes where they are known; None if the whole is not known."""
        if self.total_nbytes:
            return min(1.0, self.nbytes / self.total_nbytes)
        return None if not self.total else min(1.0, self.done / self.total)

    @property
    def samples_a_second(self) -> float | None:
        """Speed in samples, where samples are counted."""
        count = self.done - self.done_before if self.unit == "samples" else self.samples
        return count / self.seconds if count and self.seconds > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """Time that the rest takes at the speed so far; None before there is one."""
        done, total, before = self.done, self.total, self.done_before
        if self.total_nbytes:
            done, total, before = self.nbytes, self.total_nbytes, self.nbytes_before
        if not total or done <= before or self.seconds <= 0:
            return None
        return max(0, total - done) * self.seconds / (done - before)

    def to_json(self) -> dict[str, Any]:
        """Return the fields, and the speed and the time left, for a machine; `parse_progress` reads them."""
        speed, left = self.samples_a_second, self.seconds_left
        return asdict(self) | {
            "samples_a_second": None if speed is None else round(speed, 1),
            "seconds_left": None if left is None else round(left),
        }


def parse_progress(facts: dict[str, Any]) -> Progress:
    """Return the progress of an object that `Progress.to_json` made; other keys of it do not matter."""
    return Progress(**{name: facts[name] for name in Progress.__dataclass_fields__ if name in facts})


class Listener(Protocol):
    """Shows what work tells."""

    def announce(self, text: str) -> None:
        """Show a line that stays, such as what the command does."""

    def show(self, progress: Progress) -> None:
        """Show how far a stage is; called often, from any thread."""


class _Silence:
    """Shows nothing."""

    def announce(self, text: str) -> None:
        """Do nothing."""

    def show(self, progress: Progress) -> None:
        """Do nothing."""


_SILENCE = _Silence()
_listener: ContextVar[Listener] = ContextVar("listener", default=_SILENCE)


@contextmanager
def shown_by(listener: Listener) -> Iterator[None]:
    """Send what the with-block tells to a listener."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def current_listener() -> Listener:
    """Return the listener of this context, to call it from another thread."""
    return _listener.get()


def is_watched() -> bool:
    """Return whether there is a listener, so that work on other machines need not report to nobody."""
    return _listener.get() is not _SILENCE


def announce(text: str) -> None:
    """Tell what begins, once its arguments are checked."""
    _listener.get().announce(text)


class Stage:
    """A stage of a command; see `stage`.

    Args:
        listener: shows it.
        start: how far it is at its beginning.
    """

    def __init__(self, listener: Listener, start: Progress) -> None:
        self._listener, self._progress, self._began = listener, start, time.monotonic()
        listener.show(start)

    def advance(self, count: int = 1, *, nbytes: int = 0, samples: int = 0, errors: int = 0) -> None:
        """Add what was done."""
        now = self._progress
        self._progress = replace(
            now,
            done=now.done + count,
            nbytes=now.nbytes + nbytes,
            samples=now.samples + samples,
            errors=now.errors + errors,
            seconds=time.monotonic() - self._began,
        )
        self._listener.show(self._progress)


def stage(name: str, total: int | None = None, unit: str = "", total_nbytes: int | None = None) -> Stage:
    """Tell that a stage of the command begins, and return what tells how far it is. The next stage ends it.

    Args:
        name: of the stage, such as `reading`.
        total: units of the whole, if they are known.
        unit: what is counted, such as files.
        total_nbytes: bytes of the whole, if they are known.
    """
    return Stage(_listener.get(), Progress(stage=name, total=total, unit=unit, total_nbytes=total_nbytes))


def each(
    results: Iterable[T],
    name: str,
    total: int | None = None,
    unit: str = "",
    size: Callable[[T], int] = lambda result: 1,
) -> Iterator[T]:
    """Yield results that are computed while they are asked for, and tell how far that is.

    Args:
        results: what to yield.
        name: of the stage.
        total: units of all results, if they are known.
        unit: what is counted.
        size: number of units of a result.
    """
    counter = stage(name, total, unit)
    for result in results:
        counter.advance(size(result))
        yield result


@contextmanager
def within(title: str) -> Iterator[None]:
    """Put a title, such as `fold 2 of 5`, before all that the with-block tells."""
    with shown_by(_Titled(_listener.get(), title)) if is_watched() else nullcontext():
        yield


@dataclass(frozen=True)
class _Titled:
    """Passes on what it hears under a title."""

    listener: Listener
    title: str

    def announce(self, text: str) -> None:
        """Pass on a line."""
        self.listener.announce(f"{self.title}: {text}")

    def show(self, progress: Progress) -> None:
        """Pass on a progress."""
        self.listener.show(replace(progress, stage=f"{self.title}, {progress.stage}"))
