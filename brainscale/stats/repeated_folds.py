"""Metrics of models from several repetitions of a division into splits or folds, and their paired differences.

A repetition is one division of the data, with one training seed: its folds together predict each test sample once. A
metric is computed within each repetition (rankings within each fold, whose models have scales of their own) and
averaged over the repetitions. For its interval whole groups are drawn, the same ones in all repetitions and, for a
difference, in both rows, so that a repetition adds no samples. With `REDRAWN` repetitions or more, these are drawn too
(the two-way bootstrap of A. B. Owen, Annals of Applied Statistics 1, 2007): the interval then also says what another
division and another seed would change.
"""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.special import ndtri, stdtr

from brainscale.errors import UsageError
from brainscale.seeds import derive
from brainscale.stats import weighted_metrics
from brainscale.stats.bootstrap import RESAMPLES
from brainscale.stats.estimate import Estimate
from brainscale.stats.intervals import bca_levels
from brainscale.stats.labelled import Bools, Floats, Ints
from brainscale.stats.resampling import draw_groups, jackknife_blocks, leave_out, percentiles
from brainscale.stats.weighted_metrics import RankedSamples, ratio

METRICS = (
    *("accuracy", "auroc", "sensitivity", "specificity", "macro_precision", "macro_recall"),
    "average_precision",
)
"""Metrics that are computed; the published ones first, in their order."""
RANKING = ("auroc", "average_precision")
"""Those that are computed within each fold."""
REDRAWN = 5
"""Repetitions from which on they are drawn too; fewer say too little about others."""
UNDEFINED = "undefined: a fold has no sample of some class"
CONSTANT = "no interval: every resample gives the same value"


