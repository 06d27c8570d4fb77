"""What the curves are drawn from: counts by score, bands, calibration; no drawing here."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from brainscale.seeds import derive
from brainscale.stats.intervals import effective_size, wilson
from brainscale.stats.resampling import drawn_groups

STEPS = 1000
THRESHOLDS = np.arange(STEPS + 1) / STEPS
MOST_STEPS, RESAMPLES, BINS = 2000, 500, 10
GRID = np.linspace(0, 1, 101)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Samples counted by score, lowest scores first.

    Attributes:
        sick: int [..., steps], samples with a tumour.
        well: int [..., steps], samples without.
    """

    sick: Ints
    well: Ints


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """Samples counted by score, and so in each resample: `resampled` has counts [resamples, steps]."""

    counts: Counts
    resampled: Counts


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


def by_step(sick: npt.NDArray[np.bool_], scores: Floats) -> Counts:
    """Counts in each step of 0.001: sums from step k upwards are exact for `score >= k / 1000`."""
    step = np.searchsorted(THRESHOLDS, scores, side="right").clip(1) - 1
    return _counted(sick, step, STEPS + 1)


def by_score(sick: npt.NDArray[np.bool_], scores: Floats, codes: Ints | None = None) -> Ranked:
    """Counts of each distinct score; of `MOST_STEPS` quantiles where there are more.

    Steps of 0.001 would hide the order of scores close to 0 or 1, where networks put most of them.

    Args:
        sick: bool [N]; both sides have samples, where bands are wanted.
        scores: float [N].
        codes: int [N], number of each sample's group; each its own without them.
    """
    distinct, step = np.unique(scores, return_inverse=True)
    if len(distinct) > MOST_STEPS:
        step = step * MOST_STEPS // len(distinct)
    steps = min(len(distinct), MOST_STEPS)
    return Ranked(counts=_counted(sick, step, steps), resampled=_resampled(sick, step, steps, codes))


def at_or_above(counts: Ints) -> Ints:
    """Samples called a tumour at each step's lowest score, from none to all: int [..., steps + 1]."""
    sums = counts[..., ::-1].cumsum(-1)
    return np.concatenate([np.zeros_like(sums[..., :1]), sums], -1)


def roc(ranked: Ranked) -> Band:
    """False positive rate → sensitivity; both sides have samples."""
    drawn = ranked.resampled
    true, false = (at_or_above(side) / side.sum(-1, keepdims=True) for side in (drawn.sick, drawn.well))
    # where the curve climbs, the upper end counts: interp takes the last of equal x
    heights = np.array([np.interp(GRID, x, y) for x, y in zip(false, true, strict=True)])
    low, high = np.percentile(heights, (2.5, 97.5), axis=0)
    x, y = (at_or_above(side) / side.sum() for side in (ranked.counts.well, ranked.counts.sick))
    return Band(x=x, y=y, low=low, high=high)


def precision_recall(ranked: Ranked) -> Band:
    """Sensitivity (recall) → precision, a curve of steps; there are samples with a tumour."""
    heights = []
    for sick, well in zip(ranked.resampled.sick, ranked.resampled.well, strict=True):
        recall, precision = _precision(Counts(sick=sick, well=well))
        heights.append(precision[np.searchsorted(recall, GRID).clip(max=len(recall) - 1)])
    low, high = np.percentile(heights, (2.5, 97.5), axis=0)
    recall, precision = _precision(ranked.counts)
    return Band(x=recall, y=precision, low=low, high=high)


def calibration(sick: npt.NDArray[np.bool_], scores: Floats, codes: Ints | None = None) -> list[Bin]:
    """Ten bins of equal width; empty ones are left out. Intervals know of groups, as those of the figures do."""
    codes = np.arange(len(sick)) if codes is None else codes
    of = (scores * BINS).astype(np.int64).clip(0, BINS - 1)
    bins = []
    for index in np.unique(of):
        here = of == index
        n, share = int(here.sum()), float(sick[here].mean())
        worth = effective_size(sick[here], codes[here])
        low, high = wilson(share * worth, worth)
        bins.append(Bin(n=n, score=float(scores[here].mean()), share=share, low=low, high=high))
    return bins


def _counted(sick: npt.NDArray[np.bool_], step: npt.NDArray[np.intp], steps: int) -> Counts:
    return Counts(
        sick=np.bincount(step[sick], minlength=steps).astype(np.int64),
        well=np.bincount(step[~sick], minlength=steps).astype(np.int64),
    )


def _resampled(sick: npt.NDArray[np.bool_], step: npt.NDArray[np.intp], steps: int, codes: Ints | None) -> Counts:
    """The bootstrap of the figures, whole groups drawn; without groups one multinomial draw, at one cost for any N.

    A resample that lacks a side has no curve, and is left out.
    """
    cell = step + steps * ~sick
    _, at = np.unique(np.arange(len(sick)) if codes is None else codes, return_inverse=True)
    size = int(at.max()) + 1
    if size == len(sick):
        shares = np.bincount(cell, minlength=2 * steps) / size
        drawn = np.random.default_rng(derive(0, "bands")).multinomial(size, shares, RESAMPLES)
    else:
        inside = csr_array((np.ones(len(cell), np.int64), (at, cell)), (size, 2 * steps))
        times = drawn_groups(size, RESAMPLES, derive(0, "bootstrap"), width=size)
        drawn = np.concatenate([some @ inside for some in times])
    both = drawn[:, :steps].any(1) & drawn[:, steps:].any(1)
    return Counts(sick=drawn[both, :steps], well=drawn[both, steps:])


def _precision(counts: Counts) -> tuple[Floats, Floats]:
    true, false = at_or_above(counts.sick)[1:], at_or_above(counts.well)[1:]
    called = np.flatnonzero(true + false)  # in a resample, the highest scores may be absent
    return true[called] / counts.sick.sum(), true[called] / (true + false)[called]
