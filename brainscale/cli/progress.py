"""Progress on standard error, of this process or of a job's log: live on a terminal, plain lines otherwise."""

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
def epochs(total: int) -> Iterator[tuple[Callable[[Mapping[str, Any]], None], Callable[[str], None]]]:
    """A table that grows by a row with each epoch, and lines of text above it.

    Args:
        total: epochs of the run.

    Yields:
        A function that takes rows of schema HISTORY, and one that takes lines.
    """
    if logs.is_structured():
        yield lambda row: logs.log("epoch", epochs=total, **row), lambda text: logs.log("notice", text)
        return
    console = Console(stderr=True)
    rows: list[Mapping[str, Any]] = []

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True, markup=False)

    if not console.is_terminal:
        yield lambda row: say(_line(row, total)), say
        return
    with Live(console=console, refresh_per_second=4) as live:

        def add(row: Mapping[str, Any]) -> None:
            rows.append(row)
            live.update(_table(rows[-SHOWN_EPOCHS:], total))

        yield add, say


def _cells(row: Mapping[str, Any], total: int) -> tuple[str, ...]:
    return (
        f"{row['epoch']}/{total}",
        f"{row['learning_rate']:.2e}",
        f"{row['train_loss']:.4f}",
        f"{row['train_accuracy']:.3f}",
        f"{row['val_loss']:.4f}",
        f"{row['val_accuracy']:.3f}",
        "best" if row["best"] else "",
    )


def _line(row: Mapping[str, Any], total: int) -> str:
    pairs = zip(EPOCH_COLUMNS, _cells(row, total), strict=True)
    return "  ".join(f"{name} {value}".strip() for name, value in pairs if value)


def _table(rows: list[Mapping[str, Any]], total: int) -> Table:
    table = Table()
    for name in EPOCH_COLUMNS:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*_cells(row, total))
    return table


class Bar:
    """Files scored so far, errors among their rows, and images a second."""

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

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    def start(self, total: int) -> None:
        """Say how many there are to score."""
        self._total, self._began = total, time.monotonic()
        self._bar.update(self._task, total=total)

    def advance(self, files: int, rows: int, errors: int) -> None:
        """Count what a part has finished."""
        self._files, self._rows, self._errors = self._files + files, self._rows + rows, self._errors + errors
        rate = self._rows / max(time.monotonic() - self._began, 1e-9)
        counts = {"files": self._files, "of": self._total, "rows": self._rows, "errors": self._errors}
        self.show({**counts, "images_a_second": round(rate, 1)})

    def show(self, counts: dict[str, Any]) -> None:
        """Say what has been counted so far, here or in a job: files, of, rows, errors, images_a_second."""
        self._bar.update(self._task, total=counts["of"], completed=counts["files"], note=_note(counts))
        if logs.is_structured():
            logs.log("scored", **counts)
        elif not self._console.is_terminal:
            self._console.print(_scored(counts), highlight=False, soft_wrap=True)


def _note(counts: dict[str, Any]) -> str:
    return f"{counts['images_a_second']:.0f} images/s, {counts['errors']} errors"


def _scored(counts: dict[str, Any]) -> str:
    return f"scored {counts['files']}/{counts['of']} files, {_note(counts)}"


def as_text(line: str) -> str | None:
    """What a person reads of a line of a job's log, structured or not; None for one that is for machines only."""
    said = logs.parse_line(line)
    if said is None:
        return line
    match said["event"]:
        case "scored":
            return _scored(said)
        case "epoch":
            return _line(said, said["epochs"])
        case "error":
            return f"Error: {said['message']}"
        case _:
            return said.get("message")


@contextmanager
def following() -> Iterator[Callable[[str], None]]:
    """A function that takes a job's log line by line, and shows it as the command would have that runs there."""
    if logs.is_structured():
        yield lambda line: _passed_on(line) if logs.parse_line(line) else logs.log("notice", line)
        return
    if not Console(stderr=True).is_terminal:
        yield lambda line: _passed_on(as_text(line))
        return
    with ExitStack() as live:
        bar: Bar | None = None
        table: tuple[Callable[[Mapping[str, Any]], None], Callable[[str], None]] | None = None

        def show(line: str) -> None:
            nonlocal bar, table
            said = logs.parse_line(line)
            if said is not None and said["event"] == "scored":
                bar = bar or live.enter_context(Bar())
                bar.show(said)
            elif said is not None and said["event"] == "epoch":
                table = table or live.enter_context(epochs(said["epochs"]))
                table[0](said)
            elif (text := as_text(line)) is not None:
                (table[1] if table else bar.say if bar else _passed_on)(text)

        yield show


def _passed_on(line: str | None) -> None:
    if line is not None:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
