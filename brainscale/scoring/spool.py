"""Lists of any length: their beginning in memory, the rest in a temporary file, so that memory does not grow."""

import tempfile
import weakref
from collections.abc import Iterable, Iterator

import pyarrow as pa

from brainscale.reading.file_tables import file_table, files_in
from brainscale.reading.sources import SourceFile
from brainscale.scoring.blocks import PackedBlock, estimate_rows

IN_MEMORY_FILES, IN_MEMORY_BLOCKS = 2**15, 16
"""Files and blocks that are kept as they are."""
CHUNK_FILES = 2**14
"""Files that are written at a time."""


class _TableFile:
    """Tables of one schema behind each other in a temporary file, which is deleted with this object."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="brainscale-")  # noqa: SIM115 (see above)
        weakref.finalize(self, self._file.close)
        self._writer: pa.RecordBatchFileWriter | None = None
        self._is_closed = False

    def write(self, table: pa.Table) -> None:
        """Append a table; not after one was read."""
        if self._writer is None:
            self._writer = pa.ipc.new_file(pa.PythonFile(self._file, "w"), table.schema)
        self._writer.write_table(table.combine_chunks(), max_chunksize=max(1, len(table)))

    def read(self) -> Iterator[pa.Table]:
        """Yield the tables."""
        if self._writer is None:
            return
        if not self._is_closed:
            self._writer.close()
            self._is_closed = True
        self._file.seek(0)
        with pa.ipc.open_file(pa.PythonFile(self._file, "r")) as reader:
            for number in range(reader.num_record_batches):
                yield pa.Table.from_batches([reader.get_batch(number)])


class SpooledFiles:
    """The files of the sources, and how much work they are.

    Args:
        files: sorted by id.

    Attributes:
        count: number of files.
        rows: approximate number of rows.
        nbytes: size of the files.
        first_uri: path or address of the first file that has a path, or else of the first file.
    """

    def __init__(self, files: Iterable[SourceFile]) -> None:
        self.count = self.rows = self.nbytes = 0
        self.first_uri: str | None = None
        self._first: list[SourceFile] = []
        self._rest = _TableFile()
        chunk: list[SourceFile] = []
        for file in files:
            self._count(file)
            if self.count <= IN_MEMORY_FILES:
                self._first.append(file)
                continue
            chunk.append(file)
            if len(chunk) == CHUNK_FILES:
                self._rest.write(file_table(chunk))
                chunk = []
        if chunk:
            self._rest.write(file_table(chunk))

    def _count(self, file: SourceFile) -> None:
        self.count += 1
        self.rows += estimate_rows(file)
        self.nbytes += file.nbytes or 0
        if self.first_uri is None or ("://" in self.first_uri and "://" not in file.uri):
            self.first_uri = file.uri

    def __iter__(self) -> Iterator[SourceFile]:
        yield from self._first
        for table in self._rest.read():
            yield from files_in(table)


class SpooledBlocks:
    """The blocks of a job."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._facts: list[tuple[int, int]] = []
        self._first: list[PackedBlock] = []
        self._rest = _TableFile()

    def append(self, block: PackedBlock) -> None:
        """Add a block; not after they were read."""
        self.names.append(block.name)
        self._facts.append((block.files, block.nbytes))
        if len(self.names) <= IN_MEMORY_BLOCKS:
            self._first.append(block)
        else:
            self._rest.write(block.table)

    def facts(self) -> Iterator[tuple[str, int, int]]:
        """Yield the name, the number of files and the size of each block."""
        return ((name, *facts) for name, facts in zip(self.names, self._facts, strict=True))

    def __iter__(self) -> Iterator[PackedBlock]:
        yield from self._first
        spooled = zip(self._rest.read(), self.names[IN_MEMORY_BLOCKS:], self._facts[IN_MEMORY_BLOCKS:], strict=True)
        for table, name, (files, nbytes) in spooled:
            yield PackedBlock(name=name, files=files, nbytes=nbytes, table=table)
