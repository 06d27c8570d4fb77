"""DeLong's variance and test of areas under the ROC curve, by group."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, rankdata


def placements(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each score stands among those of the other class, by midranks.

    X. Sun and W. Xu, IEEE Signal Processing Letters 21, 2014: O(N log N) instead of all pairs.

    Args:
        positive: scores [m] of samples with a tumour, m ≥ 1.
        negative: scores [n] of samples without, n ≥ 1.

    Returns:
        For each positive the share [m] of negatives below it, and for each negative the share [n] of
        positives above it; a tie counts half.
    """
    m, n = len(positive), len(negative)
    together = rankdata(np.concatenate([positive, negative]))
    of_positive = (together[:m] - rankdata(positive)) / n
    of_negative = 1 - (together[m:] - rankdata(negative)) / m
    return of_positive, of_negative


def delong(scores: np.ndarray, labels: np.ndarray, codes: np.ndarray | None = None) -> tuple[float, float]:
    """AUROC and its variance (DeLong, DeLong and Clarke-Pearson, Biometrics 44, 1988).

    Args:
        scores: float [N].
        labels: bool or 0/1 [N]; each side has a sample.
        codes: int [N], number of each sample's group; samples of one hang together.

    Returns:
        The AUROC, and DeLong's variance of it, Obuchowski's for samples in groups (NaN when a class has one sample,
        or one group).
    """
    sick = np.asarray(labels, bool)
    of_positive, of_negative = placements(scores[sick], scores[~sick])
    return float(of_positive.mean()), _variance(of_positive, of_negative, sick, codes)


@dataclass(frozen=True, kw_only=True)
class AreaPair:
    """Two AUROCs on the same samples."""

    area_a: float
    area_b: float
    difference: float  # a − b
    variance: float  # of the difference, its covariance taken off; NaN when a class has one sample
    p: float | None  # two-sided, of no difference; None where the variance gives none


def delong_pair(
    scores_a: np.ndarray, scores_b: np.ndarray, labels: np.ndarray, codes: np.ndarray | None = None
) -> AreaPair:
    """DeLong's test of two correlated AUROCs (Biometrics 44, 1988).

    var(a − b) = var(a) + var(b) − 2 cov(a, b) is the variance of the differences of the placements.

    Args:
        scores_a: float [N] of one model.
        scores_b: float [N] of the other, on the same samples.
        labels: bool or 0/1 [N]; each side has a sample.
        codes: int [N], number of each sample's group; samples of one hang together.
    """
    sick = np.asarray(labels, bool)
    positive_a, negative_a = placements(scores_a[sick], scores_a[~sick])
    positive_b, negative_b = placements(scores_b[sick], scores_b[~sick])
    area_a, area_b = float(positive_a.mean()), float(positive_b.mean())
    difference = area_a - area_b
    variance = _variance(positive_a - positive_b, negative_a - negative_b, sick, codes)
    p: float | None
    if variance > 0:
        p = float(2 * norm.sf(abs(difference) / math.sqrt(variance)))
    else:  # nothing varies: no difference is no evidence, a difference cannot be judged
        p = 1.0 if variance == 0 and difference == 0 else None
    return AreaPair(area_a=area_a, area_b=area_b, difference=difference, variance=variance, p=p)


def _variance(of_positive: np.ndarray, of_negative: np.ndarray, sick: np.ndarray, codes: np.ndarray | None) -> float:
    """DeLong's, by group (N. A. Obuchowski, Biometrics 53, 1997); the same where every group has one sample."""
    m, n = len(of_positive), len(of_negative)
    if codes is None:
        codes = np.arange(m + n)
    _, at = np.unique(codes, return_inverse=True)
    count = int(at.max()) + 1
    with_positive, with_negative = (len(np.unique(at[side])) for side in (sick, ~sick))
    if min(with_positive, with_negative) < 2:
        return math.nan
    positive = np.bincount(at[sick], of_positive - of_positive.mean(), count)
    negative = np.bincount(at[~sick], of_negative - of_negative.mean(), count)
    own = with_positive / (with_positive - 1) * (positive**2).sum() / m**2
    other = with_negative / (with_negative - 1) * (negative**2).sum() / n**2
    shared = count / (count - 1) * (positive * negative).sum() / (m * n)
    return max(0.0, float(own + other + 2 * shared))
