"""Summarise predictions by scan, with one row for each series or volume, for triage of scans instead of slices."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.schema import SCANS

TOP = 3
"""Number of slices in the mean `top_mean`: one high slice may be noise, three high slices rarely are."""
COLUMNS = ["sample_id", "scan", "frame", "empty", "probability", "prediction", "error_code", "model"]
"""Columns of the predictions that `summarise_scans` needs."""

ORDER = [("highest", "descending"), ("scan", "ascending")]
"""Order of the table of scans."""


def summarise_scans(predictions: pa.Table) -> pa.Table:
    """Return one row for each scan.

    A scan is a DICOM series, in however many files; or a volume, whose slices are the frames of one file; or any other
    single sample. A file that cannot be read names no series and counts as a scan of its own.

    Args:
        predictions: a table with the columns `COLUMNS`, one row for each sample.

    Returns:
        A table of schema SCANS, highest probability first, scans without a probability last.
    """
    table = pa.table(
        {
            "scan": scan_ids(predictions),
            "used": pc.and_(pc.is_valid(predictions["probability"]), pc.invert(predictions["empty"].fill_null(False))),
            **{name: predictions[name] for name in ("sample_id", "probability", "prediction", "model")},
            "empty": predictions["empty"].fill_null(False),
            "error": pc.is_valid(predictions["error_code"]),
        }
    )
    order = [("scan", "ascending"), ("used", "descending"), ("probability", "descending"), ("sample_id", "ascending")]
    table = table.sort_by(order)
    starts = _run_starts(table["scan"])
    used = table["used"].to_numpy()
    probability = np.where(used, table["probability"].fill_null(0).to_numpy(), 0.0)
    slices = _sum_runs(used, starts)
    rank = np.arange(len(table)) - np.repeat(starts, np.diff([*starts, len(table)]))
    top = used & (rank < TOP)
    with np.errstate(invalid="ignore"):  # a scan without a slice gives 0 / 0, which becomes null below
        mean = _sum_runs(probability, starts) / slices
        top_mean = _sum_runs(np.where(top, probability, 0.0), starts) / _sum_runs(top, starts)
    first = table.take(pa.array(starts))
    no_slice = slices == 0
    columns = {
        "scan": first["scan"],
        "model": first["model"],
        "slices": slices,
        "empty": _sum_runs(table["empty"].to_numpy(), starts),
        "errors": _sum_runs(table["error"].to_numpy(), starts),
        "highest": pa.array(probability[starts], mask=no_slice),
        "mean": pa.array(mean, mask=no_slice),
        "top_mean": pa.array(top_mean, mask=no_slice),
        "prediction": pc.if_else(pa.array(no_slice), None, first["prediction"]),
        "sample_id": first["sample_id"],
    }
    scans = pa.table(columns).cast(SCANS)
    return scans.sort_by(ORDER)


def scan_ids(predictions: pa.Table) -> pa.ChunkedArray:
    """Return the hash of the series of each row, or else its sample id without the frame number."""
    volume = pc.replace_substring_regex(predictions["sample_id"], r"#\d+$", "")
    return pc.coalesce(predictions["scan"], volume)


def _run_starts(values: pa.ChunkedArray) -> np.ndarray:
    """Return the first row of each run of equal values, int64."""
    if len(values) == 0:
        return np.empty(0, np.int64)
    changes = pc.not_equal(values.slice(1), values.slice(0, len(values) - 1)).to_numpy()
    return np.concatenate([[0], np.flatnonzero(changes) + 1])


def _sum_runs(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return the sum over each run."""
    kind = np.int64 if values.dtype == bool else np.float64
    return np.add.reduceat(values.astype(kind), starts) if len(starts) else np.empty(0, kind)
