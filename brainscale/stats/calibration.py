"""Calibration of probabilities: expected calibration error, calibration slope and intercept.

All are functions of weights [R, n], as in `brainscale.stats.weighted_metrics`.
"""

import numpy as np
from scipy.special import expit, logit

from brainscale.stats.weighted_metrics import CLIP, ratio

ECE_BINS = 15
ITERATIONS = 100
LONGEST = 2.0  # of one Newton step, in units of the standardised logit: full steps may fly off
SHORTEST = 1e-8  # a step under this ends the search
TINY = 1e-30  # instead of 0 below the line


def expected_calibration_error(weights: np.ndarray, confidence: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Return the ECE [R] over 15 bins of equal width (C. Guo et al., ICML 2017).

    The resamples' own ECE lies above the samples', as the samples' lies above the truth: noise in a bin
    adds, whatever its sign.

    Args:
        weights: [R, n].
        confidence: float [n], probability that the model gives.
        correct: bool or 0/1 [n], whether what it gives the probability of is true.
    """
    return np.asarray(np.abs(calibration_gaps(weights, confidence, correct)).sum(1))


def calibration_gaps(weights: np.ndarray, confidence: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Return confidence less outcome in each bin, in shares of all samples [R, bins]: their sizes add to the ECE."""
    bins = np.eye(ECE_BINS)[np.minimum((confidence * ECE_BINS).astype(np.int64), ECE_BINS - 1)]
    return ratio(weights @ (bins * (confidence - correct)[:, None]), weights.sum(1, keepdims=True))


def calibration_slope(weights: np.ndarray, has_tumour: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Return the slope [R] of the logistic regression of the label on the probability's logit, intercept free.

    1 when calibrated, below 1 when overconfident (D. R. Cox, Biometrika 45, 1958). ±infinity where the logits
    separate the classes; NaN where a class has no sample or all logits are equal.

    Args:
        weights: [R, n].
        has_tumour: bool [n].
        probability: float [n] of a tumour.
    """
    x = logit(np.clip(probability, CLIP, 1 - CLIP))
    scale = float(x.std()) or 1.0
    standard = (x - x.mean()) / scale
    slopes = _separated(weights, has_tumour, x)
    fit = np.flatnonzero(slopes == 0)
    slopes[fit] = _newton(weights[fit], has_tumour, standard, np.zeros_like(x), joint=True)[:, 1] / scale
    return slopes


def calibration_intercept(weights: np.ndarray, has_tumour: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Return the intercept [R] of that regression with the slope fixed at 1: calibration in the large.

    0 when the mean probability is right, above 0 when tumours are more frequent. NaN where a class has no sample.
    """
    x = logit(np.clip(probability, CLIP, 1 - CLIP))
    intercepts = np.full(len(weights), np.nan)
    positive, negative = weights @ has_tumour, weights @ ~has_tumour
    fit = np.flatnonzero((positive > 0) & (negative > 0))
    intercepts[fit] = _newton(weights[fit], has_tumour, np.zeros_like(x), x, joint=False)[:, 0]
    return intercepts


def _separated(weights: np.ndarray, has_tumour: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return ±inf [R] where x separates the classes, NaN where nothing can be fitted, 0 where a fit exists."""
    order = np.argsort(x)
    x, drawn = x[order], weights[:, order] > 0
    positive, negative = drawn & has_tumour[order], drawn & ~has_tumour[order]
    (low_p, high_p), (low_n, high_n) = _ends(positive, x), _ends(negative, x)
    result = np.where(low_p >= high_n, np.inf, np.where(low_n >= high_p, -np.inf, 0.0))
    constant = np.maximum(high_p, high_n) == np.minimum(low_p, low_n)
    return np.where(constant | ~positive.any(1) | ~negative.any(1), np.nan, result)


def _ends(drawn: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and the highest [R] of the ascending x [n] that are drawn [R, n]."""
    return x[drawn.argmax(1)], x[drawn.shape[1] - 1 - drawn[:, ::-1].argmax(1)]


def _newton(
    weights: np.ndarray, has_tumour: np.ndarray, x: np.ndarray, offset: np.ndarray, *, joint: bool
) -> np.ndarray:
    """Return intercept and slope [R, 2] of weighted logistic regressions; NaN where the search did not end.

    Newton's method on all resamples at once, from the fit to all of them together. Those that have
    converged drop out.
    """
    current, converged = np.zeros((len(weights), 2)), np.full((len(weights), 2), np.nan)
    if len(weights) > 1:
        current += np.nan_to_num(_newton(weights.mean(0, keepdims=True), has_tumour, x, offset, joint=joint))
    active = np.arange(len(weights))
    for _ in range(ITERATIONS):
        if not len(active):
            break
        predictor = offset + current[active, :1] + current[active, 1:] * x
        step = _step(weights[active], has_tumour, x, predictor, joint)
        current[active] += step
        done = np.abs(step).max(1) < SHORTEST
        converged[active[done]] = current[active[done]]
        active = active[~done]
    return converged


def _step(weights: np.ndarray, has_tumour: np.ndarray, x: np.ndarray, predictor: np.ndarray, joint: bool) -> np.ndarray:
    """Return one Newton step [R, 2], no longer than LONGEST."""
    p = expit(predictor)
    residual, curvature = weights * (has_tumour - p), weights * p * (1 - p)
    g0, h0 = residual.sum(1), np.maximum(curvature.sum(1), TINY)
    if not joint:
        return np.stack([np.clip(g0 / h0, -LONGEST, LONGEST), np.zeros(len(g0))], 1)
    g1, h1, h2 = residual @ x, curvature @ x, curvature @ x**2
    determinant = np.maximum(h0 * h2 - h1**2, TINY)
    step = np.stack([h2 * g0 - h1 * g1, h0 * g1 - h1 * g0], 1) / determinant[:, None]
    length = np.abs(step).max(1, keepdims=True)
    return np.asarray(step * LONGEST / np.maximum(length, LONGEST))
