"""Parquet tables: written whole or not at all, opened once, and marked with the version of their format."""

import io
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from brainscale.errors import FormatError, OutputError, first_line
from brainscale.schema import FORMATS
from brainscale.storage.local import make_folder, replacing
from brainscale.storage.remote import ObjectStore, filesystem_of, is_address, retrying, split_address

KEY = b"brainscale.format"
"""Metadata key of a table: its value is the table's kind and the version of its format, such as `manifest 1`."""
ORIGIN = b"brainscale.origin"
"""Metadata key of a table that a user named: the command that made it, with a hash of its inputs and options."""


def write_table(table: pa.Table, location: str | Path, kind: str, origin: str | None = None) -> None:
    """Write a table whole or not at all; a missing local folder is created.

    Args:
        table: the table.
        location: path or address of the file.
        kind: a name in `schema.FORMATS`.
        origin: what `ownership.describe_origin` returned, for a table that the same command may replace.

    Raises:
        OutputError: the file cannot be written.
        StorageError: the object store refuses, or does not answer.
    """
    if is_address(location):
        folder, name = split_address(str(location))
        ObjectStore(folder).put(name, io.BytesIO(table_bytes(table, kind, origin)))
        return
    path = Path(location).absolute()
    make_folder(path.parent)
    # the file is closed on a full disk too, where pyarrow would leave it open
    with replacing(path) as aside, pa.OSFile(str(aside), "wb") as sink:
        pq.write_table(stamp_table(table, kind, origin), sink, compression="zstd")
    pa.default_memory_pool().release_unused()  # the columns in one piece: hundreds of megabytes of a large table


def table_bytes(table: pa.Table, kind: str, origin: str | None = None) -> pa.Buffer:
    """Return the bytes of a Parquet file with a table.

    Args:
        table: the table.
        kind: a name in `schema.FORMATS`.
        origin: as in `write_table`.
    """
    sink = pa.BufferOutputStream()  # not BytesIO, which pyarrow may close before an upload is tried again
    pq.write_table(stamp_table(table, kind, origin), sink, compression="zstd")
    return sink.getvalue()


def stamp_table(table: pa.Table, kind: str, origin: str | None = None) -> pa.Table:
    """Return a table marked with its kind, the version of its format, and its origin, which replaces an earlier one.

    Each column is one piece, since pages are cut at the ends of pieces: so the same rows give the same bytes.
    """
    stamp = {KEY: f"{kind} {FORMATS[kind]}".encode(), **({} if origin is None else {ORIGIN: origin.encode()})}
    kept = {name: value for name, value in (table.schema.metadata or {}).items() if name != ORIGIN}
    return table.replace_schema_metadata(kept | stamp).combine_chunks()


def read_table(
    location: str | Path, kind: str, columns: Sequence[str] | None = None, *, unstamped: bool = False
) -> pa.Table:
    """Read a table.

    The file is opened only once, so that a reader sees a whole table while another process replaces it.

    Args:
        location: path or address of the file.
        kind: a name in `schema.FORMATS`.
        columns: names of the columns to read; None for all.
        unstamped: whether to accept a table without a format version, as other tools write it.

    Raises:
        FileNotFoundError: there is no such file.
        OutputError: the file cannot be read, or is not a Parquet file.
        FormatError: the table is of another kind or version.
        StorageError: the object store refuses, or does not answer.
    """
    try:
        if is_address(location):
            folder, name = split_address(str(location))
            filesystem, root = filesystem_of(folder)
            table = retrying(lambda: _read(filesystem.open_input_file(f"{root}/{name}"), columns), str(location))
        else:
            table = _read(pa.OSFile(str(location)), columns)
    except FileNotFoundError:
        raise
    except (pa.ArrowInvalid, OSError) as error:
        raise OutputError(
            f"{location} cannot be read as a Parquet file ({first_line(error)}): give another file"
        ) from error
    stamp = (table.schema.metadata or {}).get(KEY, b"").decode()
    if stamp != f"{kind} {FORMATS[kind]}" and (stamp or not unstamped):
        raise FormatError(_refusal(location, kind, stamp))
    return table


def _read(file: pa.NativeFile, columns: Sequence[str] | None) -> pa.Table:
    with file:
        return pq.ParquetFile(file).read(columns=None if columns is None else list(columns))


def _refusal(location: str | Path, kind: str, stamp: str) -> str:
    stamped_kind, _, version = stamp.partition(" ")
    if not stamp:
        problem = "has no format version: an older brainscale or another tool wrote it"
    elif stamped_kind != kind:
        return f"{location} is a table of {stamped_kind}, not of {kind}: give another file"
    else:
        problem = f"has format {version} of {kind}, but this version of brainscale reads format {FORMATS[kind]}"
    return f"{location} {problem}; write the table again with this version"
