"""Give each slice of a manifest the window of its series."""

from collections.abc import Iterable

import pyarrow as pa

from brainscale.reading.plan import histograms_of, slices_of
from brainscale.reading.sample import window_fields
from brainscale.reading.series import SeriesNotes, choose_windows

OF_A_PICTURE = ("phash", "head_phash", "signature")
"""Columns that an empty slice has no values in: all empty slices look alike."""


def assign_windows(
    table: pa.Table, histograms: Iterable[pa.Table], percentiles: tuple[float, float]
) -> tuple[pa.Table, SeriesNotes]:
    """Fill in what the window of a slice decides, and return what there is to say about the series.

    Args:
        table: samples as read, schema `reading.sample.COLUMNS` without histograms.
        histograms: tables with the columns sample_id and histogram.
        percentiles: of a volume, become 0 and 255.
    """
    slices = list(slices_of(table))
    if not slices:
        return table, SeriesNotes()
    windows, notes = choose_windows(slices, histograms_of(histograms), percentiles)
    fields = {sample_id: window_fields(window) for sample_id, window in windows.items()}
    ids = table["sample_id"].to_pylist()
    for name in ("slice_index", "window_low", "window_high", "window_of", "empty", *OF_A_PICTURE):
        values = table[name].to_pylist()
        for row, sample_id in enumerate(ids):
            if (known := fields.get(sample_id)) is None:
                continue
            if name in known:
                values[row] = known[name]
            elif known["empty"]:
                values[row] = None
        field = table.schema.field(name)
        table = table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))
    return table, notes
