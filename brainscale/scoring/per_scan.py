"""One row for each series or volume, from the rows of its slices: for triage of scans, not slices."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.schema import SCANS

TOP = 3
"""Slices whose mean is `top_mean`: one bright slice may be noise, three beside each other rarely are."""
COLUMNS = ["sample_id", "scan", "frame", "empty", "probability", "prediction", "error_code", "model"]
"""Of the predictions, what `by_scan` needs."""


def scan_table(predictions: pa.Table) -> pa.Table:
    """Sum up predictions scan by scan.

    A DICOM series is a scan, whichever files hold it; so is a volume, whose slices are frames of one file; any
    other sample is one of its own. A file that could not be read names no series, and is one of its own too.

    Args:
        predictions: `COLUMNS`, one row for each sample.

    Returns:
        Schema SCANS, the highest probability first, scans without one last.
    """
    table = pa.table(
        {
            "scan": _scan_of(predictions),
            "used": pc.and_(pc.is_valid(predictions["probability"]), pc.invert(predictions["empty"].fill_null(False))),
            **{name: predictions[name] for name in ("sample_id", "probability", "prediction", "model")},
            "empty": predictions["empty"].fill_null(False),
            "error": pc.is_valid(predictions["error_code"]),
        }
    )
    order = [("scan", "ascending"), ("used", "descending"), ("probability", "descending"), ("sample_id", "ascending")]
    table = table.sort_by(order)
    starts = _starts(table["scan"])
    used = table["used"].to_numpy()
    probability = np.where(used, table["probability"].fill_null(0).to_numpy(), 0.0)
    slices = _sums(used, starts)
    rank = np.arange(len(table)) - np.repeat(starts, np.diff([*starts, len(table)]))
    top = used & (rank < TOP)
    with np.errstate(invalid="ignore"):  # a scan without a slice: 0 / 0, which becomes null
        mean = _sums(probability, starts) / slices
        top_mean = _sums(np.where(top, probability, 0.0), starts) / _sums(top, starts)
    first = table.take(pa.array(starts))
    none = slices == 0
    columns = {
        "scan": first["scan"],
        "model": first["model"],
        "slices": slices,
        "empty": _sums(table["empty"].to_numpy(), starts),
        "errors": _sums(table["error"].to_numpy(), starts),
        "highest": pa.array(probability[starts], mask=none),
        "mean": pa.array(mean, mask=none),
        "top_mean": pa.array(top_mean, mask=none),
        "prediction": pc.if_else(pa.array(none), None, first["prediction"]),
        "sample_id": first["sample_id"],
    }
    summed = pa.table(columns).cast(SCANS)
    return summed.sort_by([("highest", "descending"), ("scan", "ascending")])


def _scan_of(predictions: pa.Table) -> pa.ChunkedArray:
    """The series' hash, else the id without the number of the frame."""
    volume = pc.replace_substring_regex(predictions["sample_id"], r"#\d+$", "")
    return pc.coalesce(predictions["scan"], volume)


def _starts(groups: pa.ChunkedArray) -> np.ndarray:
    """int64: first row of each run of equal values."""
    if len(groups) == 0:
        return np.empty(0, np.int64)
    changes = pc.not_equal(groups.slice(1), groups.slice(0, len(groups) - 1)).to_numpy()
    return np.concatenate([[0], np.flatnonzero(changes) + 1])


def _sums(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The sum of each run."""
    kind = np.int64 if values.dtype == bool else np.float64
    return np.add.reduceat(values.astype(kind), starts) if len(starts) else np.empty(0, kind)
