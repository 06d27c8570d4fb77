"""DeLong's variance and test of areas under the ROC curve, by group."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from brainscale.stats.resampling import count_distinct


def placements(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where each score stands among the scores of the other class, by midranks.

    Sorted scores need O(n log n), not all pairs (X. Sun and W. Xu, IEEE Signal Processing Letters 21, 2014).

    Args:
        positive: scores [m] of samples with a tumour, m ≥ 1.
        negative: scores [n] of samples without, n ≥ 1.

    Returns:
        For each positive the share [m] of negatives below it, and for each negative the share [n] of positives above
        it; a tie counts half.
    """
    m, n = len(positive), len(negative)
    return _count_below(positive, negative) / n, 1 - _count_below(negative, positive) / m


def _count_below(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return how many of the others are below each score; a tie counts half."""
    ascending = np.sort(others)
    return (np.searchsorted(ascending, scores) + np.searchsorted(ascending, scores, side="right")) / 2


def delong(scores: np.ndarray, labels: np.ndarray, codes: np.ndarray | None = None) -> tuple[float, float]:
    """Return the AUROC and its variance (DeLong, DeLong and Clarke-Pearson, Biometrics 44, 1988).

    Args:
        scores: float [n].
        labels: bool or 0/1 [n]; each class has a sample.
        codes: int [n], number of each sample's group; samples of a group are not independent.

    Returns:
        The AUROC, and DeLong's variance of it, Obuchowski's for samples in groups (NaN when a class has one sample,
        or one group).
    """
    has_tumour = np.asarray(labels, bool)
    of_positive, of_negative = placements(scores[has_tumour], scores[~has_tumour])
    return float(of_positive.mean()), _variance(of_positive, of_negative, has_tumour, codes)


@dataclass(frozen=True, kw_only=True)
class AurocPair:
    """Two AUROCs on the same samples.

    Attributes:
        auroc_a: AUROC of one model.
        auroc_b: AUROC of the other.
        difference: a − b.
        variance: variance of the difference; NaN when a class has one sample.
        p: two-sided p-value of no difference; None where the variance gives none.
    """

    auroc_a: float
    auroc_b: float
    difference: float
    variance: float
    p: float | None


def delong_pair(
    scores_a: np.ndarray, scores_b: np.ndarray, labels: np.ndarray, codes: np.ndarray | None = None
) -> AurocPair:
    """Compare two correlated AUROCs by DeLong's test (Biometrics 44, 1988).

    var(a − b) = var(a) + var(b) − 2 cov(a, b) is the variance of the differences of the placements.

    Args:
        scores_a: float [n] of one model.
        scores_b: float [n] of the other, on the same samples.
        labels: bool or 0/1 [n]; each class has a sample.
        codes: int [n], number of each sample's group; samples of a group are not independent.
    """
    has_tumour = np.asarray(labels, bool)
    positive_a, negative_a = placements(scores_a[has_tumour], scores_a[~has_tumour])
    positive_b, negative_b = placements(scores_b[has_tumour], scores_b[~has_tumour])
    auroc_a, auroc_b = float(positive_a.mean()), float(positive_b.mean())
    difference = auroc_a - auroc_b
    variance = _variance(positive_a - positive_b, negative_a - negative_b, has_tumour, codes)
    p: float | None
    if variance > 0:
        p = float(2 * ndtr(-abs(difference) / math.sqrt(variance)))
    else:  # nothing varies: no difference is no evidence, a difference cannot be judged
        p = 1.0 if variance == 0 and difference == 0 else None
    return AurocPair(auroc_a=auroc_a, auroc_b=auroc_b, difference=difference, variance=variance, p=p)


def _variance(
    of_positive: np.ndarray, of_negative: np.ndarray, has_tumour: np.ndarray, codes: np.ndarray | None
) -> float:
    """Return DeLong's variance by group (N. A. Obuchowski, Biometrics 53, 1997); DeLong's with groups of one."""
    m, n = len(of_positive), len(of_negative)
    if codes is None:
        codes = np.arange(m + n)
    _, group = np.unique(codes, return_inverse=True)
    count = int(group.max()) + 1
    positive_groups, negative_groups = (count_distinct(group[rows]) for rows in (has_tumour, ~has_tumour))
    if min(positive_groups, negative_groups) < 2:
        return math.nan
    positive = np.bincount(group[has_tumour], of_positive - of_positive.mean(), count)
    negative = np.bincount(group[~has_tumour], of_negative - of_negative.mean(), count)
    positive_term = positive_groups / (positive_groups - 1) * (positive**2).sum() / m**2
    negative_term = negative_groups / (negative_groups - 1) * (negative**2).sum() / n**2
    shared_term = count / (count - 1) * (positive * negative).sum() / (m * n)
    return max(0.0, float(positive_term + negative_term + 2 * shared_term))
