"""Commands on a terminal of their own, read and typed at as a person would."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROWS = 24
MOVES = re.compile(r"\x1b\[(\??\d*)([A-Za-z])|\r|\n|[^\x1b\r\n]")


class Terminal:
    """A process whose standard streams are one terminal.

    Attributes:
        shown: all that it has written, with what moves the cursor.
    """

    def __init__(self, command: list[str], environment: dict[str, str], columns: int) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
        inherited = {name: value for name, value in environment.items() if name not in ("COLUMNS", "LINES")}
        self.shown = ""
        self.process = subprocess.Popen(
            command,
            env={**inherited, "TERM": "xterm"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 (Ctrl-C is a signal then)
        )
        os.close(theirs)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def wait_for(self, text: str, seconds: float = 240) -> None:
        """Read until a text is shown."""
        deadline, begin = time.monotonic() + seconds, len(self.shown)
        while text not in self.shown[begin:]:
            assert time.monotonic() < deadline, f"no '{text}' in: {self.shown[-2000:]}"
            assert self._read(), f"it ended without '{text}': {self.shown[-2000:]}"

    def wait_for_something(self) -> None:
        """Read until something is shown, or to the end."""
        while not self.shown and self._read():
            pass

    def end(self) -> int:
        """Read to the end; the exit status."""
        while self._read():
            pass
        return self.process.wait(60)

    def _read(self) -> bool:
        """Whether there may be more to come."""
        if select.select([self._ours], [], [], 0.5)[0]:
            try:
                self.shown += os.read(self._ours, 2**16).decode(errors="replace")
            except OSError:  # how a terminal without a process ends
                return False
        return True

    def close(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(60)
        os.close(self._ours)


@contextmanager
def terminal(command: list[str | Path], environment: dict[str, str], columns: int = 160) -> Iterator[Terminal]:
    """A command on a terminal of so many columns; it has ended after the with-block."""
    there = Terminal([str(word) for word in command], environment, columns)
    try:
        yield there
    finally:
        there.close()


def screen(shown: str, columns: int) -> list[str]:
    """The lines that a terminal shows in the end, longer ones wrapped; cursor up, erase line and return are obeyed."""
    lines, row, column = [""], 0, 0
    for move in MOVES.finditer(shown):
        number, letter = move.group(1), move.group(2)
        if letter == "A":
            row = max(0, row - int(number or 1))
        elif letter == "K":
            lines[row] = "" if number == "2" else lines[row][:column]
        elif letter is not None:
            continue
        elif move.group() == "\r":
            column = 0
        elif move.group() == "\n":
            row += 1
        else:
            if column == columns:
                row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
            lines[row] = lines[row][:column].ljust(column) + move.group() + lines[row][column + 1 :]
            column += 1
        lines += [""] * (row + 1 - len(lines))
    return [line.rstrip() for line in lines]
