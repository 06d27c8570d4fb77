"""Checks and views of decoded planes, wherever they are kept."""

from collections.abc import Iterator

import pyarrow as pa

from brainscale.errors import ManifestError


def read_unchanged(tables: Iterator[pa.Table], rows: pa.Table) -> Iterator[tuple[pa.Array, pa.Array]]:
    """Yield the ids and the planes of tables, after checking that each row of the manifest is as it was indexed."""
    expected = dict(zip(rows["sample_id"].to_pylist(), rows["sha256"].to_pylist(), strict=True))
    for table in tables:
        check_unchanged(table, expected)
        yield table["sample_id"].combine_chunks(), table["plane"].combine_chunks()
    require_none_missing(expected)


def check_unchanged(table: pa.Table, expected: dict[str, str]) -> None:
    """Check the samples of a table, and remove them from those that are expected.

    Args:
        table: the columns sample_id, sha256 and error.
        expected: sample id → sha256 in the manifest.

    Raises:
        ManifestError: a file changed after it was indexed, or can no longer be read.
    """
    for sample_id, sha256, error in zip(*(table[n].to_pylist() for n in ("sample_id", "sha256", "error")), strict=True):
        if error is not None:
            raise ManifestError(f"'{sample_id}' can no longer be read ({error}): index the source again")
        if sha256 != expected.pop(sample_id):
            raise ManifestError(f"'{sample_id}' changed after it was indexed: index the source again")


def require_none_missing(expected: dict[str, str]) -> None:
    """Raise a ManifestError if samples are left over that were expected."""
    if expected:
        raise ManifestError(f"'{next(iter(expected))}' is no longer in its file: index the source again")
