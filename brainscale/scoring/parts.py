"""The parts of a scores folder: Parquet files with predictions, named by what they must hold.

`part-HASH-ROWS.parquet` holds the rows of one block. A block of very many rows, such as a large archive, has numbered
parts, `part-HASH-00000-ROWS.parquet` and so on; the name of the last one says so. Any number of writers, repeated,
killed or late, write the same rows under the same names: nobody has to own the folder, and a reader's glob meets no
row twice.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property

import pyarrow as pa
import pyarrow.parquet as pq

from brainscale.errors import PASSING, OutputError
from brainscale.models.novelty import count_unusual
from brainscale.schema import FORMATS
from brainscale.storage.folder import Folder
from brainscale.storage.tables import KEY, table_bytes
from brainscale.version import __version__

PART_FILES = "part-*.parquet"
CODES_KEY = "brainscale.codes"
"""Metadata key of a part: error code → number of rows, as JSON."""
UNUSUAL_KEY = "brainscale.unusual"
"""Metadata key of a part: number of rows with a novelty of `models.novelty.UNUSUAL` or more."""
READERS = 16
"""Threads that read the metadata of parts."""
_NAME = re.compile(r"part-([0-9a-f]{16})(?:-(\d{5})(\.last)?)?-(\d+)\.parquet")


@dataclass(frozen=True, kw_only=True, order=True)
class Part:
    """A part, by its name.

    Attributes:
        block: name of its block.
        number: of the part in its block, from 0.
        last: whether the block has no further part.
        rows: number of rows.
    """

    block: str
    number: int = 0
    last: bool = True
    rows: int

    @property
    def name(self) -> str:
        """Return the file name."""
        if self.last and self.number == 0:
            return f"part-{self.block}-{self.rows}.parquet"
        return f"part-{self.block}-{self.number:05d}{'.last' if self.last else ''}-{self.rows}.parquet"


def parse_part(name: str) -> Part | None:
    """Return the part that a file name stands for; None for another file."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    block, number, last, rows = match.groups()
    return Part(block=block, number=int(number or 0), last=number is None or last is not None, rows=int(rows))


@dataclass(frozen=True)
class PartsThere:
    """The parts in a folder.

    Attributes:
        folder: the scores folder.
        parts: block → its parts, in order.
    """

    folder: Folder
    parts: Mapping[str, Sequence[Part]]
    codes: dict[str, Mapping[str, int]] = field(default_factory=dict)
    """File name of a part → error code → number of rows, as far as they were read."""
    unusual: dict[str, int] = field(default_factory=dict)
    """File name of a part → number of unusual rows, of the parts in `codes`."""

    @property
    def names(self) -> list[str]:
        """Return their file names."""
        return [part.name for some in self.parts.values() for part in some]

    @cached_property
    def done(self) -> Mapping[str, Sequence[Part]]:
        """Block → the parts that count, of the blocks that are complete."""
        chosen = {block: self._choose(some) for block, some in self.parts.items()}
        return {block: some for block, some in chosen.items() if some and some[-1].last}

    def begun(self, block: str) -> Sequence[Part]:
        """Return the first parts of a block without a gap."""
        return self._choose(self.parts.get(block, ()))

    def read_codes(self, blocks: Iterable[str]) -> dict[str, Counter[str]]:
        """Return block → error code → number of rows, from the metadata of the parts.

        Raises:
            OutputError: a part is damaged.
        """
        wanted = [part for block in blocks for part in self.done[block]]
        unknown = [part.name for part in wanted if part.name not in self.codes]
        with ThreadPoolExecutor(READERS) as pool:
            self.codes.update(zip(unknown, pool.map(self._read_codes, unknown), strict=True))
        found: dict[str, Counter[str]] = {}
        for part in wanted:
            found.setdefault(part.block, Counter()).update(self.codes[part.name])
        return found

    def count_unusual(self, blocks: Iterable[str]) -> int:
        """Return the number of unusual rows of blocks whose codes were read."""
        return sum(self.unusual[part.name] for block in blocks for part in self.done[block])

    def _choose(self, parts: Sequence[Part]) -> Sequence[Part]:
        """Return the first parts of a block without a gap.

        Where several have one number, a file could not be read for a while: those without such an error count, or else
        those of more rows.
        """
        by_number: dict[int, list[Part]] = {}
        for part in parts:
            by_number.setdefault(part.number, []).append(part)
        count = next(number for number in range(len(by_number) + 1) if number not in by_number)
        chosen: list[Part] = []
        for number in reversed(range(count)):
            chains = [[part] if part.last else [part, *chosen] for part in by_number[number]]
            chosen = chains[0] if len(chains) == 1 else max(chains, key=self._rank)
        return chosen

    def _rank(self, parts: Sequence[Part]) -> tuple[bool, int]:
        try:
            codes = [code for part in parts for code in self._codes_of(part.name)]
        except OutputError:  # another job has just deleted the part that no longer counts
            return False, 0
        return not has_passing(codes), sum(part.rows for part in parts)

    def _codes_of(self, name: str) -> Mapping[str, int]:
        if name not in self.codes:
            self.codes[name] = self._read_codes(name)
        return self.codes[name]

    def _read_codes(self, name: str) -> Mapping[str, int]:
        metadata = read_metadata(self.folder, name)
        self.unusual[name] = int(metadata.get(UNUSUAL_KEY, "0"))
        return json.loads(metadata.get(CODES_KEY, "{}"))  # type: ignore[no-any-return]


