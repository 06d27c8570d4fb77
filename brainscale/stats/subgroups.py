"""Metrics by the values of a column (scanner, sex, image size): where a model is weak though its mean is good."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from brainscale.errors import UsageError
from brainscale.schema import METRICS, SUBGROUPS
from brainscale.stats.labelled import LabelledProbabilities
from brainscale.stats.matching import is_numeric
from brainscale.stats.metrics import measure
from brainscale.stats.resampling import Map, group_codes, is_missing

SMALLEST = 20
PARTS, PARTS_OF_TUMOURS = 3, 4
"""Ranges that a column of numbers is cut into, and one that says something of tumours only."""


def measure_subgroups(
    samples: LabelledProbabilities,
    values: Sequence[Any] | np.ndarray,
    *,
    column: str,
    smallest: int = SMALLEST,
    run: Map = map,
) -> pa.Table:
    """Compute the metrics of each subgroup; of many subgroups, some stand out by chance.

    Args:
        samples: labels and probabilities.
        values: [n], values of the column; None and NaN are unknown. Numbers are cut into thirds. Those that say
            something of tumours only, such as their size (0 or unknown for every sample without one), are cut into
            quarters of the samples with a tumour, and samples without are in none.
        column: name of the column.
        smallest: smallest subgroup that gets metrics: those of fewer samples would say little, and could point at a
            person.
        run: as for `measure`.

    Returns:
        A table of schema SUBGROUPS; values in order, the unknown last.

    Raises:
        UsageError: not one value for each sample.
    """
    if len(values) != len(samples):
        raise UsageError(f"column {column} has {len(values)} values for {len(samples)} samples")
    lines: list[dict[str, Any]] = []
    for value, rows in _members(values, samples.has_tumour):
        table = measure(samples.take(rows), run=run)
        if len(rows) < smallest:
            table = _suppressed(table, len(rows), smallest)
        subgroup = {"column": column, "subgroup": value, "samples": len(rows)}
        lines += [{**row, **subgroup} for row in table.to_pylist()]
    return pa.Table.from_pylist(lines, schema=SUBGROUPS)


def cut_ranges(values: np.ndarray, parts: int = PARTS) -> list[tuple[str, np.ndarray]]:
    """Cut numbers into ranges of as many each; equal ones stay together, so there may be fewer ranges.

    Args:
        values: float [n ≥ 1], finite.
        parts: number of ranges.

    Returns:
        Name of each range, and which values are in it, bool [n].
    """
    cuts = np.unique(np.percentile(values, [100 * i / parts for i in range(1, parts)], method="lower"))
    cuts = cuts[cuts < values.max()]
    edges = [-np.inf, *cuts, np.inf]
    ranges = []
    for low, high in itertools.pairwise(edges):
        lower, upper = f"above {low:.12g}" if low > -np.inf else "", f"up to {high:.12g}" if high < np.inf else ""
        ranges.append((" ".join(filter(None, (lower, upper))) or "all", (values > low) & (values <= high)))
    return ranges


def _members(values: Sequence[Any] | np.ndarray, has_tumour: np.ndarray) -> list[tuple[str | None, np.ndarray]]:
    """Return the sample indices of each value, or of each range of the numbers."""
    unknown = np.array([is_missing(value) for value in values], bool)
    rows, members = np.flatnonzero(~unknown), list[tuple[str | None, np.ndarray]]()
    kept = [values[int(i)] for i in rows]
    if is_numeric(kept):
        numbers, parts = np.array(kept, np.float64), PARTS
        if _are_of_tumours(numbers, has_tumour[rows], has_tumour):
            numbers, rows, parts = numbers[has_tumour[rows]], rows[has_tumour[rows]], PARTS_OF_TUMOURS
            unknown &= has_tumour
        members += [(name, rows[in_range]) for name, in_range in cut_ranges(numbers, parts)]
    elif kept:
        names, codes = sorted({str(value) for value in kept}), group_codes(kept)
        members += [(name, rows[codes == code]) for code, name in enumerate(names)]
    return [*members, (None, np.flatnonzero(unknown))] if unknown.any() else members


def _are_of_tumours(numbers: np.ndarray, has_tumour: np.ndarray, every: np.ndarray) -> bool:
    """Return whether numbers say something of tumours only: 0 or unknown for each sample without one.

    Args:
        numbers: float [k], the known ones.
        has_tumour: bool [k], of the same samples.
        every: bool [n], of all samples.
    """
    return not every.all() and not numbers[~has_tumour].any() and bool(numbers[has_tumour].any())


def _suppressed(table: pa.Table, n: int, smallest: int) -> pa.Table:
    """Return the table without values, nor how many of the few have a tumour or are predicted to have one."""
    reason = f"fewer than {smallest} samples"
    absent = {"value": None, "low": None, "high": None, "method": None, "n": n, "reason": reason}
    return pa.Table.from_pylist([{**row, **absent} for row in table.to_pylist()], schema=METRICS)
