"""Planes are read where they are: in blocks of the object store, for which a dictionary stands here."""

import gc
import shutil
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brainscale.config.files import load_config
from brainscale.dataset.manifest import without_signatures
from brainscale.errors import ManifestError
from brainscale.reading.reader import read_samples
from brainscale.reading.request import ReadRequest
from brainscale.training.plane_blocks import (
    BLOCKS_IN_STORE,
    IN_FLIGHT,
    BlockCache,
    choose_block_rows,
    read_block,
)
from brainscale.training.plane_store import PlaneLocations, PlaneStore, WindowStore
from tests.support.indexing import index_folder

SIDE = 4
BLOCK_ROWS = 3
Objects = dict[int, pa.Table]


@dataclass
class Blocks:
    """Blocks by number, which are their own references."""

    asked: list[int] = field(default_factory=list)

    def find(self, numbers: Sequence[int]) -> list[int]:
        self.asked += numbers
        return list(numbers)


def locate(objects: Objects) -> PlaneLocations:
    """Locations whose positions are the rows of all blocks, one block after the other."""
    place = np.array([(ref, row) for ref, block in objects.items() for row in range(len(block))], np.int32)
    block, row = place.reshape(-1, 2).T
    return PlaneLocations(blocks=Blocks(), block=block, row=row)  # type: ignore[arg-type]


def in_place(planes: np.ndarray) -> pa.Table:
    """A block whose column is the array's own memory."""
    ends = np.arange(len(planes) + 1, dtype=np.int32) * SIDE * SIDE
    column = pa.Array.from_buffers(pa.binary(), len(planes), [None, pa.py_buffer(ends), pa.py_buffer(planes)])
    return pa.table({"plane": column})


def getter(objects: Objects) -> object:
    return lambda refs: objects[refs] if isinstance(refs, int) else [objects[ref] for ref in refs]


@given(st.lists(st.lists(st.binary(min_size=SIDE**2, max_size=SIDE**2), max_size=6), max_size=3), st.integers(0, 5))
def test_each_position_is_its_own_plane(blocks: list[list[bytes]], start: int) -> None:
    """Also where a block is a slice of a longer one."""
    tables = [pa.table({"plane": pa.array(planes, pa.binary())}).slice(min(start, len(planes))) for planes in blocks]
    objects = dict(enumerate(tables))
    expected = [plane for table in tables for plane in table["plane"].to_pylist()]
    with patch("ray.get", getter(objects)):
        for store in (PlaneStore(locate(objects), SIDE), WindowStore(locate(objects), SIDE)):
            store.hold(np.arange(len(expected)))
            assert [plane.tobytes() for plane in store.take(np.arange(len(expected)))] == expected


def test_a_block_is_not_copied_and_is_let_go_of_once_no_position_needs_it() -> None:
    first, second = (np.full((3, SIDE, SIDE), value, np.uint8) for value in (1, 2))
    objects = {0: in_place(first), 1: in_place(second)}
    store, memory = PlaneStore(locate(objects), SIDE), weakref.ref(first)
    with patch("ray.get", getter(objects)):
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


def numbered(count: int) -> Objects:
    """Blocks of planes whose pixels are their position."""
    planes = np.arange(count, dtype=np.uint8)[:, None, None].repeat(SIDE, 1).repeat(SIDE, 2)
    return {n: in_place(planes[at : at + BLOCK_ROWS]) for n, at in enumerate(range(0, count, BLOCK_ROWS))}


