"""Know that somebody asked this process to stop, whatever became of the exception that said so.

A library that is interrupted while it loads or traces a network may raise an error of its own in its place.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_asked = threading.Event()


_DEFAULTS: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
"""Signals that ask to stop, each with the handler that it has where nobody else decides what it means."""


@contextmanager
def remembering() -> Iterator[None]:
    """Let `was_asked` tell, from here on, whether a Ctrl-C or a SIGTERM came during the with-block.

    A SIGTERM stops a command as a Ctrl-C does, so that processes that it started end with it.
    """
    _asked.clear()
    ours = [number for number, handler in _DEFAULTS.items() if signal.getsignal(number) is handler]
    if threading.current_thread() is not threading.main_thread():
        ours = []
    for number in ours:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, _DEFAULTS[number])


def interrupt(_number: int, _frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, and remember it: the handler of a signal that asks to stop."""
    _asked.set()
    raise KeyboardInterrupt


def was_asked() -> bool:
    """Return whether somebody asked this command to stop."""
    return _asked.is_set()
