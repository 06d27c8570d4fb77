"""Histograms that wait until all slices of their volumes have been seen: in memory while they are few, else on disk."""

import os
from collections.abc import Iterable, Iterator
from tempfile import SpooledTemporaryFile
from typing import Self

from brainscale.reading.histogram import Histogram, merge

HELD_NBYTES = 16 * 2**20
"""Histograms in memory, of a thousand slices or so; what is more lies in a temporary file that has no name."""
MERGED_AT_ONCE = 32


class WaitingHistograms:
    """Histograms by sample id. Few of them are unpacked at a time, however many there are.

    Args:
        histograms: sample id and histogram, as bytes, to begin with.
    """

    def __init__(self, histograms: Iterable[tuple[str, bytes]] = ()) -> None:
        self._file = SpooledTemporaryFile(HELD_NBYTES)  # noqa: SIM115 (closed by `with`)
        self._spans: dict[str, tuple[int, int]] = {}
        self._nbytes = 0
        for sample_id, data in histograms:
            self.add(sample_id, data)

    def add(self, sample_id: str, data: bytes) -> None:
        """Keep the histogram of a slice, as bytes."""
        self._file.seek(0, os.SEEK_END)
        self._file.write(data)
        self._spans[sample_id] = self._nbytes, len(data)
        self._nbytes += len(data)

    def merge(self, sample_ids: Iterable[str]) -> Histogram:
        """Return the histogram of several slices together; those that have none count for nothing."""
        parts: list[Histogram] = []
        for data in self._read(sample_ids):
            parts.append(Histogram.from_bytes(data))
            if len(parts) == MERGED_AT_ONCE:
                parts = [merge(parts)]
        return merge(parts)

    def _read(self, sample_ids: Iterable[str]) -> Iterator[bytes]:
        for sample_id in sample_ids:
            if (span := self._spans.get(sample_id)) is not None:
                self._file.seek(span[0])
                yield self._file.read(span[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
