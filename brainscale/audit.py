"""What a researcher wants to know of a manifest before believing a figure that rests on it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

from brainscale.manifest import counts
from brainscale.metrics import auroc
from brainscale.names import parts
from brainscale.schema import SKIPPED

CONTROL_ROWS = 20_000  # the control looks at so many at most, evenly spaced
FOLDS = 5


def summary(table: pa.Table) -> dict[str, Any]:
    """Counts of a manifest: what was seen, what of it is samples, and how these hang together."""
    readable = table.filter(pc.is_null(table["error_code"]))
    codes = counts(table, "error_code", drop_null=True)
    return {
        "files": len({parts(sample_id)[0] for sample_id in table["sample_id"].to_pylist()}),
        "samples": len(readable),
        "skipped": {code: n for code, n in codes.items() if code in SKIPPED},
        "errors": {code: n for code, n in codes.items() if code not in SKIPPED},
        "labels": counts(readable, "label"),
        "formats": counts(readable, "format"),
        "sides_in_pixels": _range(readable),
        "empty_slices": pc.sum(readable["empty"]).as_py() or 0,
        "patients": pc.count_distinct(readable["patient"]).as_py(),
        **_copies(readable),
        "splits": _by_label(readable, "split"),
        "folds": _by_label(readable, "fold"),
    }


def _range(readable: pa.Table) -> str:
    sides = np.concatenate([readable[name].drop_null().to_numpy() for name in ("width", "height")])
    return f"{sides.min()} to {sides.max()}, median {np.median(sides):g}" if sides.size else "none"


def _copies(readable: pa.Table) -> dict[str, Any]:
    """Groups and what makes them: the same bytes, nearly the same picture, two labels on one picture."""
    contents = _count(readable, ["sha256", "frame"])
    sizes = _count(readable, ["group"])
    labelled = readable.filter(pc.is_valid(readable["label"]))
    torn = _count(_count(labelled, ["group", "label"]), ["group"])
    torn = torn.filter(pc.greater(torn["n"], 1))
    return {
        "groups": len(sizes),
        "largest_group": pc.max(sizes["n"]).as_py() or 0,
        "byte_identical_groups": len(contents.filter(pc.greater(contents["n"], 1))),
        "byte_identical_copies": len(readable) - len(contents),
        "samples_beyond_one_a_group": len(readable) - len(sizes),
        "groups_with_two_labels": len(torn),
        "such_as": _two_labels(labelled, torn["group"]),
    }


def _count(table: pa.Table, keys: list[str]) -> pa.Table:
    """Rows for each value of the keys, in a column n."""
    return table.group_by(keys).aggregate([([], "count_all")]).rename_columns({"count_all": "n"})


def _two_labels(labelled: pa.Table, groups: pa.ChunkedArray) -> str:
    """The first two samples that are one picture and have different labels."""
    rows = labelled.filter(pc.is_in(labelled["group"], groups)).sort_by("sample_id").to_pylist()
    pairs = ((r["sample_id"], o["sample_id"]) for r in rows for o in rows if _differ(r, o))
    return " and ".join(next(pairs, ("none",)))


def _differ(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return bool(one["group"] == other["group"] and one["label"] != other["label"])


def _by_label(readable: pa.Table, column: str) -> dict[str, dict[str, int]]:
    """Side → label → samples."""
    rows = readable.filter(pc.is_valid(readable[column]))
    values = sorted(set(rows[column].to_pylist()))
    return {str(v): counts(rows.filter(pc.equal(rows[column], v)), "label") for v in values}


def header_control(table: pa.Table, without: str) -> dict[str, Any]:
    """How well file size, width, height and pixel mode alone tell a tumour, cross-validated by group.

    A network that is no better has learnt how the files were made, not what they show.

    Args:
        table: a manifest.
        without: name of the class without a tumour.

    Returns:
        auroc with its 95 % interval (DeLong) and n; or a reason where it cannot be had.
    """
    rows = table.filter(pc.and_(pc.is_null(table["error_code"]), pc.is_valid(table["label"])))
    rows = rows.take(np.arange(0, len(rows), max(1, -(-len(rows) // CONTROL_ROWS))))
    sick = np.array([label != without for label in rows["label"].to_pylist()], bool)
    group = np.array(rows["group"].to_pylist())
    fewest = min((len(set(group[sick == side])) for side in (False, True)), default=0)
    if fewest < FOLDS:
        return {"reason": f"each of two classes needs {FOLDS} groups, and one has {fewest}"}
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    forest = RandomForestClassifier(200, min_samples_leaf=3, random_state=0)
    voted = cross_val_predict(forest, _headers(rows), sick, groups=group, cv=folds, method="predict_proba")[:, 1]
    figure = auroc(sick.astype(int), np.stack([1 - voted, voted], axis=1), ("without", "with"))
    return {"auroc": figure.value, "low": figure.low, "high": figure.high, "n": figure.n}


def _headers(rows: pa.Table) -> np.ndarray:
    """float64 [n, 4]: bytes, width, height, and the mode's number."""
    modes: Sequence[str | None] = rows["mode"].to_pylist()
    number = {mode: n for n, mode in enumerate(sorted({m or "" for m in modes}))}
    sizes = [rows[name].fill_null(0).to_numpy() for name in ("nbytes", "width", "height")]
    return np.stack([*sizes, np.array([number[m or ""] for m in modes])], axis=1).astype(np.float64)