def list_parts(folder: Folder) -> PartsThere:
    """List the parts in a folder."""
    parts: dict[str, list[Part]] = {}
    for part in sorted(filter(None, map(parse_part, folder.list_names(PART_FILES)))):
        parts.setdefault(part.block, []).append(part)
    return PartsThere(folder, parts)


def has_passing(codes: Iterable[str]) -> bool:
    """Return whether an error may be gone when its file is read again."""
    return not PASSING.isdisjoint(codes)


def write_part(folder: Folder, part: Part, rows: pa.Table, identity: Mapping[str, str], arithmetic: str) -> None:
    """Write a part whole or not at all.

    Args:
        folder: the scores folder.
        part: its name.
        rows: schema PREDICTIONS.
        identity: metadata that all parts of the folder share.
        arithmetic: what computed the probabilities.

    Raises:
        OutputError: the part cannot be written, or the folder is gone.
        StorageError: the store refuses, or does not answer.
    """
    codes = Counter(code for code in rows["error_code"].to_pylist() if code is not None)
    counts = {CODES_KEY: json.dumps(codes, sort_keys=True), UNUSUAL_KEY: str(unusual_rows(rows))}
    facts = {**counts, "arithmetic": arithmetic, "brainscale": __version__}
    table = rows.replace_schema_metadata({**identity, **facts})
    folder.write(part.name, table_bytes(table, "predictions"))


def unusual_rows(rows: pa.Table) -> int:
    """Return the number of unusual rows of a table of schema PREDICTIONS."""
    return count_unusual(rows["novelty"].to_numpy())


def read_metadata(folder: Folder, name: str) -> dict[str, str]:
    """Return the metadata of a part.

    Raises:
        OutputError: the part is damaged, or of another version.
    """
    try:
        with folder.open(name) as source:
            metadata = pq.ParquetFile(source).schema_arrow.metadata or {}
    except (pa.ArrowInvalid, OSError) as error:
        problem = f"{folder.locate(name)} cannot be read ({error})"
        raise OutputError(f"{problem}: delete it, and its rows will be scored again") from None
    if metadata.get(KEY, b"").decode() != f"predictions {FORMATS['predictions']}":
        raise OutputError(f"{folder.locate(name)} was written by another version of brainscale: choose a new --out")
    return {key.decode(): value.decode() for key, value in metadata.items()}


def read_rows(folder: Folder, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return rows of a part.

    Raises:
        OutputError: the part is damaged.
    """
    try:
        with folder.open(name) as source:
            return pq.ParquetFile(source).read(columns=None if columns is None else list(columns))
    except (pa.ArrowInvalid, OSError) as error:
        problem = f"{folder.locate(name)} cannot be read ({error})"
        raise OutputError(f"{problem}: delete it, and its rows will be scored again") from None


def read_predictions(folder: Folder, parts: Sequence[str], columns: Sequence[str]) -> pa.Table:
    """Return the given columns of some parts."""
    return pa.concat_tables(read_rows(folder, name, columns) for name in parts)
