"""Manifest → planes in Ray's object store, and random access to them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import ray

from brainscale.config.sections import LimitsConfig, PreprocessConfig
from brainscale.errors import ManifestError
from brainscale.reading.on_ray import read_parallel
from brainscale.reading.reader import files_of_manifest, read_tables
from brainscale.reading.request import ReadRequest

Blocks = list["ray.ObjectRef[pa.Table]"]


@dataclass(frozen=True, kw_only=True)
class PlaneLocations:
    """Where the planes of some samples are.

    Attributes:
        blocks: tables in the object store.
        block: int32 [n], the number of each sample's block.
        row: int32 [n], its row there.
    """

    blocks: Blocks
    block: np.ndarray
    row: np.ndarray


@dataclass(frozen=True, kw_only=True)
class MaterialisedPlanes:
    """A manifest's planes in the object store.

    Attributes:
        blocks: tables of schema `reading.COLUMNS`.
        place: sample id → block and row.
    """

    blocks: Blocks
    place: Mapping[str, tuple[int, int]]

    def places(self, sample_ids: Sequence[str]) -> PlaneLocations:
        """Where some samples are, in their order."""
        both = np.array([self.place[i] for i in sample_ids], np.int32).reshape(-1, 2)
        return PlaneLocations(blocks=self.blocks, block=both[:, 0].copy(), row=both[:, 1].copy())


def materialise_planes(manifest: pa.Table, spec: PreprocessConfig, limits: LimitsConfig) -> MaterialisedPlanes:
    """Decode the samples of a manifest once, into blocks that stay in the object store.

    Args:
        manifest: readable rows only.
        spec: how a frame becomes a plane.
        limits: what a file may ask for.

    Raises:
        ManifestError: a file changed, or cannot be read any more, since it was indexed.
    """
    blocks = read_parallel(
        files_of_manifest(manifest), partial(read_tables, request=ReadRequest(preprocess=spec, limits=limits))
    ).blocks()
    return MaterialisedPlanes(blocks=blocks, place=_found(manifest, blocks))


def _found(manifest: pa.Table, blocks: Blocks) -> dict[str, tuple[int, int]]:
    """Where each sample is, once every one of them proved to be as it was indexed."""
    expected = dict(zip(manifest["sample_id"].to_pylist(), manifest["sha256"].to_pylist(), strict=True))
    place: dict[str, tuple[int, int]] = {}
    for number, block in enumerate(ray.get([_hashes.remote(ref) for ref in blocks])):
        for row, (sample_id, sha256, error) in enumerate(
            zip(*(block[c].to_pylist() for c in block.column_names), strict=True)
        ):
            if error is not None:
                raise ManifestError(f"'{sample_id}' cannot be read any more ({error}): index the source again")
            if sha256 != expected.pop(sample_id):
                raise ManifestError(f"'{sample_id}' changed since it was indexed: index the source again")
            place[sample_id] = (number, row)
    if expected:
        raise ManifestError(f"'{next(iter(expected))}' is not in its file any more: index the source again")
    return place


@ray.remote(num_cpus=0)
def _hashes(block: pa.Table) -> pa.Table:
    return block.select(["sample_id", "sha256", "error"])


class PlaneStore:
    """Random access to planes in the object store, without a copy of them in this process.

    Args:
        places: of the samples; position i of the store is the i-th of them.
        size: side of a plane, pixels.
    """

    def __init__(self, places: PlaneLocations, size: int) -> None:
        self._places, self._size = places, size
        self._views: dict[int, np.ndarray] = {}
        self._held: np.ndarray | None = None

    def hold(self, positions: np.ndarray) -> None:
        """Keep the blocks of these positions in reach and let go of all others, so that a store may spill them."""
        if positions is self._held:
            return
        wanted = {int(number) for number in np.unique(self._places.block[positions])}
        self._views = {number: view for number, view in self._views.items() if number in wanted}
        self._fetch(sorted(wanted - self._views.keys()))
        self._held = positions

    def take(self, positions: np.ndarray) -> np.ndarray:
        """uint8 [len(positions), S, S]."""
        out = np.empty((len(positions), self._size, self._size), np.uint8)
        numbers, rows = self._places.block[positions].tolist(), self._places.row[positions].tolist()
        self._fetch(sorted(set(numbers) - self._views.keys()))
        for at, (number, row) in enumerate(zip(numbers, rows, strict=True)):
            out[at] = self._views[number][row]
        return out

    def _fetch(self, numbers: list[int]) -> None:
        tables = ray.get([self._places.blocks[number] for number in numbers])
        for number, table in zip(numbers, tables, strict=True):
            column = table["plane"]
            whole = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()  # which copies
            self._views[number] = _view(whole, self._size)


def _view(column: pa.Array, size: int) -> np.ndarray:
    """A binary column of equal lengths as uint8 [n, S, S], without a copy."""
    if len(column) == 0:
        return np.empty((0, size, size), np.uint8)
    offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset :]
    data = np.frombuffer(column.buffers()[2], np.uint8, count=len(column) * size * size, offset=int(offsets[0]))
    return data.reshape(len(column), size, size)
