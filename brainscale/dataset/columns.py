"""Columns of a manifest: as numbers, and with new values."""

import numpy as np
import pyarrow as pa


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
