"""Manifest → planes in Ray's object store, and the deterministic order in which training sees them."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from brainscale.config import LimitsConfig, PreprocessConfig
from brainscale.decoding import Wish
from brainscale.errors import ManifestError
from brainscale.pipeline import over_units
from brainscale.reading import read_tables, units_of
from brainscale.seeds import derive

Blocks = list["ray.ObjectRef[pa.Table]"]


def materialise(manifest: pa.Table, spec: PreprocessConfig, limits: LimitsConfig) -> Blocks:
    """Decode the samples of a manifest once, into blocks that stay in the object store.

    Args:
        manifest: readable rows only.
        spec: how a frame becomes a plane.
        limits: what a file may ask for.

    Raises:
        ManifestError: a file changed, or cannot be read any more, since it was indexed.
    """
    blocks = over_units(units_of(manifest), partial(read_tables, wish=Wish(spec=spec, limits=limits))).blocks()
    _check_unchanged(manifest, blocks)
    return blocks


def _check_unchanged(manifest: pa.Table, blocks: Blocks) -> None:
    expected = dict(zip(manifest["sample_id"].to_pylist(), manifest["sha256"].to_pylist(), strict=True))
    for block in ray.get([_hashes.remote(ref) for ref in blocks]):
        for sample_id, sha256, error in zip(*(block[c].to_pylist() for c in block.column_names), strict=True):
            if error is not None:
                raise ManifestError(f"'{sample_id}' cannot be read any more ({error}): index the source again")
            if sha256 != expected.pop(sample_id):
                raise ManifestError(f"'{sample_id}' changed since it was indexed: index the source again")
    if expected:
        raise ManifestError(f"'{next(iter(expected))}' is not in its file any more: index the source again")


@ray.remote(num_cpus=0)
def _hashes(block: pa.Table) -> pa.Table:
    return block.select(["sample_id", "sha256", "error"])


class PlaneStore:
    """Random access to planes in the object store, without copying the set into this process.

    Args:
        blocks: tables with sample_id and plane.
        sample_ids: the samples wanted; position i of the store is sample_ids[i].
        size: side of a plane, pixels.
    """

    def __init__(self, blocks: Blocks, sample_ids: Sequence[str], size: int) -> None:
        self._planes: list[np.ndarray] = []
        place: dict[str, tuple[int, int]] = {}
        for number, table in enumerate(ray.get(blocks)):
            column = pc.drop_null(table["plane"]).combine_chunks()
            self._planes.append(_view(column, size))
            place |= {sample_id: (number, row) for row, sample_id in enumerate(table["sample_id"].to_pylist())}
        self._place = [place[sample_id] for sample_id in sample_ids]
        self._size = size

    def take(self, positions: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 [len(positions), S, S]."""
        out = np.empty((len(positions), self._size, self._size), np.uint8)
        for row, position in enumerate(positions):
            block, at = self._place[int(position)]
            out[row] = self._planes[block][at]
        return out


def _view(column: pa.Array, size: int) -> np.ndarray:
    """A binary column of equal lengths as uint8 [n, S, S], without a copy."""
    if len(column) == 0:
        return np.empty((0, size, size), np.uint8)
    offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset :]
    data = np.frombuffer(column.buffers()[2], np.uint8, count=len(column) * size * size, offset=int(offsets[0]))
    return data.reshape(len(column), size, size)


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order of one epoch: a permutation of 0 … count − 1 that (seed, epoch) alone decide.

    Positions count along the sorted sample ids, so a directory's order plays no part.
    """
    generator = np.random.Generator(np.random.Philox(key=derive(seed, "order", epoch)))
    return generator.permutation(count)


def batches(order: np.ndarray, batch_size: int, micro_batches: int) -> Iterator[list[np.ndarray]]:
    """Cut an order into global batches, each a list of exactly `micro_batches` arrays, some perhaps empty.

    Every position comes exactly once. The last batch may be short. A remainder of one sample joins the
    micro-batch before it, since batch statistics need two values.
    """
    micro_size = batch_size // micro_batches
    pieces = [order[at : at + micro_size] for at in range(0, len(order), micro_size)]
    if len(pieces) > 1 and len(pieces[-1]) == 1:
        pieces[-2:] = [np.concatenate(pieces[-2:])]
    empty = order[:0]
    for at in range(0, len(pieces), micro_batches):
        batch = pieces[at : at + micro_batches]
        yield batch + [empty] * (micro_batches - len(batch))
