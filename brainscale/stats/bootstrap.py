"""Metrics whose interval comes from a bootstrap, from one pass over the resamples."""

import math
from dataclasses import replace

import numpy as np

from brainscale.seeds import derive
from brainscale.stats import calibration, weighted_metrics
from brainscale.stats.estimate import Estimate, missing_class, name_method
from brainscale.stats.intervals import bca_levels, t_quantile
from brainscale.stats.labelled import LabelledProbabilities
from brainscale.stats.resampling import draw_groups, jackknife_weights, percentiles

RESAMPLES, FEWER_RESAMPLES = 2000, 1000
LARGE = 20_000  # samples beyond which fewer resamples do: each costs more, and tells more
AT_PREVALENCE = ("ppv_at_prevalence", "npv_at_prevalence")
PERCENTILES = (2.5, 97.5)
BIASED = "noise in the bins raises it: the true value is probably lower"
WITHIN_NOISE = f"{BIASED}, and may be 0"
SEPARATE = "no interval: too many resamples separate the classes"
CALIBRATION = ("calibration_slope", "calibration_intercept")
REASONS = {
    "mcc": "all predictions are the same",
    "calibration_slope": "the probabilities separate the classes, but for few samples at most, or are the same",
    "ppv_at_prevalence": "no sample is predicted to have a tumour",
    "npv_at_prevalence": "every sample is predicted to have a tumour",
}
"""Why a metric is undefined though every class has a sample."""


def bootstrap_metrics(samples: LabelledProbabilities, prevalence: float | None) -> dict[str, Estimate]:
    """Return the metrics with bootstrap intervals (BCa, see `bca_levels`), whole groups drawn.

    The slope's interval is a jackknife's, the ECE's rests on its bins. A resample in which a metric is undefined is
    left out of its interval.

    Args:
        samples: one or more.
        prevalence: share of tumours to compute the two predictive values for, if any.
    """
    n, size = len(samples), len(np.unique(samples.codes))
    resamples = RESAMPLES if n <= LARGE else FEWER_RESAMPLES
    values = metrics_of_resamples(np.ones((1, n)), samples, prevalence)
    left_out = metrics_of_resamples(jackknife_weights(samples.codes), samples, prevalence)
    drawn, noise = [], []
    confidence, correct = confidence_and_outcome(samples)
    own_gaps = calibration.calibration_gaps(np.ones((1, n)), confidence, correct)
    _, group = np.unique(samples.codes, return_inverse=True)
    for counts in draw_groups(size, resamples, derive(0, "bootstrap"), width=n):
        weights = counts[:, group]
        drawn.append(metrics_of_resamples(weights.astype(np.float64), samples, prevalence))
        noise.append(np.abs(calibration.calibration_gaps(weights, confidence, correct) - own_gaps).sum(1))
    estimates = {}
    is_separated = not (
        math.isfinite(values["calibration_slope"][0]) and np.isfinite(left_out["calibration_slope"]).all()
    )
    for name, (value,) in values.items():
        estimate = Estimate(value=float(value), n=n)
        if not math.isfinite(value):
            reason = missing_class(samples.labels, samples.classes) or REASONS[name]
            estimates[name] = Estimate(value=None, n=n, reason=reason)
        elif name in CALIBRATION and is_separated:
            estimates[name] = Estimate(value=None, n=n, reason=REASONS["calibration_slope"])
        elif name == "calibration_slope":
            estimates[name] = _with_jackknife(estimate, left_out[name], name_method("jackknife", samples.codes))
        else:
            draws = np.concatenate([batch[name] for batch in drawn])
            draws = draws[~np.isnan(draws)]
            plain = name == "ece" or not len(draws)
            levels = PERCENTILES if plain else bca_levels(value, draws, left_out[name], size)
            method = name_method("bootstrap", samples.codes)
            estimates[name] = _with_percentiles(replace(estimate, method=method), draws, resamples, levels)
    return {**estimates, "ece": _beyond_noise(estimates["ece"], np.concatenate(noise))}


def _with_percentiles(estimate: Estimate, draws: np.ndarray, resamples: int, levels: tuple[float, float]) -> Estimate:
    """Return the estimate with two percentiles of its draws, stretched to hold its value."""
    if len(draws) < resamples // 10:
        return replace(estimate, method=None, reason="no interval: too few samples of some class")
    low, high = percentiles(draws, *levels)
    if not math.isfinite(high - low):
        return replace(estimate, method=None, reason=SEPARATE)
    if low == high:  # one point, as if nothing were uncertain
        return replace(estimate, method=None, reason="no interval: every resample gives the same value")
    assert estimate.value is not None  # noqa: S101 - for the type checker
    return replace(estimate, low=min(low, estimate.value), high=max(high, estimate.value))