def test_a_window_is_fetched_while_the_one_before_is_used() -> None:
    objects, rng = numbered(60), np.random.default_rng(0)
    windows = np.split(rng.permutation(60), 5)
    locations = locate(objects)
    store = WindowStore(locations, SIDE)
    with patch("ray.get", getter(objects)):
        for number, window in enumerate(windows):
            following = windows[number + 1] if number + 1 < len(windows) else None
            store.hold(window, following)
            store._thread.submit(int).result()  # what was asked for before it is there
            asked = list(locations.blocks.asked)  # type: ignore[union-attr]
            assert np.array_equal(store.take(window)[:, 0, 0], window)
            with pytest.raises(ValueError, match="not held"):
                store.take(windows[number - 1])
            expected = [block for w in windows[: number + 2] for block in np.unique(w // BLOCK_ROWS)]
            assert asked == expected  # each window once, and one ahead
        store.hold(window)
        assert asked == locations.blocks.asked  # type: ignore[union-attr]


def test_a_worker_has_few_blocks_in_use() -> None:
    """Each is released before another is asked for; the memory of a worker is its window."""
    objects = numbered(90)
    alive: set[int] = set()
    peak = 0

    class Counted(Blocks):
        def find(self, numbers: Sequence[int]) -> list[int]:
            nonlocal peak
            alive.update(numbers)
            peak = max(peak, len(alive))
            return super().find(numbers)

    def get(ref: int) -> pa.Table:
        alive.discard(ref)
        return objects[ref]

    with patch("ray.get", get):
        store = WindowStore(replace(locate(objects), blocks=Counted()), SIDE)  # type: ignore[arg-type]
        store.hold(np.arange(90))
    assert peak == IN_FLIGHT
    assert store._planes.nbytes == 90 * SIDE**2


def test_a_worker_may_have_nothing_of_a_window() -> None:
    """Where the last window has fewer micro-batches than there are workers."""
    objects, nothing = numbered(12), np.arange(0)
    store = WindowStore(locate(objects), SIDE)
    with patch("ray.get", getter(objects)):
        for window, following in ((np.arange(6), nothing), (nothing, np.arange(6, 12)), (np.arange(6, 12), None)):
            store.hold(window, following)
            assert np.array_equal(store.take(window)[:, 0, 0], window)


def test_an_error_of_a_later_window_comes_when_it_is_needed() -> None:
    objects = numbered(12)

    def get(ref: int) -> pa.Table:
        if ref == 3:
            raise ManifestError("'a.jpg' changed")
        return objects[ref]

    store = WindowStore(locate(objects), SIDE)
    with patch("ray.get", get):
        store.hold(np.arange(6), np.arange(6, 12))
        assert len(store.take(np.array([2, 5]))) == 2
        with pytest.raises(ManifestError, match="changed"):
            store.hold(np.arange(6, 12))


def test_the_latest_blocks_are_kept_and_shared() -> None:
    read: list[int] = []
    cache = BlockCache([(None, n, 1) for n in range(9)], lambda rows: read.append(rows[1]) or f"ref {rows[1]}", 3)  # type: ignore[arg-type, func-returns-value]
    assert cache.find([0, 1]) == cache.find([0, 1]) == ["ref 0", "ref 1"]
    cache.find([2, 0, 3])
    assert read == [0, 1, 2, 3]
    cache.find([0, 2])
    assert read == [0, 1, 2, 3]
    cache.find([1])
    assert read == [0, 1, 2, 3, 1]


@given(st.integers(8, 1024), st.floats(2**20, 2**45))
def test_blocks_fit_in_the_share_of_the_store(side: int, nbytes: float) -> None:
    rows = choose_block_rows(side, nbytes)
    assert 1 <= rows <= 256
    assert rows & (rows - 1) == 0
    assert rows == 1 or rows * side**2 * BLOCKS_IN_STORE <= nbytes


@pytest.fixture(scope="module")
def folder(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("few")
    for number, path in enumerate(sorted(scans.rglob("*.*"))[:12]):
        shutil.copy(path, folder / f"{number:02d}{path.suffix}")
    return folder


REQUEST = ReadRequest(preprocess=load_config(None, ["data.image_size=64"]).data.preprocess)


def test_a_block_has_the_planes_of_its_rows_in_their_order(folder: Path) -> None:
    planes = {sample.sample_id: sample.plane for sample in read_samples(folder, REQUEST)}
    rows = without_signatures(index_folder(folder)).take([7, 2, 11, 3])
    expected = [planes[sample_id].tobytes() for sample_id in rows["sample_id"].to_pylist()]  # type: ignore[union-attr]
    assert read_block(rows, REQUEST)["plane"].to_pylist() == expected


@pytest.mark.parametrize(
    ("change", "text"),
    [("write", "changed after it was indexed"), ("unlink", "can no longer be read")],
)
def test_a_block_of_other_files_is_refused(folder: Path, tmp_path: Path, change: str, text: str) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    rows = index_folder(copy)
    path = copy / rows["sample_id"][1].as_py()
    shutil.copy(copy / rows["sample_id"][0].as_py(), path) if change == "write" else path.unlink()
    with pytest.raises(ManifestError, match=text):
        read_block(rows, REQUEST)
