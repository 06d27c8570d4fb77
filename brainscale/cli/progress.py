"""Progress of this process or of a job, on standard error: live on a terminal, otherwise one line for each step."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from brainscale import logs

SHOWN_EPOCHS = 15
EPOCH_COLUMNS = ("epoch", "learning rate", "train loss", "train acc.", "val loss", "val acc.", "")


@contextmanager
def show_epochs(total: int) -> Iterator[tuple[Callable[[Mapping[str, Any]], None], Callable[[str], None]]]:
    """Show a table with one row for each epoch, and messages above it.

    Args:
        total: maximum number of epochs of the run.

    Yields:
        A function that takes a row of schema HISTORY, and one that takes a message.
    """
    if logs.is_structured():
        yield lambda row: logs.log("epoch", epochs=total, **row), lambda text: logs.log("notice", text)
        return
    console = Console(stderr=True)
    rows: list[Mapping[str, Any]] = []

    def show_message(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True, markup=False)

    if not console.is_terminal:
        yield lambda row: show_message(_epoch_line(row, total)), show_message
        return
    with Live(console=console, refresh_per_second=4) as live:

        def show_epoch(row: Mapping[str, Any]) -> None:
            rows.append(row)
            live.update(_epoch_table(rows[-SHOWN_EPOCHS:], total))

        yield show_epoch, show_message


def _epoch_cells(row: Mapping[str, Any], total: int) -> tuple[str, ...]:
    return (
        f"{row['epoch']}/{total}",
        f"{row['learning_rate']:.2e}",
        f"{row['train_loss']:.4f}",
        f"{row['train_accuracy']:.3f}",
        f"{row['val_loss']:.4f}",
        f"{row['val_accuracy']:.3f}",
        "best" if row["best"] else "",
    )


def _epoch_line(row: Mapping[str, Any], total: int) -> str:
    pairs = zip(EPOCH_COLUMNS, _epoch_cells(row, total), strict=True)
    return "  ".join(f"{name} {value}".strip() for name, value in pairs if value)


def _epoch_table(rows: list[Mapping[str, Any]], total: int) -> Table:
    table = Table()
    for name in EPOCH_COLUMNS:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*_epoch_cells(row, total))
    return table


class Bar:
    """Progress of scoring: files scored so far, images per second, and errors."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._total = self._files = self._rows = self._errors = 0
        self._began = time.monotonic()
        live = self._console.is_terminal and not logs.is_structured()
        self._bar = Progress(
            TextColumn("scoring"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not live,
        )
        self._task = self._bar.add_task("scoring", total=None, note="")

    def __enter__(self) -> "Bar":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show_message(self, text: str) -> None:
        """Print a message above the bar."""
        self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    def start(self, total: int) -> None:
        """Start with a number of files to score."""
        self._total, self._began = total, time.monotonic()
        self._bar.update(self._task, total=total)

    def advance(self, files: int, rows: int, errors: int) -> None:
        """Add the counts of a finished part.

        Args:
            files: number of files that the part finished.
            rows: number of its rows.
            errors: number of its rows with an error.
        """
        self._files, self._rows, self._errors = self._files + files, self._rows + rows, self._errors + errors
        rate = self._rows / max(time.monotonic() - self._began, 1e-9)
        counts = {"files": self._files, "of": self._total, "rows": self._rows, "errors": self._errors}
        self.show({**counts, "images_a_second": round(rate, 1)})

    def show(self, counts: dict[str, Any]) -> None:
        """Show the counts so far, of this process or of a job: files, of, rows, errors and images_a_second."""
        self._bar.update(self._task, total=counts["of"], completed=counts["files"], note=_speed(counts))
        if logs.is_structured():
            logs.log("scored", **counts)
        elif not self._console.is_terminal:
            self._console.print(_scored_line(counts), highlight=False, soft_wrap=True)


def _speed(counts: dict[str, Any]) -> str:
    return f"{counts['images_a_second']:.0f} images/s, {counts['errors']} errors"


def _scored_line(counts: dict[str, Any]) -> str:
    return f"scored {counts['files']}/{counts['of']} files, {_speed(counts)}"


def format_log_line(line: str) -> str | None:
    """Return a line of a job's log as text for a person, or None for a line that is for machines only."""
    message = logs.parse_line(line)
    if message is None:
        return line
    match message["event"]:
        case "scored":
            return _scored_line(message)
        case "epoch":
            return _epoch_line(message, message["epochs"])
        case "error":
            return f"Error: {message['message']}"
        case _:
            return message.get("message")


@contextmanager
def show_job_log() -> Iterator[Callable[[str], None]]:
    """Show a job's log as the command itself would show it here.

    Yields:
        A function that takes the log line by line.
    """
    if logs.is_structured():
        yield lambda line: _write(line) if logs.parse_line(line) else logs.log("notice", line)
        return
    if not Console(stderr=True).is_terminal:
        yield lambda line: _write(format_log_line(line))
        return
    with ExitStack() as live:
        bar: Bar | None = None
        epochs: tuple[Callable[[Mapping[str, Any]], None], Callable[[str], None]] | None = None

        def show(line: str) -> None:
            nonlocal bar, epochs
            message = logs.parse_line(line)
            if message is not None and message["event"] == "scored":
                bar = bar or live.enter_context(Bar())
                bar.show(message)
            elif message is not None and message["event"] == "epoch":
                epochs = epochs or live.enter_context(show_epochs(message["epochs"]))
                epochs[0](message)
            elif (text := format_log_line(line)) is not None:
                (epochs[1] if epochs else bar.show_message if bar else _write)(text)

        yield show


def _write(line: str | None) -> None:
    if line is not None:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
