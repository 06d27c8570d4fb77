"""Planes are read where they lie: in blocks of the object store, for which a dictionary stands here."""

import gc
import weakref
from unittest.mock import patch

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from brainscale.training.plane_store import PlaneLocations, PlaneStore

SIDE = 4
Objects = dict[int, pa.Table]


def store_of(objects: Objects) -> PlaneStore:
    """A store whose positions are the rows of all blocks, one block after the other."""
    place = np.array([(ref, row) for ref, block in objects.items() for row in range(len(block))], np.int32)
    block, row = place.reshape(-1, 2).T
    return PlaneStore(PlaneLocations(blocks=list(objects), block=block, row=row), SIDE)  # type: ignore[arg-type]


def in_place(planes: np.ndarray) -> pa.Table:
    """A block whose column is the array's own memory."""
    ends = np.arange(len(planes) + 1, dtype=np.int32) * SIDE * SIDE
    column = pa.Array.from_buffers(pa.binary(), len(planes), [None, pa.py_buffer(ends), pa.py_buffer(planes)])
    return pa.table({"plane": column})


@given(st.lists(st.lists(st.binary(min_size=SIDE**2, max_size=SIDE**2), max_size=6), max_size=3), st.integers(0, 5))
def test_each_position_is_its_own_plane(blocks: list[list[bytes]], start: int) -> None:
    """Also where a block is a slice of a longer one."""
    tables = [pa.table({"plane": pa.array(planes, pa.binary())}).slice(min(start, len(planes))) for planes in blocks]
    objects = dict(enumerate(tables))
    expected = [plane for table in tables for plane in table["plane"].to_pylist()]
    with patch("ray.get", lambda refs: [objects[ref] for ref in refs]):
        assert [plane.tobytes() for plane in store_of(objects).take(np.arange(len(expected)))] == expected


def test_a_block_is_not_copied_and_is_let_go_of_once_no_position_needs_it() -> None:
    first, second = (np.full((3, SIDE, SIDE), value, np.uint8) for value in (1, 2))
    objects = {0: in_place(first), 1: in_place(second)}
    store, memory = store_of(objects), weakref.ref(first)
    with patch("ray.get", lambda refs: [objects[ref] for ref in refs]):
        store.hold(np.arange(6))
        first[1] = second[2] = 9  # seen by whoever reads in place
        assert store.take(np.array([1, 0, 5]))[:, 0, 0].tolist() == [9, 1, 9]
        objects.clear()
        del first
        gc.collect()
        assert memory() is not None
        store.hold(np.array([4]))
        gc.collect()
        assert memory() is None
        assert store.take(np.array([5]))[0, 0, 0] == 9
