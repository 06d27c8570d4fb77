"""Reading with Ray Data: small blocks of files, fractions of a CPU, a row for every sample."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import ray
from ray.data import DataContext, Dataset

from brainscale.reading.file_tables import file_table, groups_of
from brainscale.reading.look import look_into
from brainscale.reading.plan import ReadingPlan, Run, plan_reading
from brainscale.reading.portions import cut_archives
from brainscale.reading.reader import namer_of, read_tables
from brainscale.reading.request import ReadRequest
from brainscale.reading.sources import SourceFile

MIN_BLOCK_FILES, MAX_BLOCK_FILES = 64, 1024
"""Files that a task reads at least, unless they are large, and at most."""
TASKS = 4096
"""Tasks of a large job, roughly: each costs the driver milliseconds, and some kilobytes while it lasts."""
MAX_BLOCK_NBYTES = 64 * 2**20
"""Bytes that a task reads at most, unless a single file is larger. Blocks never depend on the cluster."""
READ_CPUS = 0.4
"""CPUs that a reading task asks for: trainers and scorers beside it must find theirs."""


@dataclass(frozen=True)
class LazyRows:
    """A table that Ray computes when it is asked for."""

    dataset: Dataset

    def to_table(self) -> pa.Table:
        """Return all rows in this process: for tables without planes."""
        return pa.concat_tables(ray.get(self.dataset.to_arrow_refs()))

    def to_table_without(self, name: str) -> tuple[pa.Table, Iterator[pa.Table]]:
        """Return all rows without a column that is large, and that column and the sample ids of a block at a time."""
        refs = self.blocks()
        others = ray.get([_drop_column.remote(ref, name) for ref in refs])
        parts = (_select_columns.remote(ref, ["sample_id", name]) for ref in refs)
        return pa.concat_tables(others), (ray.get(part) for part in parts)

    def tables(self) -> Iterator[pa.Table]:
        """Compute the rows and yield them, a block at a time; blocks without rows are left out."""
        return (table for table in map(ray.get, self.blocks()) if len(table))

    def blocks(self) -> list["ray.ObjectRef[pa.Table]"]:
        """Compute the rows once and return references to their Arrow tables in Ray's object store."""
        refs: list[ray.ObjectRef[pa.Table]] = self.dataset.materialize().to_arrow_refs()
        return refs


def read_parallel(
    files: Sequence[SourceFile],
    read: Callable[[pa.Table], Iterator[pa.Table]],
    workers: int | None = None,
    block_files: int | None = None,
) -> LazyRows:
    """Apply a reading function to files in blocks, on the connected Ray.

    Args:
        files: what to read.
        read: table of files → tables of rows; must not raise for a bad file.
        workers: number of tasks that read at the same time; by default as many as there is room for.
        block_files: number of files that a task reads at most; by default, it follows from their number.
    """
    quiet_ray_data()
    dataset = ray.data.from_arrow([file_table(block) for block in cut_blocks(files, block_files)])
    return LazyRows(
        dataset.map_batches(read, batch_format="pyarrow", batch_size=None, num_cpus=READ_CPUS, concurrency=workers)
    )


@ray.remote(num_cpus=0)
def _drop_column(block: pa.Table, name: str) -> pa.Table:
    return block.drop_columns(name)


@ray.remote(num_cpus=0)
def _select_columns(block: pa.Table, names: list[str]) -> pa.Table:
    return block.select(names)


def plan_parallel(
    files: Sequence[SourceFile], request: ReadRequest, wanted: Iterable[str] | None = None, *, name_series: bool = False
) -> ReadingPlan:
    """Find the files that share a series, on the connected Ray.

    Args:
        files: all files of the sources.
        request: what will be read of them.
        wanted: ids of the files to read; by default all.
        name_series: whether the names of series are needed where their windows are not.
    """
    facts_only = request.facts_only()

    def run(read: Callable[[pa.Table], Iterator[pa.Table]]) -> Run:
        return lambda some: read_parallel(some, read).tables()

    look, measure = run(partial(look_into, request=request)), run(partial(read_tables, request=facts_only))
    return plan_reading(
        cut_parallel(files, request),
        request.preprocess,
        look,
        measure,
        wanted,
        name_of=namer_of(request),
        name_series=name_series,
    )


def cut_parallel(files: Sequence[SourceFile], request: ReadRequest) -> list[SourceFile]:
    """Return files with portions in the place of large archives that can be cut, on the connected Ray."""
    return cut_archives(files, request, lambda some, read: read_parallel(some, read).tables())


def cut_blocks(files: Sequence[SourceFile], block_files: int | None = None) -> Iterator[list[SourceFile]]:
    """Cut files, in their order, by number and by bytes: a large archive is a block of its own.

    Files of one group are never cut apart.
    """
    block: list[SourceFile] = []
    block_nbytes = 0
    max_files = block_files or min(max(len(files) // TASKS, MIN_BLOCK_FILES), MAX_BLOCK_FILES)
    for group in groups_of(files):
        nbytes = sum(file.nbytes or 0 for file in group)
        if block and (len(block) + len(group) > max_files or block_nbytes + nbytes > MAX_BLOCK_NBYTES):
            yield block
            block, block_nbytes = [], 0
        block += group
        block_nbytes += nbytes
    if block:
        yield block


def quiet_ray_data() -> None:
    """Turn off Ray Data's own progress: the terminal is brainscale's."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.memory_usage_poll_interval_s = None  # nobody reads it, and asking takes a thread in every task