def _with_jackknife(estimate: Estimate, left_out: np.ndarray, method: str) -> Estimate:
    """Return the estimate with Tukey's jackknife interval (R. G. Miller, Biometrika 61, 1974).

    Resamples of few patients separate the classes more than the patients do, which pulls percentiles of the slope up.

    Args:
        estimate: with its value.
        left_out: [blocks], value of the metric without each block of groups.
        method: name of the method.
    """
    size = len(left_out)
    if size < 2 or not np.isfinite(left_out).all():
        return replace(estimate, reason=SEPARATE)
    half = t_quantile(size) * math.sqrt((size - 1) * float(left_out.var()))
    if half == 0:
        return replace(estimate, reason="no interval: every sample left out gives the same value")
    assert estimate.value is not None  # noqa: S101 - for the type checker
    return replace(estimate, low=estimate.value - half, high=estimate.value + half, method=method)


def _beyond_noise(estimate: Estimate, noise: np.ndarray) -> Estimate:
    """Return the ECE's interval: down to what noise in the bins cannot explain, up to the basic bootstrap's end.

    ECE and truth differ by no more than the bins' gaps do in sum, so the value less 97.5 % of that sum's resamples is
    a lower end for any truth, 0 too. As resamples' ECE lies above the samples', so does the samples' above the truth:
    hence the basic bootstrap (A. C. Davison and D. V. Hinkley, 1997, 5.2) above.

    Args:
        estimate: with percentiles.
        noise: [R], sums of the bins' differences between a resample's gaps and the samples'.
    """
    if estimate.value is None or estimate.low is None:
        return estimate
    low = max(0.0, estimate.value - percentiles(noise)[1])
    high = min(1.0, 2 * estimate.value - estimate.low)
    if low == high:
        return replace(estimate, low=None, high=None, method=None, reason="no interval: the samples' ECE is 0")
    return replace(estimate, low=low, high=high, reason=BIASED if low > 0 else WITHIN_NOISE)


def confidence_and_outcome(samples: LabelledProbabilities) -> tuple[np.ndarray, np.ndarray]:
    """Return what the ECE compares: a probability [n], and whether it came true [n].

    With two classes the probability of a tumour and whether there is one; with more, the highest probability and
    whether its class is the label.
    """
    if len(samples.classes) == 2:
        return samples.tumour_probability, samples.has_tumour
    return samples.probabilities.max(1), samples.probabilities.argmax(1) == samples.labels


def metrics_of_resamples(
    weights: np.ndarray, samples: LabelledProbabilities, prevalence: float | None
) -> dict[str, np.ndarray]:
    """Return the value of each metric in each resample: name → float [R].

    Args:
        weights: float [R, n], how often each resample holds each sample.
        samples: the samples.
        prevalence: share of tumours to compute the two predictive values for, if any.
    """
    labels, probabilities = samples.labels, samples.probabilities
    has_tumour, probability = samples.has_tumour, samples.tumour_probability
    counts = weighted_metrics.confusion_matrices(weights, labels, samples.predicted, len(samples.classes))
    auroc, precision = weighted_metrics.macro_ranking(weights, labels, probabilities)
    values = {
        "balanced_accuracy": weighted_metrics.macro_recall(counts),
        "auroc": auroc,
        "average_precision": precision,
        "f1": weighted_metrics.f1(counts),
        "mcc": weighted_metrics.mcc(counts),
        "macro_precision": weighted_metrics.macro_precision(counts),
        "macro_recall": weighted_metrics.macro_recall(counts),
        "brier": weighted_metrics.weighted_mean(weights, weighted_metrics.brier_losses(labels, probabilities)),
        "log_loss": weighted_metrics.weighted_mean(weights, weighted_metrics.log_losses(labels, probabilities)),
        "ece": calibration.expected_calibration_error(weights, *confidence_and_outcome(samples)),
        "calibration_slope": calibration.calibration_slope(weights, has_tumour, probability),
        "calibration_intercept": calibration.calibration_intercept(weights, has_tumour, probability),
    }
    if prevalence is not None:
        values |= zip(AT_PREVALENCE, weighted_metrics.predictive_values(counts, prevalence), strict=True)
    return values
