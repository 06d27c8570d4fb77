"""Whose an output is: a command replaces what it made itself, and anything else only with `--overwrite`.

A table, a folder of shards or a page says by which command, inputs and options it was made. CSV and JSON have no place
for that, so they count as another's.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from brainscale.errors import OutputError, StorageError
from brainscale.hashing import fingerprint
from brainscale.storage.formats import CSV, JSON, TABLE, TEXTS, is_folder_name, suffix_of
from brainscale.storage.local import require_writable
from brainscale.storage.remote import filesystem_of, is_address, retrying, split_address, split_options
from brainscale.storage.shards import has_shards, origin_of_shards
from brainscale.storage.tables import KEY, ORIGIN

_HEAD_NBYTES = 4096
"""Bytes at the beginning of a page that hold its origin."""


def describe_origin(command: str, arguments: Mapping[str, Any]) -> str:
    """Return what an output says of how it was made: the command, and a short hash of its inputs and options.

    Args:
        command: name of the command.
        arguments: the inputs by path or address, and the options that change the output; as JSON.
    """
    return f"brainscale {command} {fingerprint(arguments)[:16]}"


def require_own(
    location: str | Path,
    origin: str,
    *,
    kind: str | None = None,
    overwrite: bool = False,
    inputs: Iterable[str | Path | None] = (),
    option: str = "--out",
    can_overwrite: bool = True,
) -> None:
    """Check that an output may be written: nothing is there, or what this very command made, or `overwrite` is given.

    Args:
        location: path or address of a file, or of a folder of shards.
        origin: what `describe_origin` returned for this command.
        kind: of the table, a name in `schema.FORMATS`; None for a page.
        overwrite: whether to replace what another command made, or an input.
        inputs: paths and addresses that the command reads.
        option: option that names the output, for the message.
        can_overwrite: whether the command has the option `--overwrite`.

    Raises:
        OutputError: something else is there, or one of the inputs, or nothing can be written there; a folder is never
            replaced by a file.
        StorageError: the object store does not answer.
    """
    remedy = f"{'--overwrite replaces it' if can_overwrite else 'remove it'}, or choose another {option}"
    if not overwrite and any(path is not None and is_same_place(location, path) for path in inputs):
        raise OutputError(f"{location} is an input of this command: {remedy}")
    is_folder = not is_address(location) and Path(location).is_dir()
    if is_folder and (kind is None or suffix_of(location) in TEXTS or not _may_hold_shards(Path(location), kind)):
        raise OutputError(f"{location} is a folder that holds no {kind or 'page'}: choose another {option}")
    if not overwrite and not _is_absent_or_of(location, kind, origin):
        suffix, why = suffix_of(location), "this command with these options did not make it"
        if suffix in (CSV, JSON):
            why = f"a {suffix} file does not say what made it"
        raise OutputError(f"{location} exists, and {why}: {remedy}")
    if not is_address(location):
        require_writable(Path(location).parent)


def is_same_place(one: str | Path, other: str | Path) -> bool:
    """Return whether two paths or addresses name the same file or folder."""
    if is_address(one) or is_address(other):
        return split_options(str(one))[0].rstrip("/") == split_options(str(other))[0].rstrip("/")
    return os.path.realpath(one) == os.path.realpath(other)


def _may_hold_shards(folder: Path, kind: str) -> bool:
    return not any(folder.iterdir()) or has_shards(folder, kind)


def _is_absent_or_of(location: str | Path, kind: str | None, origin: str) -> bool:
    """Return whether nothing is there, or an output of this origin; a folder of shards without a list is nothing."""
    if kind is not None and (is_address(location) or Path(location).is_dir()):
        found = origin_of_shards(location, kind)
        if found is not None:
            return found == origin
    if is_address(location) and is_folder_name(location):
        return True
    plain = location if is_address(location) else str(location).rstrip("/")
    if not is_address(plain) and (Path(plain).is_dir() or not (Path(plain).exists() or Path(plain).is_symlink())):
        return True
    try:
        if kind is not None and suffix_of(plain) in (TABLE, ""):
            return _origin_of_table(plain, kind) == origin
        return _begins_with(plain, origin)
    except FileNotFoundError:
        return True
    except OSError as error:
        raise OutputError(f"{location} cannot be read ({error.strerror}): choose another path") from None
    except StorageError as error:
        if not error.final:
            raise
        return True  # a store that may be written and not be read; what refuses to be written says so later


def _origin_of_table(location: str | Path, kind: str) -> str | None:
    """Return the origin of a table of this kind; None for any other file."""

    def read() -> Mapping[bytes, bytes]:
        with _open(location) as file:
            return pq.ParquetFile(file).schema_arrow.metadata or {}

    try:
        metadata = retrying(read, str(location)) if is_address(location) else read()
    except pa.ArrowInvalid:
        return None
    if not metadata.get(KEY, b"").startswith(f"{kind} ".encode()):
        return None
    return metadata.get(ORIGIN, b"").decode() or None


def _begins_with(location: str | Path, origin: str) -> bool:
    """Return whether the origin stands at the beginning of a page or a text."""

    def read() -> bytes:
        with _open(location) as file:
            return bytes(file.read(_HEAD_NBYTES))

    begin = retrying(read, str(location)) if is_address(location) else read()
    return origin.encode() in begin


def _open(location: str | Path) -> pa.NativeFile:
    if not is_address(location):
        return pa.OSFile(str(location))
    folder, name = split_address(str(location))
    filesystem, root = filesystem_of(folder)
    return filesystem.open_input_file(f"{root}/{name}")
