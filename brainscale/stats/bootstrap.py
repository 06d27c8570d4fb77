"""Metrics whose interval comes from a bootstrap, from one pass over the resamples."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from brainscale import progress
from brainscale.seeds import derive
from brainscale.stats.estimate import Estimate, missing_class, name_method
from brainscale.stats.grouped_samples import ECE_NOISE, GroupedSamples
from brainscale.stats.intervals import bca_levels, t_quantile
from brainscale.stats.labelled import LabelledProbabilities
from brainscale.stats.resampling import (
    Map,
    draw_groups,
    draw_numbered,
    jackknife_blocks,
    leave_out,
    percentiles,
    rows_at_once,
)

RESAMPLES, FEWER_RESAMPLES = 2000, 1000
LARGE = 20_000
"""Samples beyond which there are fewer resamples, as each costs more and tells more, and each has its own seed."""
TASK = 25
"""Resamples, or blocks of the jackknife, of a large evaluation that are computed at a place."""
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


def bootstrap_metrics(samples: LabelledProbabilities, prevalence: float | None, run: Map = map) -> dict[str, Estimate]:
    """Return the metrics with bootstrap intervals (BCa, see `bca_levels`), whole groups drawn.

    The slope's interval is a jackknife's, the ECE's rests on its bins. A resample in which a metric is undefined is
    left out of its interval.

    Args:
        samples: one or more.
        prevalence: share of tumours to compute the two predictive values for, if any.
        run: applies a function to parts of the resamples and of the jackknife, where there are more than `LARGE`
            samples; the results do not depend on it.
    """
    n, grouped = len(samples), GroupedSamples.of(samples)
    values = metric_values(grouped, prevalence)
    block, blocks = jackknife_blocks(np.arange(grouped.groups))
    if n <= LARGE:
        resamples = RESAMPLES
        left_out = metrics_left_out(grouped, block, prevalence, range(blocks))
        drawn = _draw_and_measure(grouped, prevalence, resamples)
    else:
        resamples = FEWER_RESAMPLES
        left_out = _concatenate(
            progress.each(
                run(partial(metrics_left_out, grouped, block, prevalence), _parts(blocks)),
                "jackknife",
                blocks,
                "blocks",
                _count,
            )
        )
        drawn = _concatenate(
            progress.each(
                run(partial(_measure_numbered, grouped, prevalence), _parts(resamples)),
                "bootstrap",
                resamples,
                "resamples",
                _count,
            )
        )
    estimates, method = {}, name_method("bootstrap", samples.codes)
    is_separated = not (math.isfinite(values["calibration_slope"]) and np.isfinite(left_out["calibration_slope"]).all())
    for name, value in values.items():
        estimate = Estimate(value=value, n=n)
        if not math.isfinite(value):
            reason = missing_class(samples.labels, samples.classes) or REASONS[name]
            estimates[name] = Estimate(value=None, n=n, reason=reason)
        elif name in CALIBRATION and is_separated:
            estimates[name] = Estimate(value=None, n=n, reason=REASONS["calibration_slope"])
        elif name == "calibration_slope":
            estimates[name] = _with_jackknife(estimate, left_out[name], name_method("jackknife", samples.codes))
        else:
            draws = drawn[name][~np.isnan(drawn[name])]
            plain = name == "ece" or not len(draws)
            levels = PERCENTILES if plain else bca_levels(value, draws, left_out[name], grouped.groups)
            estimates[name] = _with_percentiles(replace(estimate, method=method), draws, resamples, levels)
    return {**estimates, "ece": _beyond_noise(estimates["ece"], drawn[ECE_NOISE])}


def _count(part: Mapping[str, np.ndarray]) -> int:
    """Return the number of resamples in a part of them."""
    return len(part["ece"])


def _parts(count: int) -> list[range]:
    return [range(start, min(start + TASK, count)) for start in range(0, count, TASK)]


def _draw_and_measure(grouped: GroupedSamples, prevalence: float | None, resamples: int) -> dict[str, np.ndarray]:
    """Return the metrics of resamples drawn one after another: name → float64 [R]."""
    draws = draw_groups(grouped.groups, resamples, derive(0, "bootstrap"), width=len(grouped))
    told = progress.each(draws, "bootstrap", resamples, "resamples", len)
    return _concatenate(grouped.measure(counts, prevalence) for counts in told)


def _measure_numbered(grouped: GroupedSamples, prevalence: float | None, numbers: range) -> dict[str, np.ndarray]:
    """Return the metrics of the resamples with these numbers: name → float64 [R]."""
    rows, seed = rows_at_once(len(grouped)), derive(0, "bootstrap")
    batches = (numbers[i : i + rows] for i in range(0, len(numbers), rows))
    return _concatenate(grouped.measure(draw_numbered(grouped.groups, b, seed), prevalence) for b in batches)


def metric_values(grouped: GroupedSamples, prevalence: float | None = None) -> dict[str, float]:
    """Return the value of each metric, NaN where it is undefined.

    Args:
        grouped: the samples.
        prevalence: share of tumours to compute the two predictive values for, if any.
    """
    values = _with_slopes(grouped, np.ones((1, grouped.groups)), prevalence)
    return {name: float(value) for name, (value,) in values.items()}


def metrics_left_out(
    grouped: GroupedSamples, block: np.ndarray, prevalence: float | None, numbers: range
) -> dict[str, np.ndarray]:
    """Return the value of each metric without one block of groups after another: name → float64 [numbers].

    Args:
        grouped: the samples.
        block: int [G], block of each group.
        prevalence: share of tumours to compute the two predictive values for, if any.
        numbers: numbers of the blocks.
    """
    weights = leave_out(block, numbers, width=len(grouped))
    return _concatenate(_with_slopes(grouped, batch, prevalence) for batch in weights)


def _with_slopes(grouped: GroupedSamples, weights: np.ndarray, prevalence: float | None) -> dict[str, np.ndarray]:
    """Return all metrics of resamples; the bootstrap does without the slope, which takes the longest."""
    values = grouped.measure(weights, prevalence)
    del values[ECE_NOISE]
    return {**values, "calibration_slope": grouped.slopes(weights)}


def _concatenate(parts: Iterable[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return values by name [R] of all parts, in their order."""
    first, *others = parts
    return {name: np.concatenate([values, *(part[name] for part in others)]) for name, values in first.items()}


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
