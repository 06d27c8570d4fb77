"""Large tables: a folder of Parquet shards, sorted by sample_id, and a `_SUCCESS.json` that lists those that count.

The order of the shards' names is that of the ids. A name ends with a hash of the shard's bytes, so that a new version
of a table stands beside the old one until a new `_SUCCESS.json` replaces the list; then the old shards are removed.
"""

import hashlib
import io
import json
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from brainscale.errors import RERUN, FormatError, OutputError, StorageError
from brainscale.schema import FORMATS
from brainscale.storage.formats import is_folder_name
from brainscale.storage.local import SUCCESS, make_folder, read_success, replacing, write_success
from brainscale.storage.remote import ObjectStore, is_address, join_address, split_address
from brainscale.storage.tables import read_table, stamp_table
from brainscale.version import __version__


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file of a table.

    Attributes:
        name: name of the file in the folder.
        rows: number of rows, at least 1.
        first: smallest sample_id.
        last: largest sample_id.
    """

    name: str
    rows: int
    first: str
    last: str


@dataclass(frozen=True, kw_only=True)
class ShardedTable:
    """A complete folder of shards.

    Attributes:
        location: path or address of the folder.
        kind: a name in `schema.FORMATS`.
        shards: the files, in the order of their ids.
    """

    location: str
    kind: str
    shards: tuple[Shard, ...]

    @property
    def rows(self) -> int:
        """Number of rows of all shards."""
        return sum(shard.rows for shard in self.shards)

    def read(self, shard: Shard, columns: Sequence[str] | None = None) -> pa.Table:
        """Read one shard.

        Raises:
            OutputError: it is missing, as when the table was replaced meanwhile, or cannot be read.
            FormatError: it is of another kind or version.
        """
        try:
            return read_table(place_in(self.location, shard.name), self.kind, columns)
        except FileNotFoundError:
            raise OutputError(
                f"{self.location} lists {shard.name}, which is missing: {RERUN}, or write the {self.kind} again"
            ) from None

    def schema(self) -> pa.Schema:
        """Return the schema of the first shard, with its metadata."""
        return self.read(self.shards[0], ["sample_id"]).schema

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Read the shards, one at a time."""
        return (self.read(shard, columns) for shard in self.shards)


def place_in(location: str | Path, name: str) -> str:
    """Return the path or address of a file in a folder."""
    return join_address(str(location), name) if is_address(location) else str(Path(location) / name)


def has_shards(location: str | Path, kind: str) -> bool:
    """Return whether a folder has shards of a kind of table, complete or not."""
    if is_address(location):
        return _facts_of(location, kind) is not None
    folder = Path(location)
    if not folder.is_dir():
        return False
    return _facts_of(location, kind) is not None or any(_is_shard(path.name, kind) for path in folder.iterdir())


def open_shards(location: str | Path, kind: str) -> ShardedTable | None:
    """Return the shards that a folder lists, or None if it is no folder with shards of this kind.

    Raises:
        OutputError: the folder is not complete.
        FormatError: another version of brainscale wrote it.
        StorageError: the object store refuses, or does not answer.
    """
    facts = _facts_of(location, kind)
    if facts is not None:
        place = str(location) if is_address(location) else str(Path(location).absolute())
        return ShardedTable(location=place, kind=kind, shards=tuple(Shard(**shard) for shard in facts["shards"]))
    if any(_is_shard(name, kind) for name in _names_in(location)):
        raise OutputError(f"{location} is not complete, since it has no {SUCCESS}: write the {kind} again")
    return None


def origin_of_shards(location: str | Path, kind: str) -> str | None:
    """Return the origin of a complete folder of shards, empty if it does not say; None for anything else.

    Raises:
        FormatError: another version of brainscale wrote it.
        StorageError: the object store refuses, or does not answer.
    """
    facts = _facts_of(location, kind)
    return None if facts is None else str(facts.get("origin") or "")


