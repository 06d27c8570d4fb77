"""Ray Data over units of work: small fixed blocks, fractions of a CPU, every row accounted for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import ray
from ray.data import DataContext, Dataset

from brainscale.reading import unit_table
from brainscale.sources import Unit

UNITS_IN_A_BLOCK = 64
"""Files in one task: fixed, so that what a block holds never depends on the cluster."""
READ_CPUS = 0.5
"""CPUs that a reading task asks for: trainers and scorers beside it must find theirs."""


@dataclass(frozen=True)
class Rows:
    """A lazy table in Ray's hands."""

    dataset: Dataset

    def to_table(self) -> pa.Table:
        """All rows, in this process: for tables without planes."""
        return pa.concat_tables(ray.get(self.dataset.to_arrow_refs()))

    def blocks(self) -> list["ray.ObjectRef[pa.Table]"]:
        """References to Arrow tables in the object store; computed once."""
        refs: list[ray.ObjectRef[pa.Table]] = self.dataset.materialize().to_arrow_refs()
        return refs


def over_units(units: Sequence[Unit], read: Callable[[pa.Table], pa.Table]) -> Rows:
    """Apply a reading function to units in blocks, on whatever Ray is connected.

    Args:
        units: one file each.
        read: table of units → table of rows; must not raise for a bad file.
    """
    quiet()
    table = unit_table(units)
    blocks = [table.slice(at, UNITS_IN_A_BLOCK) for at in range(0, len(table), UNITS_IN_A_BLOCK)]
    dataset = ray.data.from_arrow(blocks)
    return Rows(dataset.map_batches(read, batch_format="pyarrow", batch_size=None, num_cpus=READ_CPUS))


def quiet() -> None:
    """Leave the terminal to brainscale's own progress."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
