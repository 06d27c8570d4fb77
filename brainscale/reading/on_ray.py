"""Ray Data over units of work: small fixed blocks, fractions of a CPU, every row accounted for."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import ray
from ray.data import DataContext, Dataset

from brainscale.reading.reader import file_table
from brainscale.reading.sources import SourceFile

UNITS_IN_A_BLOCK, MOST_UNITS_IN_A_BLOCK = 64, 1024
TASKS = 4096
"""About, that a large job is cut into: each costs the driver milliseconds, and some kilobytes while it lasts."""
NBYTES_IN_A_BLOCK = 64 * 2**20
"""What one task reads, at most, unless a single file is larger. Blocks never depend on the cluster."""
READ_CPUS = 0.4
"""CPUs that a reading task asks for: trainers and scorers beside it must find theirs."""


@dataclass(frozen=True)
class LazyRows:
    """A lazy table in Ray's hands."""

    dataset: Dataset

    def to_table(self) -> pa.Table:
        """All rows, in this process: for tables without planes."""
        return pa.concat_tables(ray.get(self.dataset.to_arrow_refs()))

    def blocks(self) -> list["ray.ObjectRef[pa.Table]"]:
        """References to Arrow tables in the object store; computed once."""
        refs: list[ray.ObjectRef[pa.Table]] = self.dataset.materialize().to_arrow_refs()
        return refs


def read_parallel(units: Sequence[SourceFile], read: Callable[[pa.Table], Iterator[pa.Table]]) -> LazyRows:
    """Apply a reading function to units in blocks, on whatever Ray is connected.

    Args:
        units: one file each.
        read: table of units → tables of rows; must not raise for a bad file.
    """
    quiet_ray_data()
    dataset = ray.data.from_arrow([file_table(block) for block in blocks_of(units)])
    return LazyRows(dataset.map_batches(read, batch_format="pyarrow", batch_size=None, num_cpus=READ_CPUS))


def blocks_of(units: Sequence[SourceFile]) -> Iterator[list[SourceFile]]:
    """Units in their order, cut by number and by bytes: a large archive is a task of its own."""
    block: list[SourceFile] = []
    nbytes = 0
    most = min(max(len(units) // TASKS, UNITS_IN_A_BLOCK), MOST_UNITS_IN_A_BLOCK)
    for unit in units:
        size = unit.nbytes or 0
        if block and (len(block) == most or nbytes + size > NBYTES_IN_A_BLOCK):
            yield block
            block, nbytes = [], 0
        block.append(unit)
        nbytes += size
    if block:
        yield block


def quiet_ray_data() -> None:
    """Leave the terminal to brainscale's own progress."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.memory_usage_poll_interval_s = None  # nobody reads it, and asking takes a thread in every task
