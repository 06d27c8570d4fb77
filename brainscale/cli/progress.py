"""Progress of this process or of a job, on standard error: a bar on a terminal, otherwise a line every 30 s."""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from brainscale import logs
from brainscale.formatting import format_duration
from brainscale.progress import Progress, parse_progress, shown_by
from brainscale.scoring.result import Amount

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

LINE_SECONDS = 30.0
"""Seconds between two lines of progress without a terminal."""
OBJECT_SECONDS = 5.0
"""Seconds between two JSON objects of progress: a job's terminal elsewhere draws its bar from them."""
BAR_WIDTHS = (20, 10)
SPARE_COLUMNS = 4
"""Columns at the end of a line that stay empty, so that the ^C which a terminal writes there begins no other line."""
SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
EPOCH_COLUMNS = ("epoch", "learning rate", "train loss", "train acc.", "val loss", "val acc.", "")
EPOCH_HEADING = f"{'epoch':>7}{'rate':>10}{'train loss':>12}{'acc.':>7}{'val loss':>10}{'acc.':>7}"


class Display:
    """Shows what a command tells: announcements and epochs as lines, stages as a bar or as lines now and then."""

    def __init__(self) -> None:
        self._console = None if logs.is_structured() else _open_terminal()
        self._progress: Progress | None = None
        self._told: Progress | None = None
        self._stage_began = self._scoring_began = time.monotonic()
        self._scored = self._to_score = self._scored_before = Amount()
        self._has_heading = False
        self._stop = threading.Event()
        self._teller = threading.Thread(target=self._tell_regularly, name="progress", daemon=True)
        self._live = None
        if self._console is not None:
            from rich.live import Live

            self._live = Live(
                get_renderable=self._draw,
                console=self._console,
                refresh_per_second=4,
                transient=True,
                redirect_stdout=False,
            )

    def __enter__(self) -> "Display":
        if self._live is not None:
            self._live.start()
        else:
            self._teller.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()
        else:
            self._stop.set()
            self._teller.join()

    def announce(self, text: str) -> None:
        """Show a line that stays, such as what the command does."""
        logs.notice(text)

    def show(self, progress: Progress) -> None:
        """Show how far a stage is."""
        if self._progress is None or self._progress.stage != progress.stage:
            self._stage_began = time.monotonic()
        self._progress = progress

    def show_epoch(self, row: Mapping[str, Any], total: int) -> None:
        """Show the results of an epoch.

        Args:
            row: of schema HISTORY.
            total: maximum number of epochs of the run.
        """
        if logs.is_structured():
            logs.log("epoch", **{"epochs": total, **row})
        elif self._console is None:
            logs.log("epoch", _epoch_line(row, total))
        else:
            heading = [] if self._has_heading else [EPOCH_HEADING]
            self._has_heading = True
            for line in (*heading, _epoch_row(row, total)):
                self._console.print(line, highlight=False, markup=False, no_wrap=True, overflow="crop")

    def start_scoring(self, total: Amount, done: Amount) -> None:
        """Start with the whole work, and with what an earlier job has done of it."""
        self._to_score, self._scored, self._scored_before = total, done, done
        self._scoring_began = time.monotonic()
        self._show_scored()

    def advance_scoring(self, done: Amount) -> None:
        """Add what was scored."""
        self._scored += done
        self._show_scored()

    def _show_scored(self) -> None:
        done, total, before = self._scored, self._to_score, self._scored_before
        self.show(
            Progress(
                stage="scoring",
                done=done.files,
                total=total.files,
                unit="files",
                nbytes=done.nbytes,
                total_nbytes=total.nbytes,
                samples=done.rows - before.rows,
                errors=done.errors,
                seconds=time.monotonic() - self._scoring_began,
                done_before=before.files,
                nbytes_before=before.nbytes,
            )
        )

    def _draw(self) -> "Text":
        """Return the bar, as narrow as the terminal asks for."""
        from rich.text import Text

        now = time.monotonic()
        progress = self._progress or Progress(stage="starting")
        spinner = SPINNER[int(now * 8) % len(SPINNER)]
        elapsed = format_duration(now - self._stage_began)
        line = format_bar(progress, elapsed, (self._console.width if self._console else 80) - SPARE_COLUMNS - 2)
        return Text(f"{spinner} {line}", no_wrap=True, overflow="crop", end="")

    def _tell_regularly(self) -> None:
        while not self._stop.wait(OBJECT_SECONDS if logs.is_structured() else LINE_SECONDS):
            progress = self._progress
            if progress is None:
                continue
            if not logs.is_structured():
                elapsed = format_duration(time.monotonic() - self._stage_began)
                logs.log("progress", format_line(progress, elapsed))
            elif progress is not self._told:
                logs.log("progress", **progress.to_json())
            self._told = progress


