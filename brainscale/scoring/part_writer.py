"""Rows of a block → its parts; a file that has changed since it was listed has an error instead of its rows."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from brainscale.reading.request import ReadRequest
from brainscale.reading.sample_ids import file_of
from brainscale.reading.sources import SourceFile
from brainscale.reading.versions import has_changed
from brainscale.schema import PREDICTIONS
from brainscale.scoring.blocks import Block, BlockFile
from brainscale.scoring.parts import Part, read_rows, unusual_rows, write_part
from brainscale.storage.folder import Folder

PART_NBYTES = 256 * 2**20
"""Size of the planes of the rows in one part: a block of more rows has several parts."""
STORE_REQUESTS = 16
"""Requests to a store at a time."""
CHANGED = {
    "error_code": "changed",
    "error": "the file is not the one that was listed: run the same command again to score it as it is now",
}


def part_rows(image_size: int) -> int:
    """Return the most rows of one part, for planes of image_size × image_size."""
    return PART_NBYTES // image_size**2


class PartWriter:
    """Writes the rows of one block as they come."""

    def __init__(
        self,
        folder: Folder,
        block: Block,
        identity: Mapping[str, str],
        arithmetic: str,
        parts_done: int,
        on_rows: Callable[[pa.Table, float], None],
    ) -> None:
        self._folder, self._block, self._identity, self._arithmetic = folder, block, identity, arithmetic
        self._on_rows = on_rows
        self._began: float | None = None  # when the first rows of a part came
        self._waiting: list[pa.Table] = []
        self._rows = self._number = 0
        self._parts_done = parts_done
        self._done: list[tuple[Part, Counter[str]]] = []
        self.unusual = 0
        self._changed: set[str] = set()  # files with a row that says so

    def add(self, rows: pa.Table, limit: int, request: ReadRequest) -> None:
        """Add rows, and write a part when more of them wait than fit into one."""
        self._began = self._began or time.monotonic()
        self._waiting.append(rows)
        self._rows += len(rows)
        while self._rows > limit:
            table = pa.concat_tables(self._waiting)
            self._write(table.slice(0, limit), request, last=False)
            self._waiting, self._rows = [table.slice(limit)], self._rows - limit

    def finish(self, request: ReadRequest) -> list[tuple[Part, Counter[str]]]:
        """Write the last part, and return all that were written with their error codes."""
        rows = pa.concat_tables(self._waiting) if self._waiting else PREDICTIONS.empty_table()
        self._write(rows, request, last=True)
        return self._done

    def _write(self, rows: pa.Table, request: ReadRequest, *, last: bool) -> None:
        number, self._number = self._number, self._number + 1
        if number < self._parts_done:
            return
        rows = self._with_changes(rows, request)
        part = Part(block=self._block.name, number=number, last=last, rows=len(rows))
        write_part(self._folder, part, rows, self._identity, self._arithmetic)
        self._done.append((part, Counter(code for code in rows["error_code"].to_pylist() if code is not None)))
        self.unusual += unusual_rows(rows)
        now = time.monotonic()
        self._on_rows(rows, now - (self._began or now))
        self._began = now

    def _with_changes(self, rows: pa.Table, request: ReadRequest) -> pa.Table:
        """Return rows in which a file that has changed since it was listed has an error instead of its rows."""
        ids = rows["sample_id"].to_pylist()
        present = {file_of(sample_id) for sample_id in ids}
        files = [one for one in self._block.files if one.name in present and not one.kept_in]
        changes = _changes([one.file for one in files])
        changed = [one for one, other in zip(files, changes, strict=True) if other]
        if not changed:
            return rows
        names = {one.name for one in changed}
        kept = rows.filter(pa.array([file_of(sample_id) not in names for sample_id in ids]))
        common = {"model": rows["model"][0].as_py(), **CHANGED}
        hidden = rows["uri"][0].as_py() if request.hash_paths else None
        errors = {_error_id(one): {**common, "uri": hidden or one.uri} for one in changed}
        new = [{"sample_id": name, **row} for name, row in errors.items() if name not in self._changed]
        self._changed |= errors.keys()
        return pa.concat_tables([kept, pa.Table.from_pylist(new, PREDICTIONS)])


def _error_id(one: BlockFile) -> str:
    """Return the id of a row for a whole file, or for a whole portion of one."""
    return one.name + one.file.key.removeprefix(one.file.sample_id)


def _changes(files: Sequence[SourceFile]) -> list[bool]:
    """Return which files have changed since they were listed; a store is asked for several at a time."""
    if not any("://" in file.uri for file in files):
        return [has_changed(file) for file in files]
    with ThreadPoolExecutor(STORE_REQUESTS) as pool:
        return list(pool.map(has_changed, files))


def kept_rows(block: Block, folder: Folder) -> Iterator[pa.Table]:
    """Yield the rows of files that are gone from the sources, from the parts that have them."""
    kept: dict[str, set[str]] = {}
    for one in block.files:
        for part in one.kept_in:
            kept.setdefault(part, set()).add(one.name)
    for part, names in kept.items():
        rows = read_rows(folder, part, PREDICTIONS.names)
        rows = rows.filter(pa.array([file_of(sample_id) in names for sample_id in rows["sample_id"].to_pylist()]))
        yield rows.replace_schema_metadata(None)
