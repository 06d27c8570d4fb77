"""Figures by the values of a column: scanner, sex, image size; where a model is weak though its mean is good."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from brainscale.errors import UsageError
from brainscale.schema import METRICS, SUBGROUPS
from brainscale.stats.metrics import compute_metrics

SMALLEST = 20


def by_column(
    labels: np.ndarray,
    probabilities: np.ndarray,
    values: Sequence[Any] | np.ndarray,
    classes: Sequence[str],
    threshold: float = 0.5,
    *,
    column: str,
    groups: Sequence[Any] | np.ndarray | None = None,
    smallest: int = SMALLEST,
) -> pa.Table:
    """The figures of each subgroup; looked at one by one, some will stand out by chance.

    Args:
        labels: int [N], class indices.
        probabilities: float [N, classes].
        values: [N], of the column; numbers are cut into thirds, None and NaN are not known.
        classes: names in the order of the columns.
        threshold: of the probability of a tumour, where there are two classes.
        column: its name.
        groups: [N], as `metrics.evaluate` takes them.
        smallest: subgroups of fewer samples have no figures: they would say little, and could point at a person.

    Returns:
        A table of schema SUBGROUPS; values in order, the unknown last.

    Raises:
        UsageError: not one value for each sample.
    """
    if len(values) != len(labels):
        raise UsageError(f"column {column} has {len(values)} values for {len(labels)} samples")
    labels, probabilities = np.asarray(labels, np.int64), np.asarray(probabilities)
    found: list[dict[str, Any]] = []
    for value, rows in _members(values):
        some = None if groups is None else [groups[int(i)] for i in rows]
        table = compute_metrics(labels[rows], probabilities[rows], classes, threshold, groups=some)
        if len(rows) < smallest:
            table = _suppressed(table, len(rows), smallest)
        subgroup = {"column": column, "value": value, "samples": len(rows)}
        found += [{**row, "figure": row["value"], **subgroup} for row in table.to_pylist()]
    return pa.Table.from_pylist(found, schema=SUBGROUPS)


def thirds(values: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Numbers cut at their terciles; equal ones stay together, so there may be fewer than three parts.

    Args:
        values: float [N ≥ 1], finite.

    Returns:
        Name of each part and where it is, bool [N].
    """
    cuts = np.unique(np.percentile(values, (100 / 3, 200 / 3), method="lower"))
    cuts = cuts[cuts < values.max()]
    edges = [-np.inf, *cuts, np.inf]
    parts = []
    for low, high in itertools.pairwise(edges):
        lower, upper = f"above {low:.12g}" if low > -np.inf else "", f"up to {high:.12g}" if high < np.inf else ""
        parts.append((" ".join(filter(None, (lower, upper))) or "all", (values > low) & (values <= high)))
    return parts


def _members(values: Sequence[Any] | np.ndarray) -> list[tuple[str | None, np.ndarray]]:
    """Value or third → sample indices."""
    # NaN is not equal to itself
    known = np.array([value is not None and value == value for value in values], bool)
    there, members = np.flatnonzero(known), list[tuple[str | None, np.ndarray]]()
    kept = [values[int(i)] for i in there]
    if kept and all(isinstance(v, (int, float, np.number)) and not isinstance(v, bool) for v in kept):
        members += [(name, there[part]) for name, part in thirds(np.array(kept, np.float64))]
    elif kept:
        names = np.array([str(value) for value in kept])
        members += [(str(name), there[names == name]) for name in np.unique(names)]
    return members if known.all() else [*members, (None, np.flatnonzero(~known))]


def _suppressed(table: pa.Table, n: int, smallest: int) -> pa.Table:
    """The table without figures, nor how many of the few have a tumour or are called so."""
    reason = f"fewer than {smallest} samples"
    absent = {"value": None, "low": None, "high": None, "method": None, "n": n, "reason": reason}
    return pa.Table.from_pylist([{**row, **absent} for row in table.to_pylist()], schema=METRICS)
