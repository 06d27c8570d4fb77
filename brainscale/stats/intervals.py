"""Confidence intervals: Wilson's, the design effect of groups, and the levels of a BCa bootstrap."""

import math

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit  # scipy.stats has the same and loads for half a second

Z = float(ndtri(0.975))


def wilson(successes: float, n: float) -> tuple[float, float]:
    """Return Wilson's 95 % score interval of a proportion; n ≥ 1 (E. B. Wilson, JASA 22, 1927)."""
    share, z2 = successes / n, Z * Z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return min(max(0.0, centre - half), share), max(min(1.0, centre + half), share)


def effective_size(correct: np.ndarray, codes: np.ndarray) -> float:
    """Return how many independent samples those in groups are worth: n by the design effect (L. Kish, 1965).

    Args:
        correct: bool [n], n ≥ 1.
        codes: int [n], number of each sample's group.

    Returns:
        n where every group has one sample; the number of groups where all samples are correct, or none.
    """
    n, share = len(correct), float(correct.mean())
    _, group, sizes = np.unique(codes, return_inverse=True, return_counts=True)
    count = len(sizes)
    if count == n:
        return float(n)
    sums = np.bincount(group, correct - share)
    variance = count / max(1, count - 1) * float((sums**2).sum()) / n**2
    return float(min(n, max(1.0, share * (1 - share) / variance))) if variance > 0 else float(count)


def t_quantile(size: int) -> float:
    """Return the 97.5 % quantile of Student's t for a spread estimated from `size` groups; near Z with many."""
    return float(stdtrit(max(1, size - 1), 0.975))


def bca_levels(value: float, draws: np.ndarray, jackknife: np.ndarray, size: int) -> tuple[float, float]:
    """Return the percentiles of the draws that end the bias-corrected and accelerated 95 % interval.

    BCa is B. Efron's (JASA 82, 1987); that it starts from t instead of normal quantiles, as few groups spread less than
    the population, is T. C. Hesterberg's expansion (The American Statistician 69, 2015).

    Args:
        value: value of the metric.
        draws: values [R ≥ 1] of the metric in the resamples.
        jackknife: values [blocks] of the metric without each block of groups.
        size: number of groups.
    """
    below = float(((draws < value).mean() + (draws <= value).mean()) / 2)
    least = 1 / (len(draws) + 1)
    bias = float(ndtri(min(max(below, least), 1 - least)))
    pull = jackknife.mean() - jackknife if np.isfinite(jackknife).all() else np.zeros(1)
    spread = float((pull**2).sum())
    acceleration = float((pull**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    reach = math.sqrt(size / max(1, size - 1)) * t_quantile(size)
    ends = np.array([bias - reach, bias + reach])
    if (acceleration * ends >= 1).any():  # the correction has no meaning so far out
        acceleration = 0.0
    low, high = 100 * ndtr(bias + ends / (1 - acceleration * ends))
    return float(low), float(high)
