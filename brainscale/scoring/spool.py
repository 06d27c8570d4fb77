"""A list of any length: its beginning in memory, the rest in a temporary file, so that memory does not grow with it."""

import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

import pyarrow as pa

Item = TypeVar("Item")
IN_MEMORY = 2**17
"""Items that are kept as they are."""
CHUNK = 2**14
"""Items that are written at a time."""


class Spool(Generic[Item]):
    """A list that is written once and read several times.

    Args:
        to_table: items → table.
        from_table: the reverse.
        items: what to start with.
        in_memory: number of items that are kept as they are.
    """

    def __init__(
        self,
        to_table: Callable[[Sequence[Item]], pa.Table],
        from_table: Callable[[pa.Table], Iterable[Item]],
        items: Iterable[Item] = (),
        in_memory: int = IN_MEMORY,
    ) -> None:
        self._to_table, self._from_table = to_table, from_table
        self._in_memory, self._chunk_size = in_memory, min(in_memory, CHUNK)
        self._first: list[Item] = []
        self._chunk: list[Item] = []
        self._writer: pa.RecordBatchFileWriter | None = None
        self._is_closed = False
        self._file = tempfile.TemporaryFile(prefix="brainscale-")  # noqa: SIM115 (deleted when this list is)
        weakref.finalize(self, self._file.close)
        for item in items:
            self.append(item)

    def append(self, item: Item) -> None:
        """Add an item; not after the list was read."""
        if len(self._first) < self._in_memory:
            self._first.append(item)
            return
        self._chunk.append(item)
        if len(self._chunk) == self._chunk_size:
            self._flush()

    def __iter__(self) -> Iterator[Item]:
        yield from self._first
        if self._chunk:
            self._flush()
        if self._writer is None:
            return
        if not self._is_closed:
            self._writer.close()
            self._is_closed = True
        self._file.seek(0)
        with pa.ipc.open_file(pa.PythonFile(self._file, "r")) as reader:
            for number in range(reader.num_record_batches):
                yield from self._from_table(pa.Table.from_batches([reader.get_batch(number)]))

    def _flush(self) -> None:
        table = self._to_table(self._chunk).combine_chunks()
        if self._writer is None:
            self._writer = pa.ipc.new_file(pa.PythonFile(self._file, "w"), table.schema)
        self._writer.write_table(table, max_chunksize=len(table))
        self._chunk = []
