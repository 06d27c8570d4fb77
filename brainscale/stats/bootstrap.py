"""Figures whose interval is a bootstrap's, from one pass over the resamples."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from brainscale.seeds import derive
from brainscale.stats import calibration, weighted_metrics
from brainscale.stats.decisions import tumour_probability
from brainscale.stats.estimate import Estimate, missing_class
from brainscale.stats.intervals import bca_levels, t_quantile
from brainscale.stats.resampling import drawn_groups, jackknife_weights, percentiles

RESAMPLES, FEWER = 2000, 1000
LARGE = 20_000  # samples beyond which fewer resamples do: each costs more, and tells more
AT_PREVALENCE = ("ppv_at_prevalence", "npv_at_prevalence")
PERCENTILES = (2.5, 97.5)
BIASED = "noise in the bins raises it: the truth is likely lower"
WITHIN_NOISE = f"{BIASED}, and may be 0"
SEPARATE = "no interval: too many resamples separate the classes"
REASONS = {
    "mcc": "every sample is called alike",
    "calibration_slope": "the probabilities separate the classes, or are all alike",
    "ppv_at_prevalence": "no sample is called a tumour",
    "npv_at_prevalence": "every sample is called a tumour",
}
"""Why a figure does not exist though every class has a sample."""


def bootstrapped(
    labels: np.ndarray,
    probabilities: np.ndarray,
    called: np.ndarray,
    classes: Sequence[str],
    codes: np.ndarray,
    prevalence: float | None,
) -> dict[str, Estimate]:
    """The figures whose interval is a bootstrap's (BCa, see `bca_levels`), whole groups drawn.

    The slope's is a jackknife's, the ECE's rests on its bins. A resample in which a figure does not exist is
    left out of its interval.

    Args:
        labels: int [N ≥ 1], class indices.
        probabilities: float [N, classes].
        called: int [N], predicted classes.
        classes: names.
        codes: int [N], number of each sample's group.
        prevalence: for the two predictive values there, if any.
    """
    n, size = len(labels), len(np.unique(codes))
    by_group = " by group" if size < n else ""
    resamples = RESAMPLES if n <= LARGE else FEWER

    def figures_of(weights: np.ndarray) -> dict[str, np.ndarray]:
        return weighted_figures(weights.astype(np.float64), labels, probabilities, called, prevalence)

    values, left_out = figures_of(np.ones((1, n))), figures_of(jackknife_weights(codes))
    drawn, noise = [], []
    confidence, right = confidence_and_outcome(labels, probabilities, called)
    own = calibration.gaps(np.ones((1, n)), confidence, right)
    _, at = np.unique(codes, return_inverse=True)
    for times in drawn_groups(size, resamples, derive(0, "bootstrap"), width=n):
        piece = times[:, at]
        drawn.append(figures_of(piece))
        noise.append(np.abs(calibration.gaps(piece, confidence, right) - own).sum(1))
    figures = {}
    for name, (value,) in values.items():
        figure = Estimate(value=float(value), n=n)
        if not math.isfinite(value):
            figures[name] = Estimate(value=None, n=n, reason=missing_class(labels, classes) or REASONS[name])
        elif name == "calibration_slope":
            figures[name] = _jackknifed(figure, left_out[name], f"jackknife{by_group}")
        else:
            draws = np.concatenate([piece[name] for piece in drawn])
            draws = draws[~np.isnan(draws)]
            plain = name == "ece" or not len(draws)
            levels = PERCENTILES if plain else bca_levels(value, draws, left_out[name], size)
            figures[name] = _interval(replace(figure, method=f"bootstrap{by_group}"), draws, resamples, levels)
    return {**figures, "ece": _beyond_noise(figures["ece"], np.concatenate(noise))}


def _interval(figure: Estimate, draws: np.ndarray, resamples: int, levels: tuple[float, float]) -> Estimate:
    """The figure with two percentiles of its draws, stretched to hold its value."""
    if len(draws) < resamples // 10:
        return replace(figure, method=None, reason="no interval: too few samples of some class")
    low, high = percentiles(draws, *levels)
    if not math.isfinite(high - low):
        return replace(figure, method=None, reason=SEPARATE)
    if low == high:  # one point, as if nothing were uncertain
        return replace(figure, method=None, reason="no interval: every resample gives the same figure")
    assert figure.value is not None  # noqa: S101 - for the type checker
    return replace(figure, low=min(low, figure.value), high=max(high, figure.value))


def _jackknifed(figure: Estimate, left_out: np.ndarray, method: str) -> Estimate:
    """The figure with Tukey's jackknife interval (R. G. Miller, Biometrika 61, 1974).

    Resamples of few patients separate the classes more than the patients do, which pulls percentiles of the slope up.

    Args:
        figure: its value.
        left_out: [blocks], the figure without each block of groups.
        method: how to call it.
    """
    size = len(left_out)
    if size < 2 or not np.isfinite(left_out).all():
        return replace(figure, reason=SEPARATE)
    half = t_quantile(size) * math.sqrt((size - 1) * float(left_out.var()))
    if half == 0:
        return replace(figure, reason="no interval: every sample left out gives the same figure")
    assert figure.value is not None  # noqa: S101 - for the type checker
    return replace(figure, low=figure.value - half, high=figure.value + half, method=method)


def _beyond_noise(figure: Estimate, noise: np.ndarray) -> Estimate:
    """The ECE's interval: down to what noise in the bins cannot explain, up to the basic bootstrap's end.

    ECE and truth differ by no more than the bins' gaps do in sum, so the value less 97.5 % of that sum's resamples is
    a lower end for any truth, 0 too. As resamples' ECE lies above the samples', so does the samples' above the truth:
    hence the basic bootstrap (A. C. Davison and D. V. Hinkley, 1997, 5.2) above.

    Args:
        figure: with percentiles.
        noise: [R], sums of the bins' differences between a resample's gaps and the samples'.
    """
    if figure.value is None or figure.low is None:
        return figure
    low = max(0.0, figure.value - percentiles(noise)[1])
    high = min(1.0, 2 * figure.value - figure.low)
    if low == high:
        return replace(figure, low=None, high=None, method=None, reason="no interval: the samples' ECE is 0")
    return replace(figure, low=low, high=high, reason=BIASED if low > 0 else WITHIN_NOISE)


def confidence_and_outcome(
    labels: np.ndarray, probabilities: np.ndarray, called: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What the ECE compares [N]: P(tumour) and whether there is one; with more, the likeliest's and the call."""
    two = probabilities.shape[1] == 2
    return (tumour_probability(probabilities), labels > 0) if two else (probabilities.max(1), called == labels)


