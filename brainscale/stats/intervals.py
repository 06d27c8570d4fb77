"""How sure a figure is: Wilson's interval, DeLong's variance, and the bootstrap by group."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy.stats import norm, t

from brainscale.stats.resampling import drawn_groups, group_codes

Z = float(norm.ppf(0.975))


def wilson(successes: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % score interval of a proportion; n ≥ 1 (E. B. Wilson, JASA 22, 1927)."""
    share, z2 = successes / n, Z * Z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return min(max(0.0, centre - half), share), max(min(1.0, centre + half), share)


def effective_size(right: np.ndarray, codes: np.ndarray) -> float:
    """How many independent samples some in groups are worth: their number by the design effect (L. Kish, 1965).

    Args:
        right: bool [n], n ≥ 1.
        codes: int [n], number of each one's group.

    Returns:
        n where every group has one sample; the number of groups where all are right, or none.
    """
    n, share = len(right), float(right.mean())
    _, at, counts = np.unique(codes, return_inverse=True, return_counts=True)
    count = len(counts)
    if count == n:
        return float(n)
    sums = np.bincount(at, right - share)
    variance = count / max(1, count - 1) * float((sums**2).sum()) / n**2
    return float(min(n, max(1.0, share * (1 - share) / variance))) if variance > 0 else float(count)


def bootstrap_weights(groups: Sequence[Any] | np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each sample stands in each resample, whole groups drawn with replacement.

    Samples of one patient hang together, so the patient is drawn (C. A. Field and A. H. Welsh, JRSS B 69,
    2007). The pieces together are the same whatever their size.

    Args:
        groups: [N], patient or group of duplicates of each sample; N ≥ 1.
        resamples: how many.
        seed: of the draws.

    Yields:
        int64 [some, N], `resamples` rows in all.
    """
    codes = group_codes(groups)
    for drawn in drawn_groups(int(codes.max()) + 1, resamples, seed, width=len(codes)):
        yield drawn[:, codes]


def t_quantile(size: int) -> float:
    """97.5 % of Student's t for a spread estimated from `size` groups: what Z is with many."""
    return float(t.ppf(0.975, max(1, size - 1)))


def bca_levels(value: float, draws: np.ndarray, jackknife: np.ndarray, size: int) -> tuple[float, float]:
    """Percentiles of the draws that are the ends of the bias-corrected and accelerated 95 % interval.

    BCa is B. Efron's (JASA 82, 1987); that it starts from t instead of normal quantiles, as few groups spread less than
    the population, is T. C. Hesterberg's expansion (The American Statistician 69, 2015).

    Args:
        value: of the figure.
        draws: [R ≥ 1] of the resamples.
        jackknife: [blocks], the figure without each block of groups.
        size: how many groups there are.
    """
    below = float(((draws < value).mean() + (draws <= value).mean()) / 2)
    least = 1 / (len(draws) + 1)
    bias = float(norm.ppf(min(max(below, least), 1 - least)))
    pull = jackknife.mean() - jackknife if np.isfinite(jackknife).all() else np.zeros(1)
    spread = float((pull**2).sum())
    acceleration = float((pull**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    reach = math.sqrt(size / max(1, size - 1)) * t_quantile(size)
    ends = np.array([bias - reach, bias + reach])
    if (acceleration * ends >= 1).any():  # the correction has no meaning so far out
        acceleration = 0.0
    low, high = 100 * norm.cdf(bias + ends / (1 - acceleration * ends))
    return float(low), float(high)
