"""Files → blocks: each becomes one part, whose name follows from what it must hold.

Blocks are cut by content, not by position: one ends after a file whose hash says so. A file that is new therefore
changes its own block, and no other.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby

import pyarrow as pa

from brainscale.hashing import fingerprint
from brainscale.reading.file_tables import file_table, files_in
from brainscale.reading.sources import SourceFile

BLOCK_FILES = 64
"""Files of a block of an evaluation."""
MAX_BLOCK_NBYTES = 256 * 2**20
"""Size of the files of a block at most, unless a single file or series is larger."""
LONGEST = 4
"""A block ends after so many times the mean number of files, whatever the hashes say."""
SAMPLE_NBYTES = 100_000
"""Approximate size of a sample in an archive or a volume."""
MIN_BLOCK_ROWS, BLOCKS = 64, 1000
"""Rows of a block at least, and blocks of a large job, roughly: a kill loses a thousandth of the work."""
_EXTRA = [
    pa.field("block", pa.string()),
    pa.field("name", pa.string()),
    pa.field("shown_uri", pa.string()),
    pa.field("version", pa.string()),
    pa.field("kept_in", pa.list_(pa.string())),
    pa.field("series", pa.map_(pa.string(), pa.string())),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockFile:
    """A file in a block.

    Attributes:
        file: what to read.
        name: what the folder calls it: its id, keyed where names are hashed.
        version: of its bytes.
        uri: path or address that its rows show.
        kept_in: names of parts that have its rows, of a file that is gone from the sources.
        series: keyed hash of a series in it → name of that series, where other files have slices of it too.
    """

    file: SourceFile
    name: str
    version: str
    uri: str
    kept_in: tuple[str, ...] = ()
    series: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Files whose rows are in one part, or in numbered parts where they are many.

    Attributes:
        name: hash of the identity, the files and their versions, 16 hexadecimal digits.
        files: the files, those of one series side by side.
    """

    name: str
    files: tuple[BlockFile, ...]

    @property
    def nbytes(self) -> int:
        """Return the size of the files, bytes, as far as it is known."""
        return sum(one.file.nbytes or 0 for one in self.files)


def version_of(file: SourceFile) -> str:
    """Return what changes when a file's rows do: size and time, or the hashes and patients of a manifest's samples."""
    if file.sample_ids is not None:
        return fingerprint([file.sample_ids, file.sha256s, file.patients])[:16]
    return f"{file.nbytes}-{file.modified}"


def estimate_rows(file: SourceFile) -> int:
    """Return the approximate number of samples; that of an archive follows from its size, since it is not read yet."""
    return len(file.sample_ids) if file.sample_ids else max(1, (file.nbytes or 0) // SAMPLE_NBYTES)


def choose_block_files(files: int, rows: int, nbytes: int, max_rows: int) -> int:
    """Return the mean number of files of a block.

    Args:
        files: number of files of the job.
        rows: approximate number of rows.
        nbytes: size of the files.
        max_rows: most rows of one part.
    """
    wanted = min(max(rows // BLOCKS, MIN_BLOCK_ROWS), max_rows // LONGEST)
    by_rows, by_nbytes = files * wanted // max(rows, 1), files * MAX_BLOCK_NBYTES // (LONGEST * max(nbytes, 1))
    return max(1, min(by_rows, by_nbytes))


def cut_blocks(files: Sequence[BlockFile], mean_files: int, identity: Mapping[str, str]) -> Iterator[Block]:
    """Cut files into blocks.

    Args:
        files: in order; those of one series side by side, which are never cut apart.
        mean_files: mean number of files of a block.
        identity: what a score depends on besides the files.
    """
    block: list[BlockFile] = []
    nbytes = 0
    for series in _series_of(files):
        size = sum(one.file.nbytes or 0 for one in series)
        if block and (nbytes + size > MAX_BLOCK_NBYTES or len(block) + len(series) > LONGEST * mean_files):
            yield make_block(block, identity)
            block, nbytes = [], 0
        block += series
        nbytes += size
        if _ends_block(series[0].name, mean_files):
            yield make_block(block, identity)
            block, nbytes = [], 0
    if block:
        yield make_block(block, identity)


def _series_of(files: Iterable[BlockFile]) -> Iterator[list[BlockFile]]:
    """Yield the files that are read together."""
    for group, members in groupby(files, key=lambda one: one.file.group):
        if group is None:
            yield from ([one] for one in members)
        else:
            yield list(members)


def _ends_block(name: str, mean_files: int) -> bool:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) % mean_files == 0


def make_block(files: Sequence[BlockFile], identity: Mapping[str, str]) -> Block:
    """Return a block of the files, with its name."""
    said = [
        [one.name, one.version, one.file.members, _windows_hash(one.file), sorted(one.series.values())] for one in files
    ]
    return Block(name=fingerprint([dict(identity), said])[:16], files=tuple(files))


def _windows_hash(file: SourceFile) -> str | None:
    """Return a hash of the windows that a file's slices get from other files, or from a manifest."""
    if not file.windows:
        return None
    return fingerprint([[sample_id, *asdict(window).values()] for sample_id, window in sorted(file.windows.items())])


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedBlock:
    """A block as it waits and travels: nobody looks at its files on the way.

    Attributes:
        name: name of the block.
        files: number of its files.
        nbytes: their size.
        table: the files, one row each.
    """

    name: str
    files: int
    nbytes: int
    table: pa.Table


def pack_block(block: Block) -> PackedBlock:
    """Return a block as a table."""
    names = [block.name] * len(block.files)
    columns = [[getattr(one, name) for one in block.files] for name in ("name", "uri", "version", "kept_in")]
    series = [list(one.series.items()) for one in block.files]
    table = file_table([one.file for one in block.files])
    for column, values in zip(_EXTRA, [names, *columns, series], strict=True):
        table = table.append_column(column, pa.array(values, column.type))
    return PackedBlock(name=block.name, files=len(set(columns[0])), nbytes=block.nbytes, table=table)


def unpack_blocks(table: pa.Table) -> list[Block]:
    """Return the blocks in the table of one packed block, or of several behind each other."""
    columns = [table[column.name].to_pylist() for column in _EXTRA]
    files: dict[str, list[BlockFile]] = {}
    for file, block, name, uri, version, kept_in, series in zip(files_in(table), *columns, strict=True):
        one = BlockFile(file=file, name=name, version=version, uri=uri, kept_in=tuple(kept_in), series=dict(series))
        files.setdefault(block, []).append(one)
    return [Block(name=name, files=tuple(some)) for name, some in files.items()]
