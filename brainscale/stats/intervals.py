"""How sure a figure is: Wilson's interval, DeLong's variance, and the bootstrap by group."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm, rankdata, t

Z = float(norm.ppf(0.975))
CELLS = 1 << 21  # numbers in one piece of the resamples' weights: 16 MiB


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


def group_codes(groups: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Numbers 0 … G − 1 [N] of the groups, in the order of their names; a sample of no group is its own."""
    names = [("1", str(i)) if group is None else ("0", str(group)) for i, group in enumerate(groups)]
    number = {name: code for code, name in enumerate(sorted(set(names)))}
    return np.array([number[name] for name in names], np.int64)


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


def drawn_groups(size: int, resamples: int, seed: int, *, width: int) -> Iterator[np.ndarray]:
    """How often each of `size` groups is drawn: int64 [some, size], `resamples` rows in all.

    Args:
        size: how many groups there are, and are drawn.
        resamples: how many times.
        seed: of the draws.
        width: numbers that one resample is to become; how many rows a piece has hangs on it, and nothing else.
    """
    generator = np.random.default_rng(seed)
    rows = max(1, CELLS // width)
    for start in range(0, resamples, rows):
        some = min(rows, resamples - start)
        drawn = generator.integers(0, size, (some, size)) + size * np.arange(some)[:, None]
        yield np.bincount(drawn.ravel(), minlength=some * size).reshape(some, size)


def percentiles(draws: np.ndarray, low: float = 2.5, high: float = 97.5) -> tuple[float, float]:
    """Two percentiles [R ≥ 1], each a draw: the outer one, so infinities stay what they are."""
    at_low = float(np.percentile(draws, low, method="lower"))
    return at_low, float(np.percentile(draws, high, method="higher"))


def jackknife_weights(codes: np.ndarray, blocks: int = 200) -> np.ndarray:
    """Every sample but those of one block of groups, in each row: float64 [blocks, N], a group a block where few.

    Args:
        codes: int [N], numbers 0 … G − 1 of the samples' groups.
        blocks: at most; with more groups, each row leaves out several.
    """
    _, at = np.unique(codes, return_inverse=True)
    some = min(int(at.max()) + 1, blocks)
    return np.asarray(at % some != np.arange(some)[:, None], np.float64)


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
