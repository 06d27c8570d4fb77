"""Data behind the plots: counts by score, curves with bands, calibration bins. No drawing here."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import csr_array

from brainscale.seeds import derive
from brainscale.stats.estimate import NOT_FINITE
from brainscale.stats.intervals import effective_size, wilson
from brainscale.stats.labelled import Bools, Floats, Ints, LabelledProbabilities
from brainscale.stats.resampling import draw_groups

STEPS = 1000
THRESHOLDS = np.arange(STEPS + 1) / STEPS
MAX_STEPS, RESAMPLES, BINS = 2000, 500, 10
GRID = np.linspace(0, 1, 101)


@dataclass(frozen=True, kw_only=True)
class TumourScores:
    """Scores of samples with a tumour, of any kind, and without: what curves are drawn from.

    Attributes:
        has_tumour: bool [n].
        scores: float64 [n], probability of a tumour.
        threshold: operating threshold; None where the model has none.
        codes: int64 [n], number of each sample's group.
    """

    has_tumour: Bools
    scores: Floats
    threshold: float | None
    codes: Ints

    @classmethod
    def of(cls, samples: LabelledProbabilities) -> "TumourScores":
        """Return the scores of labelled samples with one threshold for all."""
        return cls(
            has_tumour=samples.has_tumour,
            scores=samples.tumour_probability,
            threshold=float(samples.threshold),
            codes=samples.codes,
        )

    @cached_property
    def ranked(self) -> "RankedScores":
        """The samples by score, as they are and resampled: the same for all curves."""
        return rank_by_score(self.has_tumour, self.scores, self.codes)

    @property
    def undefined(self) -> str | None:
        """Reason why nothing can be drawn."""
        if not np.isfinite(self.scores).all():
            return NOT_FINITE
        return None if len(self.scores) else "there are no samples"

    @property
    def no_curve(self) -> str | None:
        """Reason why no curve can set samples with a tumour against those without."""
        if self.undefined or self.has_tumour.any() != self.has_tumour.all():
            return self.undefined
        return f"no sample is {'without' if self.has_tumour.all() else 'with'} a tumour"


@dataclass(frozen=True, kw_only=True)
class ConfusionCounts:
    """Samples with and without a tumour by their prediction at one threshold."""

    tp: int
    fn: int
    fp: int
    tn: int

    @property
    def with_tumour(self) -> int:
        """Number of samples with a tumour."""
        return self.tp + self.fn

    @property
    def without_tumour(self) -> int:
        """Number of samples without a tumour."""
        return self.fp + self.tn


@dataclass(frozen=True, kw_only=True)
class ScoreCounts:
    """Samples counted by score, lowest scores first.

    Attributes:
        with_tumour: int64 [..., steps].
        without_tumour: int64 [..., steps].
    """

    with_tumour: Ints
    without_tumour: Ints


@dataclass(frozen=True, kw_only=True)
class RankedScores:
    """Samples counted by score, and so in each resample: `resampled` has counts [resamples, steps]."""

    counts: ScoreCounts
    resampled: ScoreCounts


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A curve with its pointwise 95 % band over `GRID`.

    Attributes:
        x: float64 [points].
        y: float64 [points].
        low: float64 [grid], lower end of the band.
        high: float64 [grid], upper end of the band.
    """

    x: Floats
    y: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, kw_only=True)
class CalibrationBin:
    """Samples of similar score.

    Attributes:
        n: number of samples.
        score: mean score.
        share: share of samples with a tumour.
        low: lower end of Wilson's 95 % interval of the share.
        high: upper end of it.
    """

    n: int
    score: float
    share: float
    low: float
    high: float


def count_at_threshold(has_tumour: Bools, scores: Floats, threshold: float) -> ConfusionCounts:
    """Return the confusion counts at one threshold."""
    predicted = scores >= threshold
    cells = {
        "tp": predicted & has_tumour,
        "fn": ~predicted & has_tumour,
        "fp": predicted & ~has_tumour,
        "tn": ~predicted & ~has_tumour,
    }
    return ConfusionCounts(**{name: int(cell.sum()) for name, cell in cells.items()})


def count_by_step(has_tumour: Bools, scores: Floats) -> ScoreCounts:
    """Return counts in each step of 0.001: sums from step k upwards are exact for `score >= k / 1000`."""
    step = np.searchsorted(THRESHOLDS, scores, side="right").clip(1) - 1
    return _count(has_tumour, step, STEPS + 1)


def rank_by_score(has_tumour: Bools, scores: Floats, codes: Ints | None = None) -> RankedScores:
    """Return counts of each distinct score; of `MAX_STEPS` quantiles where there are more.

    Steps of 0.001 would hide the order of scores close to 0 or 1, where networks put most of them.

    Args:
        has_tumour: bool [n]; both classes have samples, where bands are wanted.
        scores: float64 [n].
        codes: int64 [n], number of each sample's group; each its own without them.
    """
    distinct, step = np.unique(scores, return_inverse=True)
    if len(distinct) > MAX_STEPS:
        step = step * MAX_STEPS // len(distinct)
    steps = min(len(distinct), MAX_STEPS)
    resampled = _resample(has_tumour, step, steps, np.arange(len(scores)) if codes is None else codes)
    return RankedScores(counts=_count(has_tumour, step, steps), resampled=resampled)


