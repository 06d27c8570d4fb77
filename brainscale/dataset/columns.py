"""Columns of a manifest: as numbers, and with new values."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from brainscale.errors import ManifestError
from brainscale.schema import MANIFEST

OF_ONE_SAMPLE = {
    *("sample_id", "uri", "member", "frame", "nbytes", "sha256", "phash", "head_phash", "signature"),
    *("window_low", "window_high", "error_code", "error"),
}
"""Columns that say nothing of several samples, so that nobody would choose them."""


def require_columns(manifest: pa.Table, names: Iterable[str]) -> None:
    """Check that a manifest has columns that the user named.

    Raises:
        ManifestError: it lacks one; the message lists the user's own columns first, then those of every manifest.
    """
    known = manifest.column_names
    if unknown := [name for name in names if name not in known]:
        own = [name for name in known if name not in MANIFEST.names]
        others = [name for name in known if name in MANIFEST.names and name not in OF_ONE_SAMPLE]
        raise ManifestError(f"the manifest has no column {unknown[0]}: choose {', '.join([*own, *others])}")


def number_values(table: pa.Table, column: str) -> np.ndarray:
    """Return a number for each row's value, equal for equal values, int64 [rows]; −1 for null."""
    values = table[column].combine_chunks()
    if not len(values):
        return np.empty(0, np.int64)
    indices = values.dictionary_encode().indices.fill_null(-1)
    return np.asarray(indices.to_numpy(zero_copy_only=False), np.int64)


def replace_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    """Return the table with new values in one column, cast to the type of that column."""
    field = table.schema.field(name)
    return table.set_column(table.schema.get_field_index(name), field, values.cast(field.type))
