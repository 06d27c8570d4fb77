"""What a researcher wants to know of a manifest before believing a figure that rests on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedGroupKFold

from brainscale.dataset.manifest import counts
from brainscale.errors import ManifestError
from brainscale.reading.sample_ids import split_id
from brainscale.schema import SKIPPED
from brainscale.stats.intervals import group_codes
from brainscale.stats.metrics import auroc

CONTROL_ROWS = 20_000  # the control learns from so many at most, evenly spaced
FOLDS = 5


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


@dataclass(frozen=True, kw_only=True)
class ControlVotes:
    """What file headers alone say of each labelled sample of a manifest, by classifiers that saw none of its group."""

    sample_ids: list[str]
    labels: np.ndarray  # int [N], class indices
    probabilities: np.ndarray  # float64 [N, classes]
    codes: np.ndarray  # int [N], number of each sample's group

    def of(self, sample_ids: Sequence[str]) -> "ControlVotes":
        """Those of some samples, in their order."""
        place = {sample_id: at for at, sample_id in enumerate(self.sample_ids)}
        at = [place[sample_id] for sample_id in sample_ids]
        return ControlVotes(
            sample_ids=list(sample_ids),
            labels=self.labels[at],
            probabilities=self.probabilities[at],
            codes=self.codes[at],
        )


def header_votes(table: pa.Table, number: Mapping[str, int]) -> ControlVotes:
    """Classify by file size, width, height and pixel mode alone, cross-validated by group.

    Args:
        table: a manifest.
        number: label → class index from 0.

    Raises:
        ManifestError: too few groups of some class.
    """
    rows = table.filter(pc.and_(pc.is_null(table["error_code"]), pc.is_in(table["label"], pa.array(list(number)))))
    labels = np.array([number[label] for label in rows["label"].to_pylist()], np.int64)
    group = np.array(rows["group"].to_pylist())
    fewest = min(len(set(group[labels == i])) for i in number.values())
    if fewest < FOLDS:
        raise ManifestError(f"each class needs {FOLDS} groups, and one has {fewest}")
    headers, votes = _headers(rows), np.zeros((len(rows), len(set(number.values()))))
    for learn, judge in StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0).split(headers, labels, group):
        some = learn[:: -(-len(learn) // CONTROL_ROWS)]
        forest = RandomForestClassifier(200, min_samples_leaf=3, random_state=0).fit(headers[some], labels[some])
        votes[np.ix_(judge, forest.classes_)] = forest.predict_proba(headers[judge])
    ids = rows["sample_id"].to_pylist()
    return ControlVotes(sample_ids=ids, labels=labels, probabilities=votes, codes=group_codes(group))


def header_control(table: pa.Table, without: str) -> dict[str, Any]:
    """How well file headers alone tell a tumour.

    A network that is no better has learnt how the files were made, not what they show.

    Args:
        table: a manifest.
        without: name of the class without a tumour.

    Returns:
        auroc with its 95 % interval (DeLong by group) and n; or a reason where it cannot be had.
    """
    rows = table.filter(pc.and_(pc.is_null(table["error_code"]), pc.is_valid(table["label"])))
    rows = rows.take(np.arange(0, len(rows), max(1, -(-len(rows) // CONTROL_ROWS))))
    number = {label: int(label != without) for label in ("a tumour", without, *rows["label"].to_pylist())}
    try:
        found = header_votes(rows, number)
    except ManifestError as error:
        return {"reason": str(error)}
    figure = auroc(found.labels, found.probabilities, ("without", "with"), found.codes)
    return {"auroc": figure.value, "low": figure.low, "high": figure.high, "n": figure.n}


def _headers(rows: pa.Table) -> np.ndarray:
    """float64 [n, 4]: bytes, width, height, and the mode's number."""
    modes: Sequence[str | None] = rows["mode"].to_pylist()
    number = {mode: n for n, mode in enumerate(sorted({m or "" for m in modes}))}
    sizes = [rows[name].fill_null(0).to_numpy() for name in ("nbytes", "width", "height")]
    return np.stack([*sizes, np.array([number[m or ""] for m in modes])], axis=1).astype(np.float64)
