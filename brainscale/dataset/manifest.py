"""Read, check and write the manifest, a table with one row for each sample.

It has two forms: one Parquet file, and a folder of Parquet shards for large sets.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from brainscale.errors import ManifestError, OutputError
from brainscale.hashing import fingerprint_of_lists
from brainscale.reading.signature import SIDE
from brainscale.schema import HIDDEN, MANIFEST
from brainscale.storage import shards
from brainscale.storage.formats import CSV, JSON, is_folder_name, suffix_of
from brainscale.storage.remote import is_address, split_options
from brainscale.storage.shards import ShardedTable
from brainscale.storage.tables import read_table, write_table

MANIFEST_FILE = "manifest.parquet"
"""Name of the manifest in the folder of a run or of an evaluation."""

SHARD_ROWS = 1_000_000
"""Rows up to which `index` writes a manifest as one file, and rows of a shard of a larger one."""
PIECE = 65_536
"""Rows that are hashed at a time."""
NEARNESS = ("signature", "phash", "head_phash")
"""Columns by which near duplicates are found."""
KEY_METADATA = b"patient_key"
"""Metadata of a manifest: a hash that tells whether two manifests were made with the same patient key."""


def is_manifest(path: str) -> bool:
    """Return whether a `--data` argument names a manifest and not a source; an address may end with options.

    A manifest ends with `.parquet`, or is a folder of shards; the address of such a folder ends with a slash.
    """
    if split_options(path)[0].endswith((".parquet", ".parquet/")):
        return True
    return (not is_address(path) or is_folder_name(path)) and shards.has_shards(path, "manifest")


def open_manifest_shards(path: str | Path) -> ShardedTable | None:
    """Return the shards of a manifest, or None for one file.

    Raises:
        ManifestError: a folder of shards is not complete.
    """
    if not is_address(path) and not Path(path).is_dir():
        return None
    try:
        return shards.open_shards(path, "manifest")
    except OutputError as error:
        raise ManifestError(str(error)) from None


def open_as_shards(path: str) -> ShardedTable:
    """Return a manifest of either form as shards; one file is one.

    Raises:
        ManifestError: there is no such manifest, or it is not complete.
    """
    try:
        table = shards.open_as_shards(path, "manifest")
    except OutputError as error:
        raise ManifestError(str(error)) from None
    if table is None:
        raise _missing_manifest(path)
    return table


def read_manifest(path: str | Path) -> pa.Table:
    """Read a manifest in either form and check it as `check_manifest` does.

    Raises:
        ManifestError: there is no such manifest, it is not complete, or it is something else.
    """
    require_no_listing(path)
    try:
        table = _read_either_form(path)
    except FileNotFoundError:
        raise _missing_manifest(path) from None
    except OutputError as error:
        raise ManifestError(str(error)) from None
    return check_manifest(table, str(path))


def require_no_listing(path: str | Path) -> None:
    """Check that a manifest is not given as the listing for people that `index --out M.csv` writes.

    Raises:
        ManifestError: the suffix is that of a listing.
    """
    if suffix_of(path) in (CSV, JSON):
        raise ManifestError(f"{path} is a listing and no manifest: give the .parquet file or the folder of a manifest")


def _missing_manifest(path: str | Path) -> ManifestError:
    return ManifestError(f"no manifest at {path}: make one with `brainscale index SOURCE --out M.parquet`")


def _read_either_form(path: str | Path) -> pa.Table:
    if not is_folder_name(path) and (is_address(path) or not Path(path).is_dir()):
        with suppress(FileNotFoundError):
            return read_table(path, "manifest", unstamped=True)
    sharded = open_manifest_shards(path)
    if sharded is None:
        raise FileNotFoundError(path)
    return pa.concat_tables(sharded.tables())


def check_manifest(table: pa.Table, name: str) -> pa.Table:
    """Return a table as a manifest: columns in order and with the right types, rows sorted by sample_id.

    Other columns, such as a site, are kept after those of the manifest.

    Args:
        table: a manifest, perhaps changed by another tool.
        name: name of the manifest in error messages.

    Raises:
        ManifestError: a column is missing or has another type, a signature or hash is damaged, or a sample id occurs
            more than once.
    """
    missing = [name for name in MANIFEST.names if name not in table.column_names]
    if missing:
        raise ManifestError(f"{name} is not a manifest (it has no column {', '.join(missing)}): index the source again")
    extra_fields = [table.schema.field(name) for name in table.column_names if name not in MANIFEST.names]
    schema = pa.schema([*MANIFEST, *extra_fields], metadata=table.schema.metadata)
    try:
        table = table.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise ManifestError(f"{name} is not a manifest ({error}): index the source again") from None
    require_sound_signatures(table, name)
    if not _is_sorted(table["sample_id"]):  # else a large manifest would be copied
        table = table.sort_by("sample_id")
    ids = table["sample_id"]
    duplicates = ids[1:].filter(pc.equal(ids[1:], ids[:-1])) if len(ids) else ids
    if len(duplicates):
        raise ManifestError(f"{name} lists sample '{duplicates[0]}' more than once: remove the extra rows")
    return table


def _is_sorted(ids: pa.ChunkedArray) -> bool:
    return len(ids) < 2 or bool(pc.all(pc.less_equal(ids[:-1], ids[1:])).as_py())


def require_sound_signatures(table: pa.Table, name: str) -> None:
    """Check the signatures of a manifest, and the hashes that go with them.

    Raises:
        ManifestError: one of them is damaged.
    """
    wrong = pc.fill_null(pc.not_equal(pc.binary_length(table["signature"]), SIDE * SIDE), False)
    for column in ("phash", "head_phash"):
        is_hash = pc.match_substring_regex(table[column], "^[0-9a-f]{16}$")
        wrong = pc.or_(wrong, pc.and_(pc.is_valid(table["signature"]), pc.invert(pc.fill_null(is_hash, False))))
    if pc.any(wrong).as_py():
        first = table["sample_id"].filter(wrong)[0]
        raise ManifestError(
            f"{name} has a damaged signature or hash of sample '{first}': index the source again, or make the "
            "signature of this row null"
        )


def require_readable(table: pa.Table, source: str) -> None:
    """Check that at least one sample of a manifest could be read.

    Raises:
        ManifestError: every row is an error; the message has the number of each error code and the first error.
    """
    if table["error_code"].null_count == 0:
        first = table.slice(0, 1).to_pylist()[0]
        raise none_readable(count_values(table, "error_code"), source, first["sample_id"], first["error"])


def none_readable(codes: Mapping[str, int], source: str, first: str, error: str) -> ManifestError:
    """Return the error that says that no row of a manifest could be read.

    Args:
        codes: error code → number of rows.
        source: what messages call the source.
        first: what messages call the first sample.
        error: of this sample.
    """
    counts = ", ".join(f"{code} {count}" for code, count in sorted(codes.items()))
    return ManifestError(
        f"none of the {sum(codes.values())} file(s) in {source} is a readable image ({counts}), "
        f"for example '{first}' ({error}): check the source"
    )


def require_paths(table: pa.Table, source: str) -> None:
    """Check that a manifest contains the paths of its samples.

    Raises:
        ManifestError: the paths are hashed.
    """
    if pc.any(pc.equal(table["uri"], HIDDEN)).as_py():
        raise ManifestError(
            f"the paths in {source} are hashed, so its images cannot be read: "
            "index the source again without --hash-paths"
        )


def write_manifest(manifest: pa.Table, path: str | Path, origin: str | None = None) -> None:
    """Write a manifest as one file to a path or an address; the file appears complete or not at all.

    Args:
        manifest: rows sorted by sample_id.
        path: path or address.
        origin: as in `write_table`.

    Raises:
        OutputError: the file cannot be written.
    """
    write_table(manifest, path, "manifest", origin)


def write_either_form(
    manifest: pa.Table,
    path: str,
    shard_rows: int | None = None,
    *,
    as_folder: bool = False,
    origin: str | None = None,
) -> int:
    """Write a manifest as one file or, if it has many rows or the path is that of a folder, as a folder of shards.

    Args:
        manifest: rows sorted by sample_id.
        path: path or address; one that ends with a slash, or a folder that holds a manifest already, is for shards.
        shard_rows: rows of a shard, and of one file at most; `SHARD_ROWS` by default.
        as_folder: whether to write a folder of shards in any case.
        origin: as in `write_table`.

    Returns:
        The number of shards; 0 for one file.

    Raises:
        OutputError: the manifest cannot be written.
        StorageError: the object store refuses, or does not answer.
    """
    limit = shard_rows or SHARD_ROWS
    is_folder = as_folder or is_folder_name(path) or (not is_address(path) and Path(path).is_dir())
    if is_folder or len(manifest) > limit:
        return len(shards.write_shards(cut_shards(manifest, limit), path, "manifest", origin).shards)
    write_manifest(manifest, path, origin)
    if is_address(path):
        shards.remove_shards(path, "manifest")
    return 0


def cut_shards(manifest: pa.Table, shard_rows: int) -> Iterator[pa.Table]:
    """Cut a manifest, sorted by sample_id, into tables of as many rows; one without rows gives none."""
    return (manifest.slice(start, shard_rows) for start in range(0, len(manifest), shard_rows))


def describe_form(shard_count: int) -> str:
    """Return how a manifest is stored, in words, from the number of its shards."""
    return "one file" if not shard_count else f"folder of {shard_count} shard{'s' if shard_count > 1 else ''}"


def without_signatures(manifest: pa.Table) -> pa.Table:
    """Return a manifest without what only the search for near duplicates reads, about half of its bytes."""
    return manifest.select([name for name in manifest.column_names if name not in NEARNESS])


def manifest_fingerprint(table: pa.Table) -> str:
    """Return the sha256 of what training and evaluation depend on: ids, contents, labels, splits, but no paths."""
    columns = ("sample_id", "sha256", "label", "split", "error_code")
    return fingerprint_of_lists(_pieces(table[name]) for name in columns)


def _pieces(column: pa.ChunkedArray) -> Iterator[list[Any]]:
    return (column.slice(start, PIECE).to_pylist() for start in range(0, len(column), PIECE))


def count_values(table: pa.Table, column: str, *, drop_null: bool = False) -> dict[str, int]:
    """Return how often each value occurs in a column, sorted by value; a null counts as `none`."""
    values = (v for v in table[column].to_pylist() if not (drop_null and v is None))
    return dict(sorted(Counter("none" if v is None else str(v) for v in values).items()))
