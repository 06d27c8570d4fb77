"""Where the planes of a run are, and how a worker gets at them.

A set that fits in the object stores is decoded once and kept there; so is one that may be spilled to disk. A larger set
is streamed: its planes are decoded again for each window. Neither changes a plane, so neither changes a result.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import pyarrow as pa
import ray
from ray.exceptions import RayTaskError

from brainscale.config.data_sections import LimitsConfig, PreprocessConfig
from brainscale.config.sections import Config
from brainscale.reading.file_tables import files_of_manifest
from brainscale.reading.on_ray import read_parallel
from brainscale.reading.reader import read_tables
from brainscale.reading.request import ReadRequest
from brainscale.reading.sample import view_planes
from brainscale.training.plane_blocks import IN_FLIGHT, StreamedBlocks, stream_blocks
from brainscale.training.planes import check_unchanged, require_none_missing

STORE_SHARE = 0.5
"""Share of the object stores that decoded planes may take."""
GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class KeptBlocks:
    """Blocks of planes in the object stores.

    Attributes:
        refs: tables of schema `reading.sample.COLUMNS`.
    """

    refs: Sequence["ray.ObjectRef[pa.Table]"]

    def find(self, numbers: Sequence[int]) -> list["ray.ObjectRef[pa.Table]"]:
        """Return references to the blocks of these numbers."""
        return [self.refs[number] for number in numbers]


@dataclass(frozen=True, kw_only=True)
class PlaneLocations:
    """Where the planes of some samples are.

    Attributes:
        blocks: blocks of planes.
        block: int32 [n], the number of each sample's block.
        row: int32 [n], the sample's row in that block.
        in_place: whether all blocks are in the object store of one machine, where a worker reads them without a copy.
        spread: whether the blocks are on several nodes, so that only the rows that a worker needs should travel.
    """

    blocks: KeptBlocks | StreamedBlocks
    block: np.ndarray
    row: np.ndarray
    in_place: bool = True
    spread: bool = False

    def open(self, side: int) -> "PlaneStore | WindowStore":
        """Return access to the planes by position.

        Args:
            side: width and height of a plane in pixels.
        """
        return (PlaneStore if self.in_place else WindowStore)(self, side)


@dataclass(frozen=True, kw_only=True)
class StoredPlanes:
    """The planes of a manifest.

    Attributes:
        blocks: blocks of planes.
        locations: sample id → (block, row).
        in_place: as in `PlaneLocations`.
        spread: as in `PlaneLocations`.
    """

    blocks: KeptBlocks | StreamedBlocks
    locations: Mapping[str, tuple[int, int]]
    in_place: bool = True
    spread: bool = False

    def locate(self, sample_ids: Sequence[str]) -> PlaneLocations:
        """Return the locations of the given samples, in their order."""
        pairs = np.array([self.locations[i] for i in sample_ids], np.int32).reshape(-1, 2)
        block, row = pairs[:, 0].copy(), pairs[:, 1].copy()
        return PlaneLocations(blocks=self.blocks, block=block, row=row, in_place=self.in_place, spread=self.spread)


def store_planes(
    splits: Sequence[pa.Table], config: Config, on_notice: Callable[[str], None] = lambda text: None
) -> StoredPlanes:
    """Decode the planes of a run and keep them, or prepare to decode them again for each window.

    Args:
        splits: rows of the manifest, without errors, one table for each split that is read.
        config: configuration of the run.
        on_notice: called with a message if the planes are not kept in memory.

    Raises:
        ManifestError: a file changed after it was indexed, can no longer be read, or has a window of another kind.
    """
    store = ray.cluster_resources().get("object_store_memory", 0.0)
    nbytes = sum(map(len, splits)) * config.data.image_size**2
    spread = sum(node["Alive"] for node in ray.nodes()) > 1
    room = STORE_SHARE * store
    sizes = f"the decoded images take {nbytes / GIB:.2f} GiB, and the object stores have {room / GIB:.2f} GiB for them"
    if nbytes <= room + config.resources.spill_gib * GIB:
        in_place = nbytes <= room and not spread
        if nbytes > room:
            on_notice(f"{sizes}: the rest is written to disk (resources.spill_gib)")
        stored = materialise_planes(pa.concat_tables(splits), config.data.preprocess, config.limits)
        return StoredPlanes(blocks=stored.blocks, locations=stored.locations, in_place=in_place, spread=spread)
    on_notice(
        f"{sizes}: they are decoded again for each window, with the same result; larger object stores "
        "(resources.object_store_gib) or resources.spill_gib would keep them"
    )
    blocks, locations = stream_blocks(splits, config.data.preprocess, config.limits, room)
    return StoredPlanes(blocks=blocks, locations=locations, in_place=False, spread=spread)


def materialise_planes(manifest: pa.Table, preprocess: PreprocessConfig, limits: LimitsConfig) -> StoredPlanes:
    """Decode the samples of a manifest once, into blocks that stay in the object store.

    Args:
        manifest: rows without errors.
        preprocess: how to turn a frame into a plane.
        limits: limits on files and images.

    Raises:
        ManifestError: a file changed after it was indexed, can no longer be read, or has a window of another kind.
    """
    request = ReadRequest(preprocess=preprocess, limits=limits)
    refs = read_parallel(files_of_manifest(manifest, preprocess), partial(read_tables, request=request)).blocks()
    return StoredPlanes(blocks=KeptBlocks(refs=refs), locations=_locate_samples(manifest, refs))


def _locate_samples(manifest: pa.Table, refs: Sequence["ray.ObjectRef[pa.Table]"]) -> dict[str, tuple[int, int]]:
    """Return sample id → (block, row), after checking that every sample is as it was indexed."""
    expected = dict(zip(manifest["sample_id"].to_pylist(), manifest["sha256"].to_pylist(), strict=True))
    locations: dict[str, tuple[int, int]] = {}
    for number, block in enumerate(ray.get([_select_hashes.remote(ref) for ref in refs])):
        check_unchanged(block, expected)
        locations |= {sample_id: (number, row) for row, sample_id in enumerate(block["sample_id"].to_pylist())}
    require_none_missing(expected)
    return locations


@ray.remote(num_cpus=0)
def _select_hashes(block: pa.Table) -> pa.Table:
    return block.select(["sample_id", "sha256", "error"])


@ray.remote(num_cpus=0)
def _select_planes(block: pa.Table, rows: np.ndarray) -> pa.Table:
    return block.select(["plane"]).take(pa.array(rows)).combine_chunks()


class PlaneStore:
    """Random access to planes in the object store of this machine, without copying them into this process.

    Args:
        locations: locations of the samples; position i of the store is the i-th of them.
        side: width and height of a plane in pixels.
    """

    def __init__(self, locations: PlaneLocations, side: int) -> None:
        self._locations, self._side = locations, side
        self._views: dict[int, np.ndarray] = {}

    def hold(self, positions: np.ndarray, following: np.ndarray | None = None) -> None:  # noqa: ARG002 (in memory too)
        """Keep the blocks of these positions in memory and release all others, so that Ray may spill them to disk."""
        needed = {int(number) for number in np.unique(self._locations.block[positions])}
        self._views = {number: view for number, view in self._views.items() if number in needed}
        self._fetch(sorted(needed - self._views.keys()))

    def take(self, positions: np.ndarray) -> np.ndarray:
        """Return the planes at these positions, uint8 [len(positions), S, S]."""
        planes = np.empty((len(positions), self._side, self._side), np.uint8)
        numbers, rows = self._locations.block[positions].tolist(), self._locations.row[positions].tolist()
        self._fetch(sorted(set(numbers) - self._views.keys()))
        for i, (number, row) in enumerate(zip(numbers, rows, strict=True)):
            planes[i] = self._views[number][row]
        return planes

    def _fetch(self, numbers: list[int]) -> None:
        tables = ray.get(self._locations.blocks.find(numbers))
        for number, table in zip(numbers, tables, strict=True):
            self._views[number] = view_planes(_in_one_piece(table["plane"]), self._side)


class WindowStore:
    """Copies of this worker's planes of one window; those of the next window are fetched in a thread meanwhile.

    It has a few blocks of the object stores in use at a time. Its own memory is that of two windows.

    Args:
        locations: locations of the samples; position i of the store is the i-th of them.
        side: width and height of a plane in pixels.
    """

    def __init__(self, locations: PlaneLocations, side: int) -> None:
        self._locations, self._side = locations, side
        self._thread = ThreadPoolExecutor(1, "planes")
        self._positions, self._planes = np.empty(0, np.int64), np.empty((0, side, side), np.uint8)
        self._following: tuple[np.ndarray, Future[np.ndarray]] | None = None

    def hold(self, positions: np.ndarray, following: np.ndarray | None = None) -> None:
        """Wait for the planes at these positions, release all others, and start to fetch the following ones.

        Raises:
            ManifestError: a file changed after it was indexed, or can no longer be read.
        """
        wanted = np.sort(positions)
        if not np.array_equal(wanted, self._positions):
            self._positions, self._planes = wanted[:0], self._planes[:0]
            fetched = self._following
            self._following = None
            if fetched is None or not np.array_equal(fetched[0], wanted):
                fetched = wanted, self._thread.submit(self._fetch, wanted)
            self._positions, self._planes = wanted, fetched[1].result()
        if following is not None:
            later = np.sort(following)
            self._following = later, self._thread.submit(self._fetch, later)

    def take(self, positions: np.ndarray) -> np.ndarray:
        """Return the planes at these positions, uint8 [len(positions), S, S]; all of them must be held."""
        indices = np.searchsorted(self._positions, positions)
        if not np.array_equal(self._positions[np.minimum(indices, len(self._positions) - 1)], positions):
            raise ValueError("these planes are not held")
        return self._planes[indices]

    def _fetch(self, positions: np.ndarray) -> np.ndarray:
        """Return the planes at sorted positions."""
        planes = np.empty((len(positions), self._side, self._side), np.uint8)
        if not len(positions):  # of a window with fewer micro-batches than workers
            return planes
        blocks, rows = self._locations.block[positions], self._locations.row[positions]
        order = np.argsort(blocks, kind="stable")
        numbers, starts = np.unique(blocks[order], return_index=True)
        pieces = zip(numbers.tolist(), np.split(order, starts[1:]), strict=True)
        asked = deque((at, self._ask(number, rows[at])) for number, at in islice(pieces, IN_FLIGHT))
        while asked:
            at, ref = asked.popleft()
            view = view_planes(_in_one_piece(_get(ref)["plane"]), self._side)
            planes[at] = view if self._locations.spread else view[rows[at]]
            del view, ref  # so that the object store has room for the next
            asked.extend((at, self._ask(number, rows[at])) for number, at in islice(pieces, 1))
        return planes

    def _ask(self, number: int, rows: np.ndarray) -> "ray.ObjectRef[pa.Table]":
        """Return a reference to a block or, of one that may be on another node, to the planes of these rows."""
        ref = self._locations.blocks.find([number])[0]
        selected: ray.ObjectRef[pa.Table] = _select_planes.remote(ref, rows) if self._locations.spread else ref
        return selected


def _get(ref: "ray.ObjectRef[pa.Table]") -> pa.Table:
    """Wait for a table; an error of the task that makes it is raised as it was there."""
    try:
        return ray.get(ref)
    except RayTaskError as error:
        raise error.cause from None


def _in_one_piece(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array; combine_chunks copies, also where there is only one chunk."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
