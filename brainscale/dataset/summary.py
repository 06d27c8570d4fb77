"""Counts of a manifest: samples, labels, errors, duplicates and splits."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.dataset.manifest import counts
from brainscale.reading.sample_ids import split_id
from brainscale.schema import SKIPPED


def summary(table: pa.Table) -> dict[str, Any]:
    """Counts of a manifest: what was seen, what of it is samples, and how these hang together."""
    readable = table.filter(pc.is_null(table["error_code"]))
    codes = counts(table, "error_code", drop_null=True)
    return {
        "files": len({split_id(sample_id)[0] for sample_id in table["sample_id"].to_pylist()}),
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