def write_shard(table: pa.Table, location: str | Path, kind: str, number: int) -> Shard:
    """Write one shard; what it replaces stays until `finish_shards`. May run in any process.

    Args:
        table: its rows, at least one, sorted by sample_id.
        location: path or address of the folder, which exists.
        kind: a name in `schema.FORMATS`.
        number: place among the shards, from 0.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(stamp_table(table, kind), sink, compression="zstd")
    content = sink.getvalue()
    name = f"{kind}-{number:06d}-{hashlib.sha256(content).hexdigest()[:8]}.parquet"
    if is_address(location):
        ObjectStore(str(location)).put(name, io.BytesIO(content))
    else:
        with replacing(Path(location) / name) as aside:
            aside.write_bytes(content)
    ids = table["sample_id"]
    return Shard(name=name, rows=len(table), first=ids[0].as_py(), last=ids[-1].as_py())


def finish_shards(location: str | Path, kind: str, shards: Sequence[Shard], origin: str | None = None) -> ShardedTable:
    """List the shards that count, and remove those of an earlier version of the table.

    Args:
        location: path or address of the folder.
        kind: a name in `schema.FORMATS`.
        shards: in the order of their ids.
        origin: as in `write_table`.

    Raises:
        OutputError: the shards are not in the order of their ids, or the list cannot be written.
        StorageError: the object store refuses, or does not answer.
    """
    if any(one.last >= other.first for one, other in pairwise(shards)):
        raise OutputError(f"the shards of {location} overlap: {RERUN}")
    facts: dict[str, Any] = {"table": kind, "origin": origin, "rows": sum(shard.rows for shard in shards)}
    facts["shards"] = [asdict(shard) for shard in shards]
    listed = {shard.name for shard in shards}
    if is_address(location):
        text = json.dumps({**facts, "brainscale": __version__, "format": FORMATS["folder"]}, indent=2)
        ObjectStore(str(location)).put(SUCCESS, io.BytesIO(text.encode()))
    else:
        write_success(Path(location), facts)
    _remove_others(location, kind, listed)
    return ShardedTable(location=str(location), kind=kind, shards=tuple(shards))


def remove_unlisted(location: str | Path, kind: str) -> None:
    """Remove the shards in a folder that its list does not name, as after a failure; without a list, all of them."""
    facts = _facts_of(location, kind)
    _remove_others(location, kind, {shard["name"] for shard in facts["shards"]} if facts else set())


def _remove_others(location: str | Path, kind: str, listed: set[str]) -> None:
    names = [name for name in _names_in(location) if _is_shard(name, kind) and name not in listed]
    if is_address(location):
        ObjectStore(str(location)).remove(names)
    else:
        for name in names:
            Path(location, name).unlink(missing_ok=True)


def open_as_shards(location: str, kind: str) -> ShardedTable | None:
    """Return a table of either form as shards; one file is one. None if there is no such table.

    Raises:
        OutputError: a folder is not complete, or a file cannot be read.
        FormatError: the table is of another kind or version.
        StorageError: the object store refuses, or does not answer.
    """
    if is_address(location) and not is_folder_name(location):
        with suppress(FileNotFoundError):
            rows = len(read_table(location, kind, ["sample_id"]))
            parent, name = split_address(location)
            return _one_shard(parent, kind, name, rows)
    elif not is_address(location) and Path(location).is_file():
        path = Path(location).absolute()
        return _one_shard(str(path.parent), kind, path.name, len(read_table(path, kind, ["sample_id"])))
    return open_shards(location, kind)


def _one_shard(folder: str, kind: str, name: str, rows: int) -> ShardedTable:
    return ShardedTable(location=folder, kind=kind, shards=(Shard(name=name, rows=rows, first="", last=""),))


@contextmanager
def prepare_folder(location: str | Path) -> Iterator[str]:
    """Yield the folder to write shards to. A file in its place, the table's other form, is replaced at the end.

    Args:
        location: path or address of the table; its old version stays until `finish_shards`.

    Raises:
        OutputError: the folder cannot be written.
        StorageError: the object store refuses, or does not answer.
    """
    if is_address(location):
        yield str(location)
        if not is_folder_name(location):
            parent, name = split_address(str(location))
            ObjectStore(parent).remove([name])
        return
    folder = Path(location).absolute()
    aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp") if folder.is_file() else folder
    make_folder(aside)
    try:
        yield str(aside)
        if aside != folder:
            folder.unlink()
            aside.rename(folder)
    finally:
        if aside != folder:
            shutil.rmtree(aside, ignore_errors=True)


def write_shards(
    tables: Iterable[pa.Table], location: str | Path, kind: str, origin: str | None = None
) -> ShardedTable:
    """Write a folder of shards: a table for each, in the order of their ids. It is complete, or its old version stays.

    Raises:
        OutputError: the folder cannot be written.
        StorageError: the object store refuses, or does not answer.
    """
    with prepare_folder(location) as folder:
        shards = [write_shard(table, folder, kind, number) for number, table in enumerate(tables)]
        finish_shards(folder, kind, shards, origin)
    return ShardedTable(location=str(location), kind=kind, shards=tuple(shards))


def remove_shards(address: str, kind: str) -> None:
    """Remove the shards below an address in an object store, after the table was written there as one object."""
    store = ObjectStore(address)
    names = [name for name in store.names() if name == SUCCESS or _is_shard(name, kind)]
    store.remove(sorted(names, key=lambda name: name != SUCCESS))


def _is_shard(name: str, kind: str) -> bool:
    return re.fullmatch(rf"{kind}-\d{{6}}-[0-9a-f]{{8}}\.parquet", name) is not None


def _names_in(location: str | Path) -> list[str]:
    """Return the names of the files in a folder; none if there is no such folder."""
    if is_address(location):
        return sorted(ObjectStore(str(location)).names())
    with suppress(FileNotFoundError, NotADirectoryError):
        return sorted(path.name for path in Path(location).iterdir())
    return []


def _facts_of(location: str | Path, kind: str) -> Mapping[str, Any] | None:
    """Return what a folder of shards says of itself, or None if it has none of this kind, or is not complete.

    Raises:
        FormatError: another version of brainscale wrote it.
        StorageError: the object store refuses, or does not answer.
    """
    if not is_address(location):
        try:
            facts = read_success(Path(location))
        except (OutputError, FormatError):
            if any(_is_shard(name, kind) for name in _names_in(location)):
                raise
            return None
    else:
        try:
            facts = json.loads(ObjectStore(str(location)).get(SUCCESS))
        except (FileNotFoundError, ValueError):
            return None
        except StorageError as error:
            if not error.final:
                raise
            return None
        if isinstance(facts, dict) and facts.get("table") == kind and facts.get("format") != FORMATS["folder"]:
            raise FormatError(f"{location} was written by another version of brainscale: write the {kind} again")
    return facts if isinstance(facts, dict) and facts.get("table") == kind else None
