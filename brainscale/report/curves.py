"""What the curves are drawn from: counts by score, bands, calibration; no drawing here."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from brainscale.intervals import wilson
from brainscale.seeds import derive

STEPS = 1000
THRESHOLDS = np.arange(STEPS + 1) / STEPS
MOST_GROUPS, RESAMPLES, BINS = 2000, 500, 10
GRID = np.linspace(0, 1, 101)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Samples counted by score, lowest scores first.

    Attributes:
        sick: int [groups], samples with a tumour.
        well: int [groups], samples without.
    """

    sick: Ints
    well: Ints


@dataclass(frozen=True, kw_only=True)
class Band:
    """A curve with its pointwise 95 % band over `GRID`; without a band where resamples say nothing."""

    x: Floats
    y: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Samples of like score: how many, the mean score, and the share with a tumour with Wilson's interval."""

    n: int
    score: float
    share: float
    low: float
    high: float


def by_step(sick: npt.NDArray[np.bool_], scores: Floats) -> Groups:
    """Counts in each step of 0.001: sums from step k upwards are exact for `score >= k / 1000`."""
    step = np.searchsorted(THRESHOLDS, scores, side="right").clip(1) - 1
    return _counted(sick, step, STEPS + 1)


def by_score(sick: npt.NDArray[np.bool_], scores: Floats) -> Groups:
    """Counts of each distinct score; of `MOST_GROUPS` quantiles where there are more.

    Steps of 0.001 would hide the order of scores close to 0 or 1, where networks put most of them.
    """
    distinct, group = np.unique(scores, return_inverse=True)
    if len(distinct) > MOST_GROUPS:
        group = group * MOST_GROUPS // len(distinct)
    return _counted(sick, group, min(len(distinct), MOST_GROUPS))


def at_or_above(counts: Ints) -> Ints:
    """Samples called a tumour at each group's lowest score, from none to all: int [..., groups + 1]."""
    sums = counts[..., ::-1].cumsum(-1)
    return np.concatenate([np.zeros_like(sums[..., :1]), sums], -1)


def roc(groups: Groups) -> Band:
    """False positive rate → sensitivity; both sides have samples."""
    drawn = _resampled(groups)
    true, false = (at_or_above(side) / side.sum(-1, keepdims=True) for side in drawn)
    # where the curve climbs, the upper end counts: interp takes the last of equal x
    heights = np.array([np.interp(GRID, x, y) for x, y in zip(false, true, strict=True)])
    low, high = np.percentile(heights, (2.5, 97.5), axis=0)
    x, y = (at_or_above(side) / side.sum() for side in (groups.well, groups.sick))
    return Band(x=x, y=y, low=low, high=high)


def precision_recall(groups: Groups) -> Band:
    """Sensitivity (recall) → precision, a curve of steps; there are samples with a tumour."""
    heights = []
    for sick, well in zip(*_resampled(groups), strict=True):
        recall, precision = _precision(Groups(sick=sick, well=well))
        heights.append(precision[np.searchsorted(recall, GRID).clip(max=len(recall) - 1)])
    low, high = np.percentile(heights, (2.5, 97.5), axis=0)
    recall, precision = _precision(groups)
    return Band(x=recall, y=precision, low=low, high=high)


def calibration(sick: npt.NDArray[np.bool_], scores: Floats) -> list[Bin]:
    """Ten bins of equal width; empty ones are left out."""
    of = (scores * BINS).astype(np.int64).clip(0, BINS - 1)
    bins = []
    for index in np.unique(of):
        here = of == index
        n, ill = int(here.sum()), int(sick[here].sum())
        low, high = wilson(ill, n)
        bins.append(Bin(n=n, score=float(scores[here].mean()), share=ill / n, low=low, high=high))
    return bins


def _counted(sick: npt.NDArray[np.bool_], group: npt.NDArray[np.intp], groups: int) -> Groups:
    return Groups(
        sick=np.bincount(group[sick], minlength=groups).astype(np.int64),
        well=np.bincount(group[~sick], minlength=groups).astype(np.int64),
    )


def _resampled(groups: Groups) -> tuple[Ints, Ints]:
    """Bootstrap within each side, int [resamples, groups]: a multinomial draw, at one cost for any N."""
    generator = np.random.default_rng(derive(0, "bands"))
    sides = [generator.multinomial(s.sum(), s / max(1, s.sum()), RESAMPLES) for s in (groups.sick, groups.well)]
    return sides[0], sides[1]


def _precision(groups: Groups) -> tuple[Floats, Floats]:
    true, false = at_or_above(groups.sick)[1:], at_or_above(groups.well)[1:]
    called = np.flatnonzero(true + false)  # in a resample, the highest scores may be absent
    return true[called] / groups.sick.sum(), true[called] / (true + false)[called]
