"""Pairs of a sample with a tumour and one without that agree in a column, and what that column alone predicts.

A column such as the position of a slice may differ between the classes. A model can then tell them apart without seeing
any tumour. On matched pairs the column says nothing of the class; beside them stands how well it predicts the class
alone.
"""

import heapq
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from brainscale.errors import UsageError
from brainscale.stats.labelled import Bools, Floats, Ints
from brainscale.stats.resampling import is_missing

CALIPER = 0.2
"""Maximum difference within a pair, in standard deviations (P. C. Austin, Pharmaceutical Statistics 10, 2011)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MatchingColumns:
    """The columns to match on, as numbers.

    Attributes:
        names: names of the columns.
        strata: int64 [n], number of the combination of all texts and truth values of a sample: partners have the same.
        stratum_names: name of each stratum; one empty name without such a column.
        numbers: float64 [n], the column of numbers, 0 without one.
        known: bool [n], whether all values of a sample are known.
        caliper: maximum difference of `numbers` within a pair; 0 without such a column.
        has_numbers: whether one of the columns has numbers.
    """

    names: tuple[str, ...]
    strata: Ints
    stratum_names: tuple[str, ...]
    numbers: Floats
    known: Bools
    caliper: float
    has_numbers: bool

    @classmethod
    def of(cls, columns: dict[str, Sequence[Any]], has_tumour: np.ndarray) -> "MatchingColumns":
        """Return columns of texts, truth values, and one of numbers at most, ready to match on.

        The caliper is `CALIPER` times the standard deviation within the classes: the root of the mean of both
        variances.

        Args:
            columns: name → values [n], None and NaN are unknown.
            has_tumour: bool [n].

        Raises:
            UsageError: several columns have numbers, or a column has not one value for each sample.
        """
        n = len(has_tumour)
        known, numbers, texts, numeric = np.ones(n, bool), np.zeros(n), dict[str, list[str]](), list[str]()
        for name, values in columns.items():
            if len(values) != n:
                raise UsageError(f"column {name} has {len(values)} values for {n} samples")
            is_known = np.array([not is_missing(value) for value in values], bool)
            known &= is_known
            if is_numeric([value for value, ok in zip(values, is_known, strict=True) if ok]):
                numeric.append(name)
                numbers = np.array([float(v) if ok else 0.0 for v, ok in zip(values, is_known, strict=True)])
            else:
                texts[name] = [str(value) if ok else "" for value, ok in zip(values, is_known, strict=True)]
        if len(numeric) > 1:
            raise UsageError(f"columns {numeric[0]} and {numeric[1]} both have numbers: match on one of them")
        known &= np.isfinite(numbers)
        keys = list(zip(*texts.values(), strict=True)) if texts else [()] * n
        stratum_keys = sorted({key for key, ok in zip(keys, known, strict=True) if ok})
        number_of = {key: i for i, key in enumerate(stratum_keys)}
        return cls(
            names=tuple(columns),
            strata=np.array([number_of.get(key, -1) for key in keys], np.int64),
            stratum_names=tuple(", ".join(key) for key in stratum_keys),
            numbers=np.where(known, numbers, 0.0),
            known=known,
            caliper=CALIPER * _deviation(numbers[known], has_tumour[known]) if numeric else 0.0,
            has_numbers=bool(numeric),
        )

    def take(self, rows: np.ndarray) -> "MatchingColumns":
        """Return the values of some of the samples, with the same strata and the same caliper."""
        strata, numbers, known = (values[rows] for values in (self.strata, self.numbers, self.known))
        return replace(self, strata=strata, numbers=numbers, known=known)


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """Samples with a tumour, each with its partner without.

    Attributes:
        with_tumour: int64 [pairs], index of each pair's sample with a tumour, in ascending order.
        without_tumour: int64 [pairs], index of its partner.
    """

    with_tumour: Ints
    without_tumour: Ints

    def __len__(self) -> int:
        return len(self.with_tumour)

    @property
    def rows(self) -> Ints:
        """Indices of all samples in a pair, in ascending order."""
        return np.sort(np.concatenate([self.with_tumour, self.without_tumour]))


def is_numeric(values: Sequence[Any]) -> bool:
    """Return whether there are values, and all are numbers; truth values are none."""
    return bool(values) and all(isinstance(v, int | float | np.number) and not isinstance(v, bool) for v in values)


def match_samples(columns: MatchingColumns, has_tumour: np.ndarray, groups: np.ndarray, keys: np.ndarray) -> Pairs:
    """Pair samples with a tumour and samples without, one to one, each in one pair at most.

    Partners are in the same stratum and differ by the caliper at most; the closest are paired first. Partners are first
    looked for in a sample's own group (a patient), then among what remains of all groups (preferential matching within
    clusters: B. Arpino and M. Cannas, Statistics in Medicine 35, 2016). The result does not depend on the order of the
    samples.

    Args:
        columns: what to match on.
        has_tumour: bool [n].
        groups: int [n], number of each sample's group.
        keys: int [n], a random number of each sample that belongs to it alone: it decides between equal values.
    """
    order = np.lexsort((keys, columns.numbers, columns.strata))
    order = order[columns.known[order]]
    within = _match_blocks(order, columns, has_tumour, (columns.strata, groups))
    free = np.ones(len(has_tumour), bool)
    free[[row for pair in within for row in pair]] = False
    pairs = [*within, *_match_blocks(order[free[order]], columns, has_tumour, (columns.strata,))]
    oriented = sorted((a, b) if has_tumour[a] else (b, a) for a, b in pairs)
    table = np.array(oriented, np.int64).reshape(-1, 2)
    return Pairs(with_tumour=table[:, 0], without_tumour=table[:, 1])


def predict_from_columns(columns: MatchingColumns, has_tumour: np.ndarray, groups: np.ndarray | None = None) -> Floats:
    """Return the probability of a tumour from the columns alone: float64 [n].

    It is the share of tumours among the samples of the same stratum that differ by the caliper at most, so it follows
    columns whose middle values have the most tumours too. One more sample with the share of all is added, so that it is
    defined where there are none. A sample with an unknown value has the share of all.

    Args:
        columns: what to predict from.
        has_tumour: bool [n], of the same samples.
        groups: int [n], number of each sample's group, to predict each sample from other groups only. Without, all
            samples count, and the prediction is a function of the columns and of nothing else.
    """
    is_tumour = has_tumour.astype(np.int64)
    stratum = np.where(columns.known, columns.strata, -1)
    near, tumours = _count_near(stratum, columns.numbers, columns.caliper, is_tumour)
    total, all_tumours = np.full(len(is_tumour), len(is_tumour)), np.full(len(is_tumour), is_tumour.sum())
    if groups is not None:
        _, group = np.unique(groups, return_inverse=True)
        own, own_tumours = _count_near(
            stratum * (group.max(initial=0) + 1) + group, columns.numbers, columns.caliper, is_tumour
        )
        near, tumours = near - own, tumours - own_tumours
        total, all_tumours = total - np.bincount(group)[group], all_tumours - np.bincount(group, is_tumour)[group]
    share = np.where(total > 0, all_tumours / np.maximum(total, 1), 0.5)
    return np.where(columns.known, (tumours + share) / (near + 1), share)


def _deviation(numbers: Floats, has_tumour: np.ndarray) -> float:
    """Return the standard deviation within the classes; 0 where a class has fewer than two samples."""
    classes = numbers[has_tumour], numbers[~has_tumour]
    if min(map(len, classes)) < 2:
        return 0.0
    return math.sqrt(float(np.mean([values.var(ddof=1) for values in classes])))


def _match_blocks(
    order: Ints, columns: MatchingColumns, has_tumour: np.ndarray, block_columns: Sequence[np.ndarray]
) -> list[tuple[int, int]]:
    """Return pairs of samples that agree in all block columns, of samples in the order of their numbers."""
    pairs: list[tuple[int, int]] = []
    for rows in _blocks(order, block_columns):
        if has_tumour[rows].any() and not has_tumour[rows].all():
            pairs += _match_line(rows.tolist(), columns.numbers[rows].tolist(), has_tumour[rows], columns.caliper)
    return pairs


def _blocks(order: Ints, block_columns: Sequence[np.ndarray]) -> Iterator[Ints]:
    """Yield the rows of each block, in their order."""
    if not len(order):
        return
    keys = np.stack([column[order] for column in block_columns], axis=1)
    _, block = np.unique(keys, axis=0, return_inverse=True)
    by_block = np.argsort(block, kind="stable")
    starts = np.flatnonzero(np.diff(block[by_block])) + 1
    yield from np.split(order[by_block], starts)


def _match_line(
    rows: Sequence[int], numbers: Sequence[float], has_tumour: np.ndarray, caliper: float
) -> list[tuple[int, int]]:
    """Pair points on a line, the closest of different classes first.

    The two closest of different classes are neighbours among the points that are left, so a heap of neighbours finds
    them in O(n log n).

    Args:
        rows: [n], the samples.
        numbers: [n], ascending.
        has_tumour: bool [n].
        caliper: maximum difference.
    """
    n = len(rows)
    before, after, is_free = list(range(-1, n - 1)), list(range(1, n + 1)), [True] * n
    heap: list[tuple[float, int, int]] = []

    def offer(left: int, right: int) -> None:
        if left >= 0 and right < n and has_tumour[left] != has_tumour[right]:
            difference = numbers[right] - numbers[left]
            if difference <= caliper:
                heapq.heappush(heap, (difference, left, right))

    for left in range(n - 1):
        offer(left, left + 1)
    pairs = []
    while heap:
        _, left, right = heapq.heappop(heap)
        if not (is_free[left] and is_free[right]):
            continue
        pairs.append((rows[left], rows[right]))
        is_free[left] = is_free[right] = False
        outer_left, outer_right = before[left], after[right]
        if outer_left >= 0:
            after[outer_left] = outer_right
        if outer_right < n:
            before[outer_right] = outer_left
        offer(outer_left, outer_right)
    return pairs


def _count_near(
    blocks: np.ndarray, numbers: np.ndarray, reach: float, is_tumour: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return how many samples of each one's block are no farther than `reach`, itself too; and those with a tumour.

    Args:
        blocks: int [n].
        numbers: float [n].
        reach: maximum difference.
        is_tumour: int [n], 1 for a sample with a tumour, else 0.
    """
    order = np.lexsort((numbers, blocks))
    before = np.concatenate([[0], np.cumsum(is_tumour[order])])
    near, tumours = np.zeros(len(blocks), np.int64), np.zeros(len(blocks), np.int64)
    starts = np.concatenate([[0], np.flatnonzero(np.diff(blocks[order])) + 1, [len(order)]])
    for start, stop in itertools.pairwise(starts):
        rows = order[start:stop]
        values = numbers[rows]
        low = start + np.searchsorted(values, values - reach, side="left")
        high = start + np.searchsorted(values, values + reach, side="right")
        near[rows], tumours[rows] = high - low, before[high] - before[low]
    return near, tumours
