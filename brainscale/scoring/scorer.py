"""Score blocks: several threads read files ahead of one engine, and the rows of each block become parts."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.models.engines import EngineOptions, describe_arithmetic
from brainscale.models.graphs import open_fastest
from brainscale.reading.ahead import Readers
from brainscale.reading.children import prepare_decoder
from brainscale.reading.file_tables import file_table, groups_of
from brainscale.reading.reader import namer_of, read_tables
from brainscale.reading.request import ReadRequest
from brainscale.reading.sample import COLUMNS
from brainscale.reading.sample_ids import file_of
from brainscale.reading.sources import SourceFile
from brainscale.scoring.blocks import Block
from brainscale.scoring.part_writer import PartWriter, kept_rows, part_rows
from brainscale.scoring.parts import Part, PartsThere, has_passing, list_parts
from brainscale.scoring.predictions import ScoringJob, score_rows, stack_planes
from brainscale.scoring.series_names import SeriesNames
from brainscale.storage.folder import Folder

BATCH_ROWS, GPU_BATCH_ROWS = 64, 1024
"""Rows that an engine gets at a time."""
READ_FILES, READ_NBYTES = 16, 8 * 2**20
"""Files, and their bytes, that a thread reads at a time, roughly."""
LOOK_SECONDS = 2.0
"""Seconds between two looks for parts that other jobs have written; more where a look takes long."""
CALLS_AHEAD = 1
"""Calls of the engine that begin before the previous one has ended; torch begins them one after another."""
OTHER_BYTES = "the bytes are not those that the manifest describes: index the source again"


@dataclass(frozen=True, kw_only=True)
class BlockDone:
    """What became of a block.

    Attributes:
        block: its name.
        parts: names of the parts written for it; none if other jobs had written them.
        files: number of its files.
        nbytes: their size.
        rows: number of rows written.
        codes: error code → number of rows written.
        unusual: number of unusual rows written.
        notes: what was odd about files that were read all the same → number of samples.
    """

    block: str
    parts: tuple[str, ...] = ()
    files: int = 0
    nbytes: int = 0
    rows: int = 0
    codes: Mapping[str, int] = field(default_factory=dict)
    unusual: int = 0
    notes: Mapping[str, int] = field(default_factory=dict)


class Scorer:
    """An engine, and threads that read for it. Ends with the `with` block.

    Args:
        job: the model, and how to run it.
        options: options from `resolve_engine`.
        graphs: what `make_graphs` returned.
        threads: number of threads of the engine.
        readers: number of threads that read.
    """

    def __init__(
        self, job: ScoringJob, options: EngineOptions, graphs: Mapping[str, bytes], *, threads: int, readers: int
    ) -> None:
        self._job, self._request = job, request_of(job)
        self._readers = Readers(readers, partial(prepare_decoder, self._request))  # beside the engine's start
        try:
            self._engine, graph = open_fastest(job.bundle.info, graphs, options, threads=threads)
        except BaseException:
            self._readers.__exit__()
            raise
        self._batch_rows = GPU_BATCH_ROWS if options.on_gpu else BATCH_ROWS
        self._arithmetic = describe_arithmetic(options, graph)
        self._calls = ThreadPoolExecutor(1 if options.name == "torch" else 1 + CALLS_AHEAD, "engine")

    def __enter__(self) -> "Scorer":
        return self

    def __exit__(self, *error: object) -> None:
        self._readers.__exit__(*error)
        self._calls.shutdown(cancel_futures=True)

    def predict(self, blocks: Iterable[Block]) -> Iterator[pa.Table]:
        """Yield the predictions of blocks, schema PREDICTIONS, in their order."""
        for _, predictions in self._predict(_BlockAtWork(block, self._job) for block in blocks):
            if predictions is not None:
                yield predictions

    def extract(self, blocks: Iterable[Block]) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yield the sample ids of some rows that can be read, and their features, float32 [N, D]."""
        for _, tables in self._read(_BlockAtWork(block, self._job) for block in blocks):
            for rows in _in_batches(tables, self._batch_rows):
                readable = rows.filter(pc.is_valid(rows["plane"]))
                planes = stack_planes(readable["plane"], self._request.preprocess.image_size)
                if len(planes):
                    yield readable["sample_id"].to_pylist(), self._engine(planes).features

    def score(
        self,
        blocks: Iterable[Block],
        folder: Folder,
        identity: Mapping[str, str],
        on_rows: Callable[[pa.Table, float], None] = lambda rows, seconds: None,
    ) -> Iterator[BlockDone]:
        """Write the parts of each block, except of blocks that other jobs have written meanwhile.

        Args:
            blocks: the blocks.
            folder: the scores folder.
            identity: metadata of the parts.
            on_rows: called with the rows of each part and the seconds that they took.

        Raises:
            OutputError: a part cannot be written.
        """
        others, limit = _OtherJobs(folder), part_rows(self._request.preprocess.image_size)
        skipped: deque[Block] = deque()
        writers: deque[PartWriter] = deque()  # of the blocks at work

        def left() -> Iterator[_BlockAtWork]:
            for block in blocks:
                if others.have(block):
                    skipped.append(block)
                    continue
                parts_done = others.parts_of(block)
                writers.append(PartWriter(folder, block, identity, self._arithmetic, parts_done, on_rows))
                yield _BlockAtWork(block, self._job, rows_done=parts_done * limit)

        for at_work, predictions in self._predict(left()):
            while skipped:
                yield _counted(skipped.popleft())
            if predictions is not None:
                writers[0].add(predictions, limit, self._request)
                continue
            writer = writers.popleft()
            for rows in kept_rows(at_work.block, folder):
                writer.add(rows, limit, self._request)
            done = writer.finish(self._request)
            yield _counted(at_work.block, done, at_work.notes, writer.unusual)
        while skipped:
            yield _counted(skipped.popleft())

    def _predict(self, blocks: Iterable["_BlockAtWork"]) -> Iterator[tuple["_BlockAtWork", pa.Table | None]]:
        """Yield a block and predictions for each batch, in order, and the block and None after its last batch.

        The engine's next call begins before the previous one has ended, also that of the next block: no CPU waits for
        the slowest image of a batch.
        """
        waiting: deque[tuple[_BlockAtWork, Future[pa.Table] | None]] = deque()
        for block, rows in self._read_batches(blocks):
            waiting.append((block, None if rows is None else self._calls.submit(self._score, rows)))
            while waiting and (waiting[0][1] is None or _count_calls(waiting) > CALLS_AHEAD):
                yield _result(*waiting.popleft())
        while waiting:
            yield _result(*waiting.popleft())

    def _score(self, rows: pa.Table) -> pa.Table:
        return score_rows(rows, self._engine, self._job.bundle, self._job.threshold, with_patients=True)

    def _read_batches(self, blocks: Iterable["_BlockAtWork"]) -> Iterator[tuple["_BlockAtWork", pa.Table | None]]:
        """Yield a block and rows for each batch, in order, and the block and None after its last batch."""
        for block, tables in self._read(blocks):
            for rows in _in_batches(tables, self._batch_rows):
                yield block, block.describe(rows)
            yield block, None

    def _read(self, blocks: Iterable["_BlockAtWork"]) -> Iterator[tuple["_BlockAtWork", Iterator[pa.Table]]]:
        """Read blocks, several ahead, and yield each with its rows, which have to be taken before the next one's."""
        begun: deque[tuple[_BlockAtWork, int]] = deque()

        def jobs() -> Iterator[Callable[[], Iterator[pa.Table]]]:
            for block in blocks:
                portions = list(_cut_portions([one.file for one in block.block.files if not one.kept_in])) or [[]]
                begun.append((block, len(portions)))
                yield from (partial(read_tables, file_table(some), request=self._request) for some in portions)

        results = self._readers.run(jobs())
        for first in results:
            block, count = begun.popleft()
            rest = (next(results) for _ in range(count - 1))
            yield block, chain.from_iterable(chain([first], rest))


