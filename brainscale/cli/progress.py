"""Progress of this process or of a job, on standard error: live on a terminal, otherwise one line for each step."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from brainscale import logs
from brainscale.scoring.result import Amount

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
    """Progress of scoring: files and bytes done, images per second, errors and the time that is left."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._total = self._done = self._before = Amount()
        self._began = time.monotonic()
        live = self._console.is_terminal and not logs.is_structured()
        self._bar = Progress(
            TextColumn("scoring"),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TextColumn("{task.fields[note]}"),
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

    def start(self, total: Amount, done: Amount) -> None:
        """Start with the whole work, and with what an earlier job has done of it."""
        self._total, self._done, self._before, self._began = total, done, done, time.monotonic()

    def advance(self, done: Amount) -> None:
        """Add what was done."""
        self._done += done
        seconds = max(time.monotonic() - self._began, 1e-9)
        now, all_now = self._size(self._done), self._size(self._total)
        share_a_second = (now - self._size(self._before)) / seconds
        self.show(
            {
                "files": self._done.files,
                "of": self._total.files,
                "nbytes": self._done.nbytes,
                "of_nbytes": self._total.nbytes,
                "rows": self._done.rows,
                "errors": self._done.errors,
                "images_a_second": round(self._done.rows / seconds, 1),
                "seconds_left": round((all_now - now) / share_a_second) if share_a_second > 0 else None,
            }
        )

    def _size(self, amount: Amount) -> int:
        """Return bytes, or files where sizes are unknown, as in a manifest."""
        return amount.nbytes if self._total.nbytes else amount.files

    def show(self, counts: dict[str, Any]) -> None:
        """Show the counts so far, of this process or of a job, as `advance` makes them."""
        done, total = (counts[n] for n in (("nbytes", "of_nbytes") if counts["of_nbytes"] else ("files", "of")))
        self._bar.update(self._task, total=total, completed=done, note=_scored(counts))
        if logs.is_structured():
            logs.log("scored", **counts)
        elif not self._console.is_terminal:
            self.show_message(_scored_line(counts))


def _scored(counts: dict[str, Any]) -> str:
    left = counts["seconds_left"]
    parts = [f"{counts['files']}/{counts['of']} files", f"{counts['images_a_second']:.0f} images/s"]
    parts += [f"{counts['errors']} errors"] if counts["errors"] else []
    return ", ".join([*parts, *([f"{_duration(left)} left"] if left else [])])


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{rest} s"


def _scored_line(counts: dict[str, Any]) -> str:
    return f"scored {_scored(counts)}"


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
