"""However many slices wait for the window of their series, few of their histograms are in memory."""

import tracemalloc
import weakref
from collections.abc import Iterator

import numpy as np
import pytest

from brainscale.reading import waiting_histograms
from brainscale.reading.histogram import Histogram, count_values, merge
from brainscale.reading.sample import Sample, WaitingSlice
from brainscale.reading.series import SliceFacts
from brainscale.reading.sources import SourceFile
from brainscale.reading.together import read_together
from brainscale.reading.waiting_histograms import MERGED_AT_ONCE, WaitingHistograms

SLICES, SERIES = 600, 20


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4096, 50_000).astype(np.int16)


def test_the_histograms_of_an_archive_of_many_series_do_not_wait_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_histograms, "HELD_NBYTES", 2**16)
    some = [count_values(noise(seed)).to_bytes() for seed in range(4)]
    assert sum(len(some[i % 4]) for i in range(SLICES)) > 6 * 2**20
    live: weakref.WeakSet[Histogram] = weakref.WeakSet()
    counts: list[int] = []
    held: list[int] = []
    unpack = Histogram.from_bytes

    def unpack_and_count(data: bytes) -> Histogram:
        held.append(tracemalloc.get_traced_memory()[0])
        live.add(histogram := unpack(data))
        counts.append(len(live))
        return histogram

    monkeypatch.setattr(Histogram, "from_bytes", staticmethod(unpack_and_count))

    def read(file: SourceFile) -> Iterator[Sample]:
        for i in range(SLICES):
            facts = SliceFacts(number=float(i), bright=900.0)
            data = bytes(bytearray(some[i % 4]))  # of its own, as from a decoder
            waiting = WaitingSlice(facts=facts, histogram=data, kept=f"{i}")
            yield Sample(sample_id=f"a.zip!{i:05}", uri="", scan=f"{i % SERIES}", width=8, height=8, waiting=waiting)

    file = SourceFile(sample_id="a.zip", uri="")
    tracemalloc.start()
    plane = np.zeros((8, 8), np.uint8)
    rows = sum(1 for _ in read_together([file], read, lambda slices: [plane] * len(slices), (1.0, 99.0)))
    tracemalloc.stop()
    assert rows == len(counts) == SLICES
    assert max(counts) <= MERGED_AT_ONCE + 1
    assert held[0] < 2 * 2**20  # when all slices have been seen; their histograms alone are more


def test_waiting_histograms_are_merged_in_any_order_and_those_that_are_missing_count_for_nothing() -> None:
    parts = {f"{i}": count_values(noise(i)[:100]) for i in range(40)}
    with WaitingHistograms((name, part.to_bytes()) for name, part in parts.items()) as waiting:
        together = waiting.merge([*reversed(parts), "missing"])
        assert not len(waiting.merge(["missing"]).values)
    expected = merge(parts.values())
    assert np.array_equal(together.values, expected.values)
    assert np.array_equal(together.counts, expected.counts)
