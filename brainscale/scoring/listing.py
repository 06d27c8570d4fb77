"""The listing of a scores folder: its files, their versions and their blocks, written down before anything is scored.

The first listing of a folder binds: jobs that begin later, in parallel or after a kill, score what it says. A later
one, with the next number, extends it by files that are new or have changed. Shards are named by what they say, so jobs
that see the same sources write the same files; where two jobs see different sources at the same moment, the listing
whose name comes first counts. Nothing in `_listing` is Parquet, so a reader's glob meets no other table.
"""

import hashlib
import heapq
import json
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby, islice
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa

from brainscale.errors import FormatError, OutputError
from brainscale.schema import FORMATS
from brainscale.storage.folder import Folder

File = TypeVar("File")
LISTING = "_listing"
LISTED = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),  # id of the file, keyed where names are hashed
        pa.field("version", pa.string(), nullable=False),  # of its bytes: size and time, or the hashes of its samples
        pa.field("uri", pa.string(), nullable=False),  # path or address that the rows show
        pa.field("block", pa.string(), nullable=False),  # block that has its rows, or some of them
    ]
)
SHARD_ROWS = 2**17
"""Approximate rows of a shard: a few MiB."""
_NAME = re.compile(r"(\d{6})-[0-9a-f]{16}\.json")


class ListedFile(NamedTuple):
    """A file in a listing.

    Attributes:
        file: its id, keyed where names are hashed.
        version: of its bytes.
        uri: path or address that its rows show.
        blocks: blocks that have its rows: several for a large archive.
    """

    file: str
    version: str
    uri: str
    blocks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a scores folder covers.

    Attributes:
        number: 0 for the first listing of a folder.
        block_files: mean number of files of a block; kept from listing to listing, so that blocks stay.
        identity: what a score depends on.
        files: number of files.
        shards: names of the files that list them, in order.
    """

    number: int
    block_files: int
    identity: Mapping[str, str]
    files: int = 0
    shards: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Return what the listing's own file says."""
        facts = {
            "format": FORMATS["listing"],
            "block_files": self.block_files,
            "identity": dict(self.identity),
            "files": self.files,
            "shards": list(self.shards),
        }
        return json.dumps(facts, indent=1, sort_keys=True) + "\n"

    @property
    def name(self) -> str:
        """Return the name of the listing's own file, made from what it says."""
        return f"{self.number:06d}-{hashlib.sha256(self.text.encode()).hexdigest()[:16]}.json"


def find_listing(folder: Folder) -> Listing | None:
    """Return the listing that counts in a folder; None where there is none yet.

    Raises:
        FormatError: another version of brainscale wrote it.
        OutputError: it is damaged.
    """
    names = [name for name in folder.list_names("*.json", LISTING) if _NAME.fullmatch(name)]
    if not names:
        return None
    last = max(names)[:6]
    return _read_listing(folder, min(name for name in names if name.startswith(last)))


def _read_listing(folder: Folder, name: str) -> Listing:
    try:
        facts = json.loads(folder.read(f"{LISTING}/{name}") or b"")
    except ValueError:
        raise OutputError(f"{folder}/{LISTING}/{name} is damaged: choose a new --out") from None
    if facts.pop("format") != FORMATS["listing"]:
        raise FormatError(f"{folder} was begun by another version of brainscale: choose a new --out")
    return Listing(number=int(name[:6]), **{**facts, "shards": tuple(facts["shards"])})


def read_listing(folder: Folder, listing: Listing) -> Iterator[ListedFile]:
    """Yield the files of a listing, sorted by id; a shard at a time is open.

    Raises:
        OutputError: a shard is missing or damaged.
    """
    previous: ListedFile | None = None
    for row in _read_rows(folder, listing):
        if previous is not None and previous.file == row.file:  # a large archive has a row for each of its blocks
            previous = previous._replace(blocks=previous.blocks + row.blocks)
            continue
        if previous is not None:
            yield previous
        previous = row
    if previous is not None:
        yield previous


