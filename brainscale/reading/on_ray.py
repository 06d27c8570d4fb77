"""Reading with Ray Data: small blocks of files, fractions of a CPU, a row for every sample."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data import DataContext, Dataset

from brainscale import progress
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
LOOK_SECONDS = 1.0
"""Seconds between two looks at what tasks have sent."""
LATE_SECONDS = 5.0
"""Seconds after which an answer is not waited for: progress is no reason to hold up the work."""


@ray.remote(num_cpus=0)
class _Messages:
    """Messages of tasks until the driver takes them."""

    def __init__(self) -> None:
        self._messages: list[Any] = []

    def put(self, message: Any) -> None:
        """Add a message."""
        self._messages.append(message)

    def take(self) -> list[Any]:
        """Return all messages since the last call."""
        taken, self._messages = self._messages, []
        return taken


class Mailbox:
    """Takes small messages of tasks and workers to the driver, on the connected Ray; one may be lost."""

    def __init__(self) -> None:
        self._messages: Any = _Messages.remote()  # type: ignore[attr-defined]

    def send(self, message: Any) -> None:
        """Send a message, from any process, without waiting."""
        self._messages.put.remote(message)

    @contextmanager
    def received_by(self, on_message: Callable[[Any], None]) -> Iterator[None]:
        """Call a function, in a thread, with the messages that arrive during the with-block."""
        stop = threading.Event()

        def take() -> None:
            try:
                messages = ray.get(self._messages.take.remote(), timeout=LATE_SECONDS)
            except Exception:  # noqa: BLE001 (while Ray shuts down, it raises errors of many kinds)
                return
            for message in messages:
                on_message(message)

        def follow() -> None:
            while not stop.wait(LOOK_SECONDS):
                take()

        thread = threading.Thread(target=follow, name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(LATE_SECONDS)


@dataclass(frozen=True)
class LazyRows:
    """A table that Ray computes when it is asked for; the driver tells how far that is.

    Attributes:
        dataset: computes it.
        files: number of files to read.
        nbytes: their size; 0 if it is not known.
        mailbox: where tasks tell how many files they have read, and their bytes; None if nobody watches.
    """

    dataset: Dataset
    files: int = 0
    nbytes: int = 0
    mailbox: Mailbox | None = None

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
        if self.mailbox is None:
            return list(self.dataset.materialize().to_arrow_refs())
        stage = progress.stage("reading", self.files, "files", self.nbytes)
        with self.mailbox.received_by(lambda read: stage.advance(read[0], nbytes=read[1])):
            return list(self.dataset.materialize().to_arrow_refs())


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
    mailbox = Mailbox() if progress.is_watched() else None
    read_block = read if mailbox is None else partial(_read_and_tell, read=read, mailbox=mailbox)
    options: dict[str, Any] = {"batch_format": "pyarrow", "batch_size": None, "num_cpus": READ_CPUS}
    mapped = dataset.map_batches(read_block, **options, concurrency=workers)
    return LazyRows(mapped, len(files), sum(file.nbytes or 0 for file in files), mailbox)


def _read_and_tell(
    table: pa.Table, read: Callable[[pa.Table], Iterator[pa.Table]], mailbox: Mailbox
) -> Iterator[pa.Table]:
    """Read the files of a block and send how many they were, and their bytes."""
    yield from read(table)
    mailbox.send((len(table), pc.sum(table["nbytes"]).as_py() or 0))


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
