"""Samples become a table, which copies their planes and keeps none of them."""

import gc
import weakref

import numpy as np

from brainscale.reading.sample import Sample, sample_table, view_planes


def test_planes_are_copied_and_let_go() -> None:
    """pyarrow 26 never releases a memoryview that it makes a binary value of: 50 kB a picture, until reading ends."""
    planes = [np.full((4, 4), value, np.uint8) for value in range(3)]
    samples = [Sample(sample_id=str(plane[0, 0]), uri="/x", plane=plane) for plane in planes]
    there = [weakref.ref(plane) for plane in planes]
    table = sample_table(samples)
    del planes, samples
    gc.collect()
    assert all(plane() is None for plane in there)
    assert view_planes(table["plane"].chunk(0), 4).mean((1, 2)).tolist() == [0, 1, 2]
