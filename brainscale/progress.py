"""Progress on standard error: live on a terminal, plain lines otherwise."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
def epochs(total: int) -> Iterator[tuple[Callable[[dict[str, Any]], None], Callable[[str], None]]]:
    """A table that grows by a row with each epoch, and lines of text above it.

    Args:
        total: epochs of the run.

    Yields:
        A function that takes rows of schema HISTORY, and one that takes lines.
    """
    if logs.structured():
        yield lambda row: logs.log("epoch", epochs=total, **row), lambda text: logs.log("notice", text)
        return
    console = Console(stderr=True)
    rows: list[dict[str, Any]] = []

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True, markup=False)

    if not console.is_terminal:
        yield lambda row: say(_line(row, total)), say
        return
    with Live(console=console, refresh_per_second=4) as live:

        def add(row: dict[str, Any]) -> None:
            rows.append(row)
            live.update(_table(rows[-SHOWN_EPOCHS:], total))

        yield add, say


def _cells(row: dict[str, Any], total: int) -> tuple[str, ...]:
    return (
        f"{row['epoch']}/{total}",
        f"{row['learning_rate']:.2e}",
        f"{row['train_loss']:.4f}",
        f"{row['train_accuracy']:.3f}",
        f"{row['val_loss']:.4f}",
        f"{row['val_accuracy']:.3f}",
        "best" if row["best"] else "",
    )


def _line(row: dict[str, Any], total: int) -> str:
    pairs = zip(EPOCH_COLUMNS, _cells(row, total), strict=True)
    return "  ".join(f"{name} {value}".strip() for name, value in pairs if value)


def _table(rows: list[dict[str, Any]], total: int) -> Table:
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
        live = self._console.is_terminal and not logs.structured()
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

    def start(self, total: int) -> None:
        """Say how many there are to score."""
        self._total, self._began = total, time.monotonic()
        self._bar.update(self._task, total=total)

    def advance(self, files: int, rows: int, errors: int) -> None:
        """Count what a part has finished."""
        self._files, self._rows, self._errors = self._files + files, self._rows + rows, self._errors + errors
        rate = self._rows / max(time.monotonic() - self._began, 1e-9)
        note = f"{rate:.0f} images/s, {self._errors} errors"
        self._bar.update(self._task, advance=files, note=note)
        if logs.structured():
            counts: dict[str, Any] = {
                "files": self._files,
                "of": self._total,
                "rows": self._rows,
                "errors": self._errors,
            }
            logs.log("scored", **counts, images_a_second=round(rate, 1))
        elif not self._console.is_terminal:
            self._console.print(f"scored {self._files}/{self._total} files, {note}", highlight=False, soft_wrap=True)
