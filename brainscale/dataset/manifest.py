"""The manifest as a file: one row for each sample, held to its schema whenever it is read."""

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from brainscale.errors import ManifestError, OutputError
from brainscale.hashing import fingerprint
from brainscale.schema import HIDDEN, MANIFEST
from brainscale.storage.remote import without_options
from brainscale.storage.tables import read_table, write_table

MANIFEST_FILE = "manifest.parquet"
"""The manifest of a run or of an evaluation, in its folder."""


def is_manifest(path: str) -> bool:
    """Whether a `--data` argument names a manifest rather than a source; an address may have options behind it."""
    return without_options(path)[0].endswith(".parquet")


def read_manifest(path: str | Path) -> pa.Table:
    """Read a manifest and check it, as `check_manifest` does.

    Raises:
        ManifestError: no such file, not Parquet, or not a manifest.
    """
    try:
        table = read_table(path, "manifest", unstamped=True)
    except FileNotFoundError:
        raise ManifestError(f"no manifest at {path}: make one with `brainscale index SOURCE --out M.parquet`") from None
    except OutputError as error:
        raise ManifestError(str(error)) from None
    return check_manifest(table, str(path))


def check_manifest(table: pa.Table, name: str) -> pa.Table:
    """Return a table as a manifest: columns in order and of their types, rows sorted by sample_id.

    Columns of one's own, such as a site, follow after the manifest's.

    Args:
        table: a manifest, perhaps changed by another tool.
        name: what to call it in an error.

    Raises:
        ManifestError: a column is missing or of another type, or a sample id occurs twice.
    """
    missing = [name for name in MANIFEST.names if name not in table.column_names]
    if missing:
        raise ManifestError(f"{name} is not a manifest: it has no column {', '.join(missing)}; index the source again")
    more = [table.schema.field(name) for name in table.column_names if name not in MANIFEST.names]
    schema = pa.schema([*MANIFEST, *more], metadata=table.schema.metadata)
    try:
        table = table.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise ManifestError(f"{name} is not a manifest: {error}; index the source again") from None
    twice = [i for i, n in Counter(table["sample_id"].to_pylist()).items() if n > 1]
    if twice:
        raise ManifestError(f"{name} holds the sample '{twice[0]}' more than once: sample ids must be unique")
    return table.sort_by("sample_id")


def require_readable(table: pa.Table, source: str) -> None:
    """Refuse a manifest in which every row is an error.

    Raises:
        ManifestError: names the count of each kind of error, and the first sample.
    """
    if table["error_code"].null_count == 0:
        codes = ", ".join(f"{code} {count}" for code, count in counts(table, "error_code").items())
        first = table.slice(0, 1).to_pylist()[0]
        raise ManifestError(
            f"none of the {len(table)} files of {source} is a readable image ({codes}); "
            f"'{first['sample_id']}', for one: {first['error']}"
        )


def require_places(table: pa.Table, source: str) -> None:
    """Refuse a manifest that does not say where its samples are.

    Raises:
        ManifestError: its paths are hashed.
    """
    if pc.any(pc.equal(table["uri"], HIDDEN)).as_py():
        raise ManifestError(f"{source} does not say where its images are: index again without --hash-paths")


def write_manifest(manifest: pa.Table, place: str | Path) -> None:
    """Write a manifest to a path or an address; it appears whole or not at all.

    Raises:
        OutputError: the place cannot be written.
    """
    write_table(manifest, place, "manifest")


def manifest_fingerprint(table: pa.Table) -> str:
    """sha256 over what training and evaluation depend on: ids, contents, labels and splits, but no paths."""
    columns = ("sample_id", "sha256", "label", "split", "error_code")
    return fingerprint([table[name].to_pylist() for name in columns])


def counts(table: pa.Table, column: str, *, drop_null: bool = False) -> dict[str, int]:
    """How often each value of a column stands in a table, sorted by value."""
    values = (v for v in table[column].to_pylist() if not (drop_null and v is None))
    return dict(sorted(Counter("none" if v is None else str(v) for v in values).items()))
