"""Measure how fast things go on this machine, to say how long a job may take: repeated work, and reading of files."""

import time
from collections.abc import Callable, Iterable
from itertools import chain

from brainscale.reading.reader import read_file
from brainscale.reading.request import ReadRequest
from brainscale.reading.sources import SourceFile

MEASURING = "dry run: reading some files and measuring this machine for a few seconds; nothing is written"
"""Message of a plan whose arguments are in order so far."""
READ_SECONDS = 2.0
"""Seconds for which files are read."""
READ_FILES = 32
"""Files that are read at most, beside the first, which starts the decoder."""


def count_rate(items: int, run: Callable[[], object], seconds: float, least: int = 1) -> float:
    """Return items a second of a function that is called again and again.

    Args:
        items: number of items that one call works on.
        run: the function.
        seconds: time after which no further call begins.
        least: number of calls at least.
    """
    start, rounds = time.perf_counter(), 0
    while rounds < least or time.perf_counter() - start < seconds:
        run()
        rounds += 1
    return round(rounds * items / (time.perf_counter() - start), 2)


def measure_reading(files: Iterable[SourceFile], request: ReadRequest, seconds: float = READ_SECONDS) -> float | None:
    """Return samples a second that one process reads of some files; None where there are fewer than two samples.

    Args:
        files: files of the job; a few of them are read, each on its own.
        request: what to read of each frame.
        seconds: time after which reading stops, also within a large archive.
    """
    samples = chain.from_iterable(
        read_file(file, request) for _, file in zip(range(READ_FILES + 1), files, strict=False)
    )
    next(samples, None)  # starts the decoder
    start, count = time.perf_counter(), 0
    for count, _ in enumerate(samples, 1):  # noqa: B007 (its last value)
        if time.perf_counter() - start > seconds:
            break
    return round(count / (time.perf_counter() - start), 2) if count else None
