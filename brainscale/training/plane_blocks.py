"""Decode planes block by block when a window of the training needs them, for a set larger than the object stores.

An actor starts the tasks that decode, so that all workers of a run share each block. It keeps the latest blocks and
lets go of the others: what a run has in the object stores does not grow with the set.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray

from brainscale.config.data_sections import LimitsConfig, PreprocessConfig
from brainscale.dataset.manifest import without_signatures
from brainscale.reading.file_tables import file_table, files_of_manifest
from brainscale.reading.on_ray import READ_CPUS
from brainscale.reading.reader import read_tables
from brainscale.reading.request import ReadRequest
from brainscale.training.planes import read_unchanged
from brainscale.training.sampler import BLOCK

IN_FLIGHT = 4
"""Blocks that a worker asks for at a time."""
BLOCKS_IN_STORE = 4 * IN_FLIGHT
"""Blocks that the share of the object stores must hold at least; blocks are smaller where it is small."""
BLOCKS_OF_ROWS = 64
"""Blocks whose rows of the manifest are one object."""

Rows = tuple["ray.ObjectRef[pa.Table]", int, int]
"""Rows of the manifest: an object, the first row, and the number of rows."""


class BlockCache:
    """The latest blocks that workers asked for; the others are decoded again when they are needed.

    Args:
        rows: the rows of the manifest of each block.
        read: starts to decode a block and returns a reference to its table.
        size: number of blocks to keep.
    """

    def __init__(self, rows: Sequence[Rows], read: Callable[[Rows], Any], size: int) -> None:
        self._rows, self._read, self._size = rows, read, size
        self._blocks: OrderedDict[int, Any] = OrderedDict()

    def find(self, numbers: Sequence[int]) -> list[Any]:
        """Return references to the blocks of these numbers; those that are not kept are being decoded."""
        found = []
        for number in numbers:
            if number not in self._blocks:
                self._blocks[number] = self._read(self._rows[number])
            self._blocks.move_to_end(number)
            found.append(self._blocks[number])
        while len(self._blocks) > self._size:
            self._blocks.popitem(last=False)
        return found


class BlockReader(BlockCache):
    """The cache as an actor."""

    def __init__(self, rows: Sequence[Rows], request: ReadRequest, size: int) -> None:
        super().__init__(rows, partial(_start_reading, request=request), size)


@dataclass(frozen=True, kw_only=True)
class StreamedBlocks:
    """Blocks of planes that are decoded when they are asked for.

    Attributes:
        reader: handle of the actor.
    """

    reader: Any

    def find(self, numbers: Sequence[int]) -> list["ray.ObjectRef[pa.Table]"]:
        """Return references to the blocks of these numbers."""
        refs: list[ray.ObjectRef[pa.Table]] = ray.get(self.reader.find.remote(list(numbers)))
        return refs


def stream_blocks(
    splits: Sequence[pa.Table], preprocess: PreprocessConfig, limits: LimitsConfig, nbytes: float
) -> tuple[StreamedBlocks, dict[str, tuple[int, int]]]:
    """Prepare blocks of neighbouring samples that are decoded when they are asked for.

    Args:
        splits: rows of the manifest, without errors; no block has samples of two of these tables.
        preprocess: how to turn a frame into a plane.
        limits: limits on files and images.
        nbytes: bytes that the blocks may take in the object stores.

    Returns:
        The blocks, and sample id → (block, row).

    Raises:
        ManifestError: slices of DICOM series would need other windows than those of the manifest.
    """
    block_rows = choose_block_rows(preprocess.image_size, nbytes)
    size = max(IN_FLIGHT, int(nbytes / (block_rows * preprocess.image_size**2)) // 2)
    rows: list[Rows] = []
    locations: dict[str, tuple[int, int]] = {}
    for split in splits:
        files_of_manifest(split.slice(0, 1), preprocess)  # raises an error before any worker starts
        for start in range(0, len(split), block_rows * BLOCKS_OF_ROWS):
            part = without_signatures(split).slice(start, block_rows * BLOCKS_OF_ROWS)
            ref = ray.put(part.combine_chunks())
            ids = part["sample_id"].to_pylist()
            for first in range(0, len(ids), block_rows):
                block_ids = ids[first : first + block_rows]
                locations |= zip(block_ids, zip(repeat(len(rows)), range(len(block_ids))))  # noqa: B905 (endless)
                rows.append((ref, first, len(block_ids)))
    reader = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(BlockReader)
    request = ReadRequest(preprocess=preprocess, limits=limits)
    return StreamedBlocks(reader=reader.remote(rows, request, size)), locations


def choose_block_rows(side: int, nbytes: float) -> int:
    """Return the number of planes in a block: that of the sampler's blocks, or less where memory is small.

    Args:
        side: width and height of a plane in pixels.
        nbytes: bytes that the blocks may take in the object stores.
    """
    room = int(nbytes / BLOCKS_IN_STORE / side**2)
    return min(BLOCK, 1 << max(0, room.bit_length() - 1))


def _start_reading(rows: Rows, request: ReadRequest) -> Any:
    return _read_block.remote(*rows, request)


@ray.remote(num_cpus=READ_CPUS)
def _read_block(manifest: pa.Table, first: int, count: int, request: ReadRequest) -> pa.Table:
    return read_block(manifest.slice(first, count), request)


def read_block(rows: pa.Table, request: ReadRequest) -> pa.Table:
    """Decode the samples of some rows of a manifest into a table with the column `plane`, in the order of the rows.

    Raises:
        ManifestError: a file changed after it was indexed, or can no longer be read.
    """
    tables = read_tables(file_table(files_of_manifest(rows, request.preprocess)), request=request)
    planes = list(read_unchanged(tables, rows))
    numbers = pc.index_in(rows["sample_id"], pa.concat_arrays([ids for ids, _ in planes]))
    column = pa.concat_arrays([column for _, column in planes]).take(numbers.combine_chunks())
    return pa.table({"plane": column})