def weighted_figures(
    weights: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, called: np.ndarray, prevalence: float | None
) -> dict[str, np.ndarray]:
    """Figures [R] for weights [R, N]."""
    sick, probability = labels > 0, tumour_probability(probabilities)
    counts = weighted_metrics.confusions(weights, labels, called, probabilities.shape[1])
    area, precision = weighted_metrics.macro_ranking(weights, labels, probabilities)
    confidence, right = confidence_and_outcome(labels, probabilities, called)
    figures = {
        "balanced_accuracy": weighted_metrics.macro_recall(counts),
        "auroc": area,
        "average_precision": precision,
        "f1": weighted_metrics.f1(counts),
        "mcc": weighted_metrics.mcc(counts),
        "macro_precision": weighted_metrics.macro_precision(counts),
        "macro_recall": weighted_metrics.macro_recall(counts),
        "brier": weighted_metrics.mean(weights, weighted_metrics.brier_losses(labels, probabilities)),
        "log_loss": weighted_metrics.mean(weights, weighted_metrics.log_losses(labels, probabilities)),
        "ece": calibration.expected_calibration_error(weights, confidence, right),
        "calibration_slope": calibration.calibration_slope(weights, sick, probability),
        "calibration_intercept": calibration.calibration_intercept(weights, sick, probability),
    }
    at = () if prevalence is None else weighted_metrics.predictive_values(counts, prevalence)
    return {**figures, **dict(zip(AT_PREVALENCE, at, strict=False))}