def find_blocks(folder: Folder, wanted: Mapping[str, str], done: Container[str]) -> dict[str, tuple[str, ...]]:
    """Return file → its blocks in the newest of all listings of which all are done.

    Args:
        folder: the scores folder.
        wanted: file → its version.
        done: names of the blocks that are done.
    """
    found: dict[str, tuple[str, ...]] = {}
    for name in sorted(filter(_NAME.fullmatch, folder.list_names("*.json", LISTING)), reverse=True):
        for one in read_listing(folder, _read_listing(folder, name)):
            if wanted.get(one.file) == one.version and all(block in done for block in one.blocks):
                found.setdefault(one.file, one.blocks)
    return found


def has_versions(folder: Folder, listing: Listing, files: Iterable[tuple[str, str]]) -> bool:
    """Return whether a listing names just these files, sorted by id, with just these versions."""
    mine, previous = iter(files), None
    for batch in _read_batches(folder, listing):
        listed = []
        for file, version in zip(batch["file"].to_pylist(), batch["version"].to_pylist(), strict=True):
            if file != previous:  # a large archive has a row for each of its blocks
                listed.append((file, version))
            previous = file
        if list(islice(mine, len(listed))) != listed:
            return False
    return next(mine, None) is None


def _read_rows(folder: Folder, listing: Listing) -> Iterator[ListedFile]:
    for batch in _read_batches(folder, listing):
        for file, version, uri, block in zip(*batch.to_pydict().values(), strict=True):
            yield ListedFile(file, version, uri, (block,))


def _read_batches(folder: Folder, listing: Listing) -> Iterator[pa.RecordBatch]:
    for name in listing.shards:
        try:
            with folder.open(f"{LISTING}/{name}") as source, pa.ipc.open_file(source) as reader:
                for number in range(reader.num_record_batches):
                    yield reader.get_batch(number)
        except (OSError, pa.ArrowInvalid) as error:
            raise OutputError(f"{folder}/{LISTING}/{name} cannot be read ({error}): choose a new --out") from None


class ListingWriter:
    """Writes the shards of a listing as its rows come; `bind` writes the listing itself."""

    def __init__(self, folder: Folder, listing: Listing) -> None:
        self._folder, self._listing = folder, listing
        self._there = set(folder.list_names("*.arrow", LISTING))
        self._shards: list[str] = []
        self._files = 0

    def add(self, rows: Sequence[ListedFile]) -> None:
        """Write a shard.

        Args:
            rows: files whose ids come after those of the shards before, in any order, each with one block.
        """
        rows = sorted(set(rows))  # a large archive may have several portions in one block
        names, versions, uris, blocks = zip(*rows, strict=True)
        columns = [names, versions, uris, [block for (block,) in blocks]]
        table = pa.table([pa.array(column, pa.string()) for column in columns], schema=LISTED)
        said = "\n".join(map("\0".join, zip(names, versions, columns[3], strict=True)))
        name = f"{hashlib.sha256(said.encode()).hexdigest()[:32]}.arrow"
        self._shards.append(name)
        self._files += len(set(names))
        if name not in self._there:  # the first that wrote it decides which paths the rows show
            sink = pa.BufferOutputStream()
            with pa.ipc.new_file(sink, LISTED) as writer:
                writer.write_table(table, max_chunksize=2**16)
            self._folder.write(f"{LISTING}/{name}", sink.getvalue())

    def finish(self) -> Listing:
        """Return the listing of what was added; nothing in the folder points to it yet."""
        return replace(self._listing, files=self._files, shards=tuple(self._shards))


def bind(folder: Folder, listing: Listing) -> Listing:
    """Write a listing, and return the one that counts in the folder: this one, or another job's."""
    folder.write(f"{LISTING}/{listing.name}", listing.text.encode())
    return find_listing(folder) or listing


def merge_by_file(
    files: Iterable[tuple[str, File]], listed: Iterable[ListedFile]
) -> Iterator[tuple[File | None, ListedFile | None]]:
    """Pair files with those of a listing, both sorted by id; either is None where the other side has none."""
    listed = iter(listed)
    first = next(listed, None)
    if first is None:
        yield from ((file, None) for _, file in files)
        return
    mine = ((name, "file", file) for name, file in files)
    theirs = ((one.file, "listed", one) for one in chain([first], listed))
    for _, pair in groupby(heapq.merge(mine, theirs, key=itemgetter(0)), key=itemgetter(0)):
        found: dict[str, Any] = {side: one for _, side, one in pair}
        yield found.get("file"), found.get("listed")
