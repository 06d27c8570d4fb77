"""Read, check and write the manifest, a table with one row for each sample."""

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from brainscale.errors import ManifestError, OutputError
from brainscale.hashing import fingerprint
from brainscale.reading.signature import SIDE
from brainscale.schema import HIDDEN, MANIFEST
from brainscale.storage.remote import split_options
from brainscale.storage.tables import read_table, write_table

MANIFEST_FILE = "manifest.parquet"
"""Name of the manifest in the folder of a run or of an evaluation."""

KEY_METADATA = b"patient_key"
"""Metadata of a manifest: a hash that tells whether two manifests were made with the same patient key."""


def is_manifest(path: str) -> bool:
    """Return whether a `--data` argument names a manifest and not a source; an address may end with options."""
    return split_options(path)[0].endswith(".parquet")


def read_manifest(path: str | Path) -> pa.Table:
    """Read a manifest and check it as `check_manifest` does.

    Raises:
        ManifestError: there is no such file, or it is not a manifest.
    """
    try:
        table = read_table(path, "manifest", unstamped=True)
    except FileNotFoundError:
        raise ManifestError(f"no manifest at {path}: make one with `brainscale index SOURCE --out M.parquet`") from None
    except OutputError as error:
        raise ManifestError(str(error)) from None
    return check_manifest(table, str(path))


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
    duplicates = [i for i, n in Counter(table["sample_id"].to_pylist()).items() if n > 1]
    if duplicates:
        raise ManifestError(f"{name} lists sample '{duplicates[0]}' more than once: remove the extra rows")
    return table.sort_by("sample_id")


def require_readable(table: pa.Table, source: str) -> None:
    """Check that at least one sample of a manifest could be read.

    Raises:
        ManifestError: every row is an error; the message has the number of each error code and the first error.
    """
    if table["error_code"].null_count == 0:
        codes = ", ".join(f"{code} {count}" for code, count in count_values(table, "error_code").items())
        first = table.slice(0, 1).to_pylist()[0]
        raise ManifestError(
            f"none of the {len(table)} file(s) in {source} is a readable image ({codes}), "
            f"for example '{first['sample_id']}' ({first['error']}): check the source"
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


def write_manifest(manifest: pa.Table, path: str | Path) -> None:
    """Write a manifest to a path or an address; the file appears complete or not at all.

    Raises:
        OutputError: the file cannot be written.
    """
    write_table(manifest, path, "manifest")


def manifest_fingerprint(table: pa.Table) -> str:
    """Return the sha256 of what training and evaluation depend on: ids, contents, labels, splits, but no paths."""
    columns = ("sample_id", "sha256", "label", "split", "error_code")
    return fingerprint([table[name].to_pylist() for name in columns])


def count_values(table: pa.Table, column: str, *, drop_null: bool = False) -> dict[str, int]:
    """Return how often each value occurs in a column, sorted by value; a null counts as `none`."""
    values = (v for v in table[column].to_pylist() if not (drop_null and v is None))
    return dict(sorted(Counter("none" if v is None else str(v) for v in values).items()))