def count_at_or_above(counts: Ints) -> Ints:
    """Return how many samples reach each step's lowest score, from none to all: int64 [..., steps + 1]."""
    sums = counts[..., ::-1].cumsum(-1)
    return np.concatenate([np.zeros_like(sums[..., :1]), sums], -1)


def roc_curve(ranked: RankedScores) -> Curve:
    """Return false positive rate → sensitivity; both classes have samples."""
    drawn, own = ranked.resampled, ranked.counts
    true, false = (_share_at_or_above(counts) for counts in (drawn.with_tumour, drawn.without_tumour))
    # where the curve climbs, the upper end counts: interp takes the last of equal x
    heights = np.array([np.interp(GRID, x, y) for x, y in zip(false, true, strict=True)])
    low, high = np.percentile(heights, (2.5, 97.5), axis=0)
    x, y = _share_at_or_above(own.without_tumour), _share_at_or_above(own.with_tumour)
    return Curve(x=x, y=y, low=low, high=high)


def precision_recall_curve(ranked: RankedScores) -> Curve:
    """Return sensitivity (recall) → precision, a curve of steps; there are samples with a tumour."""
    drawn, heights = ranked.resampled, []
    for with_tumour, without_tumour in zip(drawn.with_tumour, drawn.without_tumour, strict=True):
        recall, precision = _recall_and_precision(ScoreCounts(with_tumour=with_tumour, without_tumour=without_tumour))
        heights.append(precision[np.searchsorted(recall, GRID).clip(max=len(recall) - 1)])
    low, high = np.percentile(heights, (2.5, 97.5), axis=0)
    recall, precision = _recall_and_precision(ranked.counts)
    return Curve(x=recall, y=precision, low=low, high=high)


def calibration_bins(has_tumour: Bools, scores: Floats, codes: Ints | None = None) -> list[CalibrationBin]:
    """Return ten bins of equal width without the empty ones; intervals take groups into account."""
    codes = np.arange(len(scores)) if codes is None else codes
    bin_of_sample = (scores * BINS).astype(np.int64).clip(0, BINS - 1)
    bins = []
    for index in np.unique(bin_of_sample):
        rows = bin_of_sample == index
        share = float(has_tumour[rows].mean())
        size = effective_size(has_tumour[rows], codes[rows])
        low, high = wilson(share * size, size)
        bins.append(
            CalibrationBin(n=int(rows.sum()), score=float(scores[rows].mean()), share=share, low=low, high=high)
        )
    return bins


def _count(has_tumour: Bools, step: np.ndarray, steps: int) -> ScoreCounts:
    return ScoreCounts(
        with_tumour=np.bincount(step[has_tumour], minlength=steps).astype(np.int64),
        without_tumour=np.bincount(step[~has_tumour], minlength=steps).astype(np.int64),
    )


def _resample(has_tumour: Bools, step: np.ndarray, steps: int, codes: Ints) -> ScoreCounts:
    """Return the counts of the metrics' bootstrap, whole groups drawn; one multinomial draw where each is its own.

    A resample that lacks a class has no curve, and is left out.
    """
    cell = step + steps * ~has_tumour
    _, group = np.unique(codes, return_inverse=True)
    size = int(group.max()) + 1
    if size == len(has_tumour):  # at one cost for any number of samples
        shares = np.bincount(cell, minlength=2 * steps) / size
        drawn = np.random.default_rng(derive(0, "bands")).multinomial(size, shares, RESAMPLES)
    else:
        cells_of_group = csr_array((np.ones(len(cell), np.int64), (group, cell)), (size, 2 * steps))
        batches = draw_groups(size, RESAMPLES, derive(0, "bootstrap"), width=size)
        drawn = np.concatenate([counts @ cells_of_group for counts in batches])
    with_both = drawn[:, :steps].any(1) & drawn[:, steps:].any(1)
    return ScoreCounts(with_tumour=drawn[with_both, :steps], without_tumour=drawn[with_both, steps:])


def _share_at_or_above(counts: Ints) -> Floats:
    return np.asarray(count_at_or_above(counts) / counts.sum(-1, keepdims=True))


def _recall_and_precision(counts: ScoreCounts) -> tuple[Floats, Floats]:
    true, false = count_at_or_above(counts.with_tumour)[1:], count_at_or_above(counts.without_tumour)[1:]
    predicted = np.flatnonzero(true + false)  # in a resample, the highest scores may be absent
    return true[predicted] / counts.with_tumour.sum(), true[predicted] / (true + false)[predicted]