@dataclass(frozen=True, kw_only=True, eq=False)
class RepeatedPredictions:
    """Predictions of the models of one row, each on the test samples of its fold.

    Attributes:
        has_tumour: bool [n], whether each sample has a tumour.
        scores: float64 [n], probability of a tumour.
        predicted: bool [n], whether a tumour is predicted, at the model's own threshold.
        groups: str [n], name of each sample's group.
        repetitions: int64 [n], number of the repetition.
        folds: int64 [n], number of the fold in its repetition.
    """

    has_tumour: Bools
    scores: Floats
    predicted: Bools
    groups: np.ndarray
    repetitions: Ints
    folds: Ints

    def __post_init__(self) -> None:
        lengths = {len(values) for values in vars(self).values()}
        if lengths == {0}:
            raise UsageError("there are no predictions to measure")
        if len(lengths) > 1:
            raise UsageError("labels, scores, predictions, groups, repetitions and folds differ in length")

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def numbers(self) -> list[int]:
        """Numbers of its repetitions, ascending."""
        return [int(number) for number in np.unique(self.repetitions)]

    @property
    def models(self) -> set[tuple[int, int]]:
        """Repetition and fold of each model."""
        return set(zip(self.repetitions.tolist(), self.folds.tolist(), strict=True))

    def in_models(self, models: set[tuple[int, int]]) -> np.ndarray:
        """Return which predictions are of some models: bool [n]."""
        pairs = zip(self.repetitions.tolist(), self.folds.tolist(), strict=True)
        return np.array([pair in models for pair in pairs])

    def take(self, rows: np.ndarray) -> "RepeatedPredictions":
        """Return some of the predictions: those of a mask, or of indices."""
        return RepeatedPredictions(**{name: values[rows] for name, values in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class Difference(Estimate):
    """A paired difference with its interval and its two-sided p-value, which invert each other."""

    p: float | None = None


def estimate_repeated(predictions: RepeatedPredictions) -> dict[str, Estimate]:
    """Return each of METRICS, averaged over the repetitions, with its interval (BCa, groups drawn)."""
    drawn = _draw([predictions])
    return {name: _estimate(name, predictions, drawn) for name in METRICS}


def compare_repeated(one: RepeatedPredictions, other: RepeatedPredictions) -> dict[str, Difference]:
    """Return the differences one − other of METRICS, over the folds and repetitions that both have.

    Where they test the same samples, the comparison is paired by sample; where not, by group.

    Raises:
        UsageError: they have no fold of a repetition in common.
    """
    common = one.models & other.models
    if not common:
        raise UsageError("two rows without a fold in common cannot be compared")
    one, other = (rows.take(rows.in_models(common)) for rows in (one, other))
    drawn = _draw([one, other])
    return {name: _difference(name, one, drawn) for name in METRICS}


@dataclass(frozen=True, kw_only=True, eq=False)
class _Drawn:
    """Metrics of one row, or differences of two: name → values.

    Attributes:
        own: of the samples themselves.
        resamples: of the resamples, float64 [R].
        left_out: without each block of groups, float64 [blocks].
        groups: number of groups.
        method: what was drawn.
    """

    own: dict[str, float]
    resamples: dict[str, np.ndarray]
    left_out: dict[str, np.ndarray]
    groups: int
    method: str


def _draw(rows: list[RepeatedPredictions]) -> _Drawn:
    """Return the metrics of a row, or the differences of two, with the same groups drawn for both."""
    names, codes = np.unique(np.concatenate([row.groups.astype(str) for row in rows]), return_inverse=True)
    ends = np.cumsum([len(row) for row in rows])[:-1]
    tables = [_Summed.of(row, code, len(names)) for row, code in zip(rows, np.split(codes, ends), strict=True)]
    repetitions = len(rows[0].numbers)
    widest = max(len(row) for row in rows)
    once = np.full(repetitions, 1 / repetitions)
    block, blocks = jackknife_blocks(np.arange(len(names)))
    own = _combine(tables, np.ones((1, len(names))), once)
    jackknife = [
        _combine(tables, weights, once) for weights in leave_out(block, range(blocks), width=widest * repetitions)
    ]
    is_redrawn = repetitions >= REDRAWN
    weights = np.concatenate(list(draw_groups(len(names), RESAMPLES, derive(0, "bootstrap"), width=widest)))
    shares = once[:, None]
    if is_redrawn:
        draws = np.concatenate(list(draw_groups(repetitions, RESAMPLES, derive(0, "repetitions"), width=widest)))
        shares = draws.T / repetitions
    return _Drawn(
        own={name: float(values[0]) for name, values in own.items()},
        resamples=_combine(tables, weights, shares),
        left_out={name: np.concatenate([part[name] for part in jackknife]) for name in METRICS},
        groups=len(names),
        method="bootstrap of groups and repetitions" if is_redrawn else "bootstrap of groups",
    )


def _combine(tables: list["_Summed"], weights: np.ndarray, shares: np.ndarray) -> dict[str, np.ndarray]:
    """Return each metric [R], the mean over repetitions with their shares; of the first row less the second, if any."""
    shares = shares[:, None] if shares.ndim == 1 else shares
    means = [{name: (values * shares).sum(0) for name, values in table.measure(weights).items()} for table in tables]
    if len(means) == 1:
        return means[0]
    return {name: means[0][name] - means[1][name] for name in METRICS}


@dataclass(frozen=True, kw_only=True, eq=False)
class _Summed:
    """Predictions summed by group, and ranked within each fold, so that a resample costs little.

    Attributes:
        cells: float64 [repetitions, 4, G], number of samples of each group by label and prediction.
        rankings: for each repetition, its folds with the samples of both classes.
    """

    cells: np.ndarray
    rankings: list[list[RankedSamples]]

    @classmethod
    def of(cls, rows: RepeatedPredictions, codes: np.ndarray, groups: int) -> "_Summed":
        cells: list[np.ndarray] = []
        rankings: list[list[RankedSamples]] = []
        for number in rows.numbers:
            of_repetition = rows.repetitions == number
            cell = (2 * rows.has_tumour + rows.predicted)[of_repetition]
            sums = np.bincount(cell * groups + codes[of_repetition], minlength=4 * groups)
            cells.append(sums.reshape(4, groups).astype(np.float64))
            rankings.append([])
            for fold in np.unique(rows.folds[of_repetition]):
                chosen = of_repetition & (rows.folds == fold)
                ranked = RankedSamples.of(rows.has_tumour[chosen], rows.scores[chosen], codes[chosen])
                rankings[-1].append(ranked)
        return cls(cells=np.stack(cells), rankings=rankings)

    def measure(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Return each metric in each repetition and resample: name → float64 [repetitions, R]."""
        counts = np.einsum("kcg,rg->krc", self.cells, weights).reshape(len(self.cells), len(weights), 2, 2)
        sensitivity, specificity = weighted_metrics.sensitivity_and_specificity(counts)
        areas = [np.mean([ranking.areas(weights) for ranking in folds], 0) for folds in self.rankings]
        return {
            "accuracy": ratio(np.einsum("...ii->...", counts), counts.sum((-1, -2))),
            "auroc": np.stack([auroc for auroc, _ in areas]),
            "sensitivity": sensitivity,
            "specificity": specificity,
            "macro_precision": weighted_metrics.macro_precision(counts),
            "macro_recall": weighted_metrics.macro_recall(counts),
            "average_precision": np.stack([precision for _, precision in areas]),
        }


def _estimate(name: str, rows: RepeatedPredictions, drawn: _Drawn) -> Estimate:
    value, draws = drawn.own[name], drawn.resamples[name]
    make = partial(Estimate, n=len(rows))
    if not math.isfinite(value):
        return make(value=None, reason=UNDEFINED)
    draws = draws[np.isfinite(draws)]
    if len(draws) < RESAMPLES // 10 or draws.min() == draws.max():
        return make(value=value, reason=CONSTANT if len(draws) else UNDEFINED)
    low, high = percentiles(draws, *bca_levels(value, draws, drawn.left_out[name], drawn.groups))
    return make(value=value, low=min(low, value), high=max(high, value), method=drawn.method)


def _difference(name: str, rows: RepeatedPredictions, drawn: _Drawn) -> Difference:
    estimate = _estimate(name, rows, drawn)
    p = None
    if estimate.value is not None and estimate.low is not None:
        draws = drawn.resamples[name][np.isfinite(drawn.resamples[name])]
        p = p_value(estimate.value, draws, drawn.left_out[name], drawn.groups)
    return Difference(**vars(estimate), p=p)


def p_value(value: float, draws: np.ndarray, left_out: np.ndarray, size: int) -> float:
    """Return the two-sided p-value of a difference: the level at which the BCa interval of `bca_levels` reaches 0.

    Args:
        value: the difference.
        draws: [R], its values in the resamples; the p-value is no smaller than they can tell.
        left_out: [blocks], its values without each block of groups.
        size: number of groups.
    """
    least = 1 / (len(draws) + 1)
    below, at_zero = (
        ndtri(np.clip(((draws < point).mean() + (draws <= point).mean()) / 2, least, 1 - least))
        for point in (value, 0.0)
    )
    pull = left_out.mean() - left_out if np.isfinite(left_out).all() else np.zeros(1)
    spread = float((pull**2).sum())
    acceleration = float((pull**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    distance = at_zero - below
    reach = abs(distance / max(1 + acceleration * distance, least) - below)
    return float(2 * stdtr(max(1, size - 1), -reach / math.sqrt(size / max(1, size - 1))))
