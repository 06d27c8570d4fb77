"""Read the files of a series together: a slice gets its plane once all slices of its series have been seen.

Until then the decoder keeps the slices, as far as its memory allows; the others are read a second time.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from brainscale.reading.sample import Sample, as_slice, window_fields
from brainscale.reading.series import SliceWindow, choose_windows
from brainscale.reading.sources import SourceFile
from brainscale.reading.waiting_histograms import WaitingHistograms

Read = Callable[[SourceFile], Iterator[Sample]]
"""Reads one file, or those of its samples that it names: each comes, if need be with an error."""
Show = Callable[[Sequence[tuple[str, SliceWindow]]], list[np.ndarray | None]]
"""Makes the planes of slices that the decoder keeps, by their names; None for one that it no longer has."""
SHOWN_AT_ONCE = 16
"""Planes that are made at a time: more would only wait here."""


def read_together(
    files: Sequence[SourceFile], read: Read, show: Show, percentiles: tuple[float, float]
) -> Iterator[tuple[Sample, int | None]]:
    """Read files whose slices may belong together.

    Args:
        files: the files of one or several whole series.
        read: reads one of them.
        show: makes the planes of slices that were kept.
        percentiles: of a volume, become 0 and 255.

    Yields:
        Samples, each once. With the last one of a file comes the number of its samples: whoever has it and as many
        rows has the whole file.
    """
    waiting, histograms = list[Sample](), WaitingHistograms()
    rows: dict[str, int] = {}
    key_of: dict[str, str] = {}  # slice → file or portion that has it
    for file in files:
        count, previous, before = 0, None, len(waiting)
        for sample in read(file):
            count += 1
            if sample.waiting:
                histograms.add(sample.sample_id, sample.waiting.histogram)
                waiting.append(replace(sample, waiting=replace(sample.waiting, histogram=b"")))
                continue
            if previous is not None:
                yield previous, None
            previous = sample
        if previous is not None:
            yield previous, count if len(waiting) == before else None
        if len(waiting) > before:
            rows[file.key] = count
            key_of |= {sample.sample_id: file.key for sample in waiting[before:]}
    left = Counter(key_of.values())
    for sample in _show_waiting(files, waiting, key_of, histograms, read, show, percentiles):
        key = key_of[sample.sample_id]
        left[key] -= 1
        yield sample, None if left[key] else rows[key]


def _show_waiting(
    files: Sequence[SourceFile],
    waiting: list[Sample],
    key_of: dict[str, str],
    histograms: WaitingHistograms,
    read: Read,
    show: Show,
    percentiles: tuple[float, float],
) -> Iterator[Sample]:
    """Yield the slices with their planes, those that have to be read again last."""
    slices = [
        as_slice(sample.sample_id, sample.scan, sample.width, sample.height, sample.waiting.facts)
        for sample in waiting
        if sample.waiting
    ]
    windows, _ = choose_windows(slices, histograms, percentiles)
    again: dict[str, list[Sample]] = {}
    for start in range(0, len(waiting), SHOWN_AT_ONCE):
        part = waiting[start : start + SHOWN_AT_ONCE]
        names = [sample.waiting.kept if sample.waiting else None for sample in part]
        kept = [(name, windows[sample.sample_id]) for name, sample in zip(names, part, strict=True) if name]
        planes = iter(show(kept) if kept else ())
        for name, sample in zip(names, part, strict=True):
            plane = next(planes) if name else None
            if plane is None:
                again.setdefault(key_of[sample.sample_id], []).append(sample)
            else:
                yield _finished(sample, windows[sample.sample_id], plane)
    for file in files:
        if file.key in again:
            yield from _read_again(file, again.pop(file.key), windows, read)


def _finished(sample: Sample, window: SliceWindow, plane: np.ndarray) -> Sample:
    facts: dict[str, Any] = {**window_fields(window), "plane": plane}
    return replace(sample, waiting=None, **facts)


def _read_again(
    file: SourceFile, samples: list[Sample], windows: dict[str, SliceWindow], read: Read
) -> Iterator[Sample]:
    """Read some slices of a file a second time, with their windows."""
    some = {sample.sample_id: windows[sample.sample_id] for sample in samples}
    yield from (
        sample for sample in read(replace(file, sample_ids=tuple(some), windows=some)) if sample.sample_id in some
    )
