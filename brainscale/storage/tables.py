"""Parquet tables: written whole or not at all, opened once, each with the version of its format."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from brainscale.errors import FormatError, OutputError, first_line
from brainscale.schema import FORMATS
from brainscale.storage.local import output_folder, replacing
from brainscale.storage.remote import ObjectStore, filesystem_of, is_address, parted, retrying

KEY = b"brainscale.format"
"""Of a table's metadata: its kind and the version of that kind, such as `manifest 1`."""


def write_table(table: pa.Table, place: str | Path, kind: str, *, check: Callable[[], None] = lambda: None) -> None:
    """Write a table that appears whole or not at all; a local folder is made if it is missing.

    Args:
        table: what to write.
        place: a path or an address.
        kind: a name in `schema.FORMATS`.
        check: called once the table is complete and before it appears; what it raises keeps the table away.

    Raises:
        OutputError: the place cannot be written.
        StorageError: an object store refuses, or does not answer.
    """
    stamp = {KEY: f"{kind} {FORMATS[kind]}".encode()}
    stamped = table.replace_schema_metadata({**(table.schema.metadata or {}), **stamp})
    if is_address(place):
        sink = io.BytesIO()
        pq.write_table(stamped, sink, compression="zstd")
        check()
        folder, name = parted(str(place))
        ObjectStore(folder).put(name, sink)
        return
    path = Path(place).absolute()
    output_folder(path.parent)
    with replacing(path) as aside:
        pq.write_table(stamped, aside, compression="zstd")
        check()


def read_table(
    place: str | Path, kind: str, columns: Sequence[str] | None = None, *, unstamped: bool = False
) -> pa.Table:
    """Read a table through one open file, so that a reader sees it whole while another process replaces it.

    Args:
        place: a path or an address.
        kind: a name in `schema.FORMATS`.
        columns: names of the columns to read; all without.
        unstamped: whether a table without a version is read too, as other tools write it.

    Raises:
        FileNotFoundError: there is no such file.
        OutputError: it is not a Parquet file.
        FormatError: it is of another kind or version.
        StorageError: an object store refuses, or does not answer.
    """
    try:
        if is_address(place):
            folder, name = parted(str(place))
            filesystem, root = filesystem_of(folder)
            table = retrying(lambda: _read(filesystem.open_input_file(f"{root}/{name}"), columns), str(place))
        else:
            table = _read(pa.OSFile(str(place)), columns)
    except (pa.ArrowInvalid, IsADirectoryError) as error:
        raise OutputError(f"{place} is not a Parquet file: {first_line(error)}") from error
    stamp = (table.schema.metadata or {}).get(KEY, b"").decode()
    if stamp != f"{kind} {FORMATS[kind]}" and (stamp or not unstamped):
        raise FormatError(_refusal(place, kind, stamp))
    return table


def _read(file: pa.NativeFile, columns: Sequence[str] | None) -> pa.Table:
    with file:
        return pq.ParquetFile(file).read(columns=None if columns is None else list(columns))


def _refusal(place: str | Path, kind: str, stamp: str) -> str:
    found_kind, _, version = stamp.partition(" ")
    if not stamp:
        found = "was written by an older version of brainscale, or by another tool"
    elif found_kind != kind:
        found = f"holds {found_kind}, not {kind}"
    else:
        found = f"has format {version} of {kind}"
    return f"{place} {found}; this version reads format {FORMATS[kind]} of {kind}: make it again with this version"