@contextmanager
def show_progress() -> Iterator[Display]:
    """Show what the with-block tells."""
    with Display() as display, shown_by(display):
        yield display


def format_line(progress: Progress, elapsed: str = "") -> str:
    """Return a progress as a line of text.

    Args:
        progress: how far a stage is.
        elapsed: time since it began, which is shown where nothing is counted.
    """
    details = _details(progress)
    return f"{progress.stage}: {', '.join(details.values()) or elapsed or 'under way'}"


def format_bar(progress: Progress, elapsed: str, width: int) -> str:
    """Return a progress as a bar with text that fits a width; what matters least is left out first.

    Args:
        progress: how far a stage is.
        elapsed: time since it began, which is shown where nothing is counted.
        width: columns that there are.
    """
    details, fraction = _details(progress) or {"elapsed": elapsed}, progress.fraction
    candidates = []
    for bar in BAR_WIDTHS if fraction is not None else ():
        full = int((fraction or 0) * bar)
        percent = f"{100 * (fraction or 0):3.0f} %"
        candidates.append(f"{progress.stage} {'━' * full}{'─' * (bar - full)} {percent}  {', '.join(details.values())}")
    for dropped in ("", "bytes", "counts", "speed"):
        details.pop(dropped, None)
        candidates.append(f"{progress.stage}  {', '.join(details.values())}")
    return next((line for line in candidates if len(line) <= width), candidates[-1][:width])


def _details(progress: Progress) -> dict[str, str]:
    """Return what there is to say about a progress, by kind, in the order in which it is said."""
    details = {}
    if progress.total:
        details["counts"] = f"{min(progress.done, progress.total):,}/{progress.total:,} {progress.unit}"
    elif progress.done:
        details["counts"] = f"{progress.done:,} {progress.unit}"
    if progress.total_nbytes:
        details["bytes"] = f"{_format_bytes(progress.nbytes)} of {_format_bytes(progress.total_nbytes)}"
    if (speed := progress.samples_a_second) is not None:
        details["speed"] = f"{speed:,.0f} samples/s" if speed >= 10 else f"{speed:.1f} samples/s"
    if progress.errors:
        details["errors"] = f"{progress.errors:,} error{'' if progress.errors == 1 else 's'}"
    if left := progress.seconds_left:
        details["left"] = f"{format_duration(left)} left"
    return details


def _format_bytes(nbytes: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6)):
        if nbytes >= size:
            return f"{nbytes / size:.1f} {unit}"
    return f"{nbytes / 1000:.0f} kB"


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


def _epoch_row(row: Mapping[str, Any], total: int) -> str:
    """Return an epoch as a row of 59 columns at most, below `EPOCH_HEADING`."""
    epoch, rate, train_loss, train_accuracy, val_loss, val_accuracy, best = _epoch_cells(row, total)
    return f"{epoch:>7}{rate:>10}{train_loss:>12}{train_accuracy:>7}{val_loss:>10}{val_accuracy:>7}  {best}".rstrip()


def format_log_line(line: str) -> str | None:
    """Return a line of a job's log as text for a person, or None for a line that is for machines only."""
    message = logs.parse_line(line)
    if message is None:
        return line
    match message["event"]:
        case "progress":
            return format_line(parse_progress(message))
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
    if _open_terminal() is None:
        yield lambda line: _write(format_log_line(line))
        return
    with Display() as display:

        def show(line: str) -> None:
            message = logs.parse_line(line)
            if message is not None and message["event"] == "progress":
                display.show(parse_progress(message))
            elif message is not None and message["event"] == "epoch":
                display.show_epoch(message, message["epochs"])
            else:
                _write(format_log_line(line))

        yield show


def _open_terminal() -> "Console | None":
    """Return the terminal on standard error; None, without loading what draws on it, where there is none."""
    if not sys.stderr.isatty():
        return None
    from rich.console import Console

    console = Console(stderr=True)
    return console if console.is_terminal else None


def _write(line: str | None) -> None:
    if line is not None:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
