"""Figures whose interval is a bootstrap's, from one pass over the resamples."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from brainscale import calibration, weighted
from brainscale.calls import tumour
from brainscale.intervals import bootstrap_weights, percentiles
from brainscale.seeds import derive

RESAMPLES, FEWER = 2000, 1000
LARGE = 20_000  # samples beyond which fewer resamples do: each costs more, and tells more
AT_PREVALENCE = ("ppv_at_prevalence", "npv_at_prevalence")
BIASED = "noise in the bins raises it: the truth is likely lower"
REASONS = {
    "mcc": "every sample is called alike",
    "calibration_slope": "the probabilities separate the classes, or are all alike",
    "ppv_at_prevalence": "no sample is called a tumour",
    "npv_at_prevalence": "every sample is called a tumour",
}
"""Why a figure does not exist though every class has a sample."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure; a value or an interval that does not exist is None, with the reason."""

    value: float | None
    low: float | None = None
    high: float | None = None
    method: str | None = None
    n: int
    reason: str | None = None


def absent(labels: np.ndarray, classes: Sequence[str]) -> str | None:
    """What to say where a class has no sample; None where each has one."""
    return next((f"no sample of class {name}" for i, name in enumerate(classes) if not (labels == i).any()), None)


def bootstrapped(
    labels: np.ndarray,
    probabilities: np.ndarray,
    called: np.ndarray,
    classes: Sequence[str],
    codes: np.ndarray,
    prevalence: float | None,
) -> dict[str, Figure]:
    """The figures whose interval is a percentile bootstrap's (B. Efron, 1979), whole groups drawn.

    A resample in which a figure does not exist is left out of its interval.

    Args:
        labels: int [N ≥ 1], class indices.
        probabilities: float [N, classes].
        called: int [N], predicted classes.
        classes: names.
        codes: int [N], number of each sample's group.
        prevalence: for the two predictive values there, if any.
    """
    n, method = len(labels), "bootstrap by group" if len(np.unique(codes)) < len(codes) else "bootstrap"
    values = weighted_figures(np.ones((1, n)), labels, probabilities, called, prevalence)
    resamples = RESAMPLES if n <= LARGE else FEWER
    pieces = bootstrap_weights(codes, resamples, derive(0, "bootstrap"))
    drawn = [weighted_figures(piece.astype(np.float64), labels, probabilities, called, prevalence) for piece in pieces]
    figures = {}
    for name, (value,) in values.items():
        if not math.isfinite(value):
            figures[name] = Figure(value=None, n=n, reason=absent(labels, classes) or REASONS[name])
        else:
            draws = np.concatenate([piece[name] for piece in drawn])
            figures[name] = _interval(
                Figure(value=float(value), method=method, n=n), draws[~np.isnan(draws)], resamples
            )
    return {**figures, "ece": _reflected(figures["ece"])}


def _interval(figure: Figure, draws: np.ndarray, resamples: int) -> Figure:
    """The figure with its percentiles, stretched to hold its value."""
    if len(draws) < resamples // 10:
        return replace(figure, method=None, reason="no interval: too few samples of some class")
    low, high = percentiles(draws)
    if not math.isfinite(high - low):
        return replace(figure, method=None, reason="no interval: too many resamples separate the classes")
    if low == high:  # one point, as if nothing were uncertain
        return replace(figure, method=None, reason="no interval: every resample gives the same figure")
    assert figure.value is not None  # noqa: S101 - for the type checker
    return replace(figure, low=min(low, figure.value), high=max(high, figure.value))


def _reflected(figure: Figure) -> Figure:
    """The ECE's interval, turned round its value (the basic bootstrap of Davison and Hinkley, 1997, 5.2).

    As resamples' ECE lies above the samples', so does the samples' above the truth: percentiles would hold
    the truth almost never. Where the truth is next to 0, these still hold it too seldom.
    """
    if figure.value is None or figure.low is None or figure.high is None:
        return figure
    low, high = max(0.0, 2 * figure.value - figure.high), min(1.0, 2 * figure.value - figure.low)
    if low == high:
        return replace(figure, low=None, high=None, method=None, reason="no interval: the samples' ECE is 0")
    return replace(figure, low=low, high=high, method=f"reflected {figure.method}", reason=BIASED)


def weighted_figures(
    weights: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, called: np.ndarray, prevalence: float | None
) -> dict[str, np.ndarray]:
    """Figures [R] for weights [R, N]."""
    sick, probability = labels > 0, tumour(probabilities)
    two = probabilities.shape[1] == 2
    counts = weighted.confusions(weights, labels, called, probabilities.shape[1])
    area, precision = weighted.macro_ranking(weights, labels, probabilities)
    confidence, right = (probability, sick) if two else (probabilities.max(1), called == labels)
    figures = {
        "balanced_accuracy": weighted.macro_recall(counts),
        "auroc": area,
        "average_precision": precision,
        "f1": weighted.f1(counts),
        "mcc": weighted.mcc(counts),
        "macro_precision": weighted.macro_precision(counts),
        "macro_recall": weighted.macro_recall(counts),
        "brier": weighted.mean(weights, weighted.brier_losses(labels, probabilities)),
        "log_loss": weighted.mean(weights, weighted.log_losses(labels, probabilities)),
        "ece": calibration.expected_calibration_error(weights, confidence, right),
        "calibration_slope": calibration.calibration_slope(weights, sick, probability),
        "calibration_intercept": calibration.calibration_intercept(weights, sick, probability),
    }
    at = () if prevalence is None else weighted.predictive_values(counts, prevalence)
    return {**figures, **dict(zip(AT_PREVALENCE, at, strict=False))}
