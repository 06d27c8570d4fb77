"""Read the files of a series together: a slice gets its plane once all slices of its series have been seen.

Until then the decoder keeps the slices, as far as its memory allows; the others are read a second time.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
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
) -> Iterator[Sample]:
    """Read files whose slices may belong together.

    Args:
        files: the files of one or several whole series.
        read: reads one of them.
        show: makes the planes of slices that were kept.
        percentiles: of a volume, become 0 and 255.

    Yields:
        Samples, each once.
    """
    waiting: list[Sample] = []
    key_of: dict[str, str] = {}  # slice → file or portion that has it
    with WaitingHistograms() as histograms:
        for file in files:
            for sample in read(file):
                if sample.waiting is None:
                    yield sample
                    continue
                histograms.add(sample.sample_id, sample.waiting.histogram)
                waiting.append(replace(sample, waiting=replace(sample.waiting, histogram=b"")))
                key_of[sample.sample_id] = file.key
        if waiting:
            yield from _show_waiting(files, waiting, key_of, histograms, read, show, percentiles)


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
    windows, series_notes = choose_windows(slices, histograms, percentiles)
    notes = series_notes.by_sample()
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
                yield _with_note(_finished(sample, windows[sample.sample_id], plane), notes)
    for file in files:
        if file.key in again:
            for sample in _read_again(file, again.pop(file.key), windows, read):
                yield _with_note(sample, notes)


def _finished(sample: Sample, window: SliceWindow, plane: np.ndarray) -> Sample:
    facts: dict[str, Any] = {**window_fields(window), "plane": plane}
    return replace(sample, waiting=None, **facts)


def _with_note(sample: Sample, notes: Mapping[str, str]) -> Sample:
    """Return a sample with what there is to say about its series, if it is the one to say it at."""
    note = notes.get(sample.sample_id)
    return replace(sample, note="; ".join(filter(None, (sample.note, note)))) if note else sample


def _read_again(
    file: SourceFile, samples: list[Sample], windows: dict[str, SliceWindow], read: Read
) -> Iterator[Sample]:
    """Read some slices of a file a second time, with their windows."""
    some = {sample.sample_id: windows[sample.sample_id] for sample in samples}
    yield from (
        sample for sample in read(replace(file, sample_ids=tuple(some), windows=some)) if sample.sample_id in some
    )
