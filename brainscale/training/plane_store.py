"""Decode the planes of a manifest into Ray's object store, and read them from there in any order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import ray

from brainscale.config.sections import LimitsConfig, PreprocessConfig
from brainscale.errors import ManifestError
from brainscale.reading.file_tables import files_of_manifest
from brainscale.reading.on_ray import read_parallel
from brainscale.reading.reader import read_tables
from brainscale.reading.request import ReadRequest

Blocks = list["ray.ObjectRef[pa.Table]"]


@dataclass(frozen=True, kw_only=True)
class PlaneLocations:
    """Where the planes of some samples are in the object store.

    Attributes:
        blocks: tables in the object store.
        block: int32 [n], the number of each sample's block.
        row: int32 [n], the sample's row in that block.
    """

    blocks: Blocks
    block: np.ndarray
    row: np.ndarray


@dataclass(frozen=True, kw_only=True)
class MaterialisedPlanes:
    """The planes of a manifest in the object store.

    Attributes:
        blocks: tables of schema `reading.sample.COLUMNS`.
        locations: sample id → (block, row).
    """

    blocks: Blocks
    locations: Mapping[str, tuple[int, int]]

    def locate(self, sample_ids: Sequence[str]) -> PlaneLocations:
        """Return the locations of the given samples, in their order."""
        pairs = np.array([self.locations[i] for i in sample_ids], np.int32).reshape(-1, 2)
        return PlaneLocations(blocks=self.blocks, block=pairs[:, 0].copy(), row=pairs[:, 1].copy())


def materialise_planes(manifest: pa.Table, preprocess: PreprocessConfig, limits: LimitsConfig) -> MaterialisedPlanes:
    """Decode the samples of a manifest once, into blocks that stay in the object store.

    Args:
        manifest: rows without errors.
        preprocess: how to turn a frame into a plane.
        limits: limits on files and images.

    Raises:
        ManifestError: a file changed after it was indexed, can no longer be read, or has a window of another kind.
    """
    request = ReadRequest(preprocess=preprocess, limits=limits)
    blocks = read_parallel(files_of_manifest(manifest, preprocess), partial(read_tables, request=request)).blocks()
    return MaterialisedPlanes(blocks=blocks, locations=_locate_samples(manifest, blocks))


def _locate_samples(manifest: pa.Table, blocks: Blocks) -> dict[str, tuple[int, int]]:
    """Return sample id → (block, row), after checking that every sample is as it was indexed."""
    expected = dict(zip(manifest["sample_id"].to_pylist(), manifest["sha256"].to_pylist(), strict=True))
    locations: dict[str, tuple[int, int]] = {}
    for number, block in enumerate(ray.get([_select_hashes.remote(ref) for ref in blocks])):
        rows = zip(*(block[column].to_pylist() for column in block.column_names), strict=True)
        for row, (sample_id, sha256, error) in enumerate(rows):
            if error is not None:
                raise ManifestError(f"'{sample_id}' can no longer be read ({error}): index the source again")
            if sha256 != expected.pop(sample_id):
                raise ManifestError(f"'{sample_id}' changed after it was indexed: index the source again")
            locations[sample_id] = (number, row)
    if expected:
        raise ManifestError(f"'{next(iter(expected))}' is no longer in its file: index the source again")
    return locations


@ray.remote(num_cpus=0)
def _select_hashes(block: pa.Table) -> pa.Table:
    return block.select(["sample_id", "sha256", "error"])


class PlaneStore:
    """Random access to planes in the object store, without copying them into this process.

    Args:
        locations: locations of the samples; position i of the store is the i-th of them.
        size: width and height of a plane in pixels.
    """

    def __init__(self, locations: PlaneLocations, size: int) -> None:
        self._locations, self._size = locations, size
        self._views: dict[int, np.ndarray] = {}
        self._held: np.ndarray | None = None

    def hold(self, positions: np.ndarray) -> None:
        """Keep the blocks of these positions in memory and release all others, so that Ray may spill them to disk."""
        if positions is self._held:
            return
        needed = {int(number) for number in np.unique(self._locations.block[positions])}
        self._views = {number: view for number, view in self._views.items() if number in needed}
        self._fetch(sorted(needed - self._views.keys()))
        self._held = positions

    def take(self, positions: np.ndarray) -> np.ndarray:
        """Return the planes at these positions, uint8 [len(positions), S, S]."""
        planes = np.empty((len(positions), self._size, self._size), np.uint8)
        numbers, rows = self._locations.block[positions].tolist(), self._locations.row[positions].tolist()
        self._fetch(sorted(set(numbers) - self._views.keys()))
        for i, (number, row) in enumerate(zip(numbers, rows, strict=True)):
            planes[i] = self._views[number][row]
        return planes

    def _fetch(self, numbers: list[int]) -> None:
        tables = ray.get([self._locations.blocks[number] for number in numbers])
        for number, table in zip(numbers, tables, strict=True):
            column = table["plane"]
            # combine_chunks copies, also where there is only one chunk
            array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
            self._views[number] = _view_planes(array, self._size)


def _view_planes(column: pa.Array, size: int) -> np.ndarray:
    """Return a binary column of equal lengths as uint8 [n, S, S], without a copy."""
    if len(column) == 0:
        return np.empty((0, size, size), np.uint8)
    offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset :]
    data = np.frombuffer(column.buffers()[2], np.uint8, count=len(column) * size * size, offset=int(offsets[0]))
    return data.reshape(len(column), size, size)