def request_of(job: ScoringJob) -> ReadRequest:
    """Return what a job needs to read of each frame."""
    return ReadRequest(preprocess=job.bundle.info.preprocess, key=job.key, hash_paths=job.hash_paths)


def _counted(
    block: Block,
    done: Sequence[tuple[Part, Counter[str]]] = (),
    notes: Mapping[str, int] = MappingProxyType({}),
    unusual: int = 0,
) -> BlockDone:
    return BlockDone(
        block=block.name,
        parts=tuple(part.name for part, _ in done),
        files=len({one.name for one in block.files}),
        nbytes=block.nbytes,
        rows=sum(part.rows for part, _ in done),
        codes=sum((codes for _, codes in done), Counter()),
        unusual=unusual,
        notes=dict(notes),
    )


def _cut_portions(files: Sequence[SourceFile]) -> Iterator[list[SourceFile]]:
    """Cut files into what one thread reads at a time; those of a series stay together."""
    portion: list[SourceFile] = []
    nbytes = 0
    for group in groups_of(files):
        portion += group
        nbytes += sum(file.nbytes or 0 for file in group)
        if len(portion) >= READ_FILES or nbytes >= READ_NBYTES:
            yield portion
            portion, nbytes = [], 0
    if portion:
        yield portion


def _in_batches(tables: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    """Join tables into larger ones of at least so many rows, except the last."""
    waiting: list[pa.Table] = []
    rows = 0
    for table in tables:
        waiting.append(table)
        rows += len(table)
        if rows >= size:
            yield pa.concat_tables(waiting)
            waiting, rows = [], 0
    if rows:
        yield pa.concat_tables(waiting)


def _count_calls(waiting: "Iterable[tuple[_BlockAtWork, Future[pa.Table] | None]]") -> int:
    return sum(future is not None for _, future in waiting)


def _result(block: "_BlockAtWork", future: "Future[pa.Table] | None") -> tuple["_BlockAtWork", pa.Table | None]:
    return block, None if future is None else future.result()


def _without_planes(rows: pa.Table) -> pa.Table:
    place = rows.column_names.index("plane")
    return rows.set_column(place, "plane", pa.nulls(len(rows), COLUMNS.field("plane").type))


class _BlockAtWork:
    """A block, and what it says of its rows: their series, patients and addresses, and which bytes a manifest expects.

    Args:
        block: the block.
        job: the model, and how to run it.
        rows_done: number of its first rows that are in parts already; they are not predicted again.
    """

    def __init__(self, block: Block, job: ScoringJob, rows_done: int = 0) -> None:
        self.block = block
        self.notes: Counter[str] = Counter()
        self._rows_done, self._rows = rows_done, 0
        known: dict[str, str] = {}
        for one in block.files:
            known |= one.series
        self._series = None if job.has_key else SeriesNames(known)
        self._has_key = job.has_key
        name_of = namer_of(request_of(job))
        self._uris = {one.name: one.uri for one in block.files if one.uri != one.file.uri and not job.hash_paths}
        self._patients = {  # of the samples of a manifest, which knows more than their files
            name_of(sample_id): patient
            for one in block.files
            if one.file.patients is not None
            for sample_id, patient in zip(one.file.sample_ids or (), one.file.patients, strict=True)
        }
        self._expected = {
            name_of(sample_id): sha256
            for one in block.files
            for sample_id, sha256 in zip(one.file.sample_ids or (), one.file.sha256s or (), strict=True)
            if sha256 is not None
        }

    def describe(self, rows: pa.Table) -> pa.Table:
        """Return the block's next rows as they are scored; those that are there already have no planes."""
        self.notes.update(note for note in rows["note"].to_pylist() if note is not None)
        self._rows += len(rows)
        rows = self._name(rows)
        return _without_planes(rows) if self._rows <= self._rows_done else rows

    def _name(self, rows: pa.Table) -> pa.Table:
        """Return rows with their series, patients and addresses; those of other bytes become errors.

        A patient's hash is a manifest's, or made with the job's key: without either there is none.
        """
        if self._series is not None:
            rows = self._series.name(rows)
        ids = rows["sample_id"].to_pylist()
        patients = rows["patient"].to_pylist() if self._has_key else [None] * len(ids)
        patients = [self._patients.get(i, patient) for i, patient in zip(ids, patients, strict=True)]
        rows = rows.set_column(rows.column_names.index("patient"), "patient", pa.array(patients, pa.string()))
        if self._uris:
            uris = [self._uris.get(file_of(i), uri) for i, uri in zip(ids, rows["uri"].to_pylist(), strict=True)]
            rows = rows.set_column(rows.column_names.index("uri"), "uri", pa.array(uris, pa.string()))
        if not self._expected:
            return rows
        hashes = zip(ids, rows["sha256"].to_pylist(), strict=True)
        other = pa.array([sha256 is not None and self._expected.get(i, sha256) != sha256 for i, sha256 in hashes])
        if not pc.any(other).as_py():
            return rows
        for name, value in (("plane", None), ("error_code", "changed"), ("error", OTHER_BYTES)):
            kind = COLUMNS.field(name).type
            column = pc.if_else(other, pa.scalar(value, kind), rows[name])
            rows = rows.set_column(rows.column_names.index(name), name, column)
        return rows


class _OtherJobs:
    """Parts that other jobs on the same folder have written, looked up now and then."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._next_look = 0.0
        self._there = PartsThere(folder, {})

    def have(self, block: Block) -> bool:
        """Return whether a block is done, unless its errors may pass."""
        if time.monotonic() >= self._next_look:
            began = time.monotonic()
            self._there = list_parts(self._folder)
            self._next_look = time.monotonic() + max(LOOK_SECONDS, 20 * (time.monotonic() - began))
        if block.name not in self._there.done:
            return False
        return not has_passing(self._there.read_codes([block.name])[block.name])

    def parts_of(self, block: Block) -> int:
        """Return the number of parts of an incomplete block."""
        return 0 if block.name in self._there.done else len(self._there.begun(block.name))
