"""Know that somebody asked this process to stop, whatever became of the exception that said so.

A library that is interrupted while it loads or traces a network may raise an error of its own in its place.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_asked = threading.Event()


@contextmanager
def remembering() -> Iterator[None]:
    """Let `was_asked` tell, from here on, whether a Ctrl-C came during the with-block."""
    _asked.clear()
    earlier = signal.getsignal(signal.SIGINT)
    if earlier is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield  # somebody else decides what a Ctrl-C means
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, earlier)


def interrupt(_number: int, _frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, and remember it: the handler of a signal that asks to stop."""
    _asked.set()
    raise KeyboardInterrupt


@contextmanager
def ending_children() -> Iterator[None]:
    """Let SIGTERM stop the with-block as a Ctrl-C does, so that processes that it started and paused end with it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier or signal.SIG_DFL)


def was_asked() -> bool:
    """Return whether somebody asked this command to stop."""
    return _asked.is_set()
