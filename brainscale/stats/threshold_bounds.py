"""Choose a threshold that reaches a sensitivity or specificity with a stated confidence, on validation samples only.

The threshold with a share of 0.95 on validation has less on other samples about half of the time. So the share's lower
confidence bound has to reach the target. With independent samples the bound is exact for any distribution of scores:
the k-th highest of n tumours' scores has a sensitivity distributed as Beta(k, n − k + 1) (S. S. Wilks, Annals of
Mathematical Statistics 12, 1941), whose quantile is the bound of C. J. Clopper and E. S. Pearson (Biometrika 26, 1934).
For samples in groups, n becomes the number of independent samples that they are worth.
"""

import numpy as np
from scipy.stats import beta, norm, rankdata, t

from brainscale.errors import UsageError
from brainscale.stats.resampling import count_distinct
from brainscale.stats.target_bound import Metric, TargetBound
from brainscale.stats.thresholds import cut_below, require_both_classes


def threshold_for_target(
    labels: np.ndarray,
    scores: np.ndarray,
    metric: Metric,
    target: float,
    *,
    confidence: float,
    codes: np.ndarray | None = None,
) -> tuple[float, TargetBound]:
    """Return the threshold whose lower bound reaches a target, and the bound.

    For sensitivity it is the highest such threshold, for specificity the lowest. Where validation is too small for the
    target, it is the threshold with the best bound, which all of its samples reach.

    Args:
        labels: bool or 0/1 [n], a tumour or none.
        scores: float [n], higher for a tumour, 0 to 1.
        metric: what the target is for.
        target: above 0 and at most 1.
        confidence: confidence of the bound, above 0 and below 1.
        codes: int [n], number of each sample's group; each its own without them.

    Raises:
        UsageError: the target is not a share.
        ManifestError: a class has no sample, or a score is not a finite number.
    """
    if not 0 < target <= 1:
        raise UsageError(f"{metric} {target:g} cannot be a target: give a share such as 0.95")
    scores, has_tumour = np.asarray(scores, np.float64), require_both_classes(labels, scores)
    counted = has_tumour if metric == "sensitivity" else ~has_tumour
    groups = np.arange(len(scores)) if codes is None else codes
    own, own_groups = scores[counted], groups[counted]
    count, size = len(own), independent_samples(own, own_groups, confidence)
    bounds = lower_bounds(np.arange(1, count + 1) / count, size, confidence)
    chosen = int(np.argmax(bounds >= target)) if bounds[-1] >= target else count - 1
    distinct = np.unique(scores)
    if metric == "sensitivity":
        lowest = np.searchsorted(distinct, np.sort(own)[::-1][chosen])
        threshold = cut_below(distinct, int(lowest))
        observed = float((own >= threshold).mean())
    else:
        highest = np.searchsorted(distinct, np.sort(own)[chosen])
        cuts = np.unique(np.append(distinct, 1.0))
        threshold = cut_below(cuts, min(int(highest) + 1, len(cuts) - 1))
        observed = float((own < threshold).mean())
        if observed < (chosen + 1) / count:  # scores of 1, which no threshold is above
            bounds[chosen] = lower_bounds(np.array([observed]), size, confidence)[0]
    return threshold, TargetBound(
        metric=metric,
        target=target,
        confidence=confidence,
        lower_bound=float(bounds[chosen]),
        observed=observed,
        samples=count,
        groups=count_distinct(own_groups),
        independent_samples=size,
    )


def lower_bounds(shares: np.ndarray, size: float, confidence: float) -> np.ndarray:
    """Return the one-sided lower bounds of proportions [k] (Clopper and Pearson, 1934); 0 for a share of 0.

    Args:
        shares: float [k], observed proportions.
        size: number of independent samples, not always a whole number.
        confidence: confidence of each bound.
    """
    successes = shares * size
    bounds = beta.ppf(1 - confidence, np.maximum(successes, 1e-12), size - successes + 1)
    return np.asarray(np.where(shares > 0, bounds, 0.0))


def independent_samples(scores: np.ndarray, codes: np.ndarray, confidence: float) -> float:
    """Return how many independent samples those in groups are worth, for a bound at any threshold of their scores.

    n is divided by the design effect, 1 + (m − 1) ρ with the size-weighted mean m of the groups (L. Kish, 1965), and
    corrected for the few groups that ρ is estimated from by quantiles of Student's t (E. L. Korn and B. I. Graubard,
    Survey Methodology 24, 1998). ρ is the correlation within groups of the scores' normal scores, which does not depend
    on the threshold: few samples lie beyond it, too few to estimate how their errors cluster.

    Args:
        scores: float [n ≥ 1].
        codes: int [n], number of each sample's group.
        confidence: confidence of the bound.

    Returns:
        n where every group has one sample.
    """
    n = len(scores)
    _, group, sizes = np.unique(codes, return_inverse=True, return_counts=True)
    count = len(sizes)
    if count == n:
        return float(n)
    if count == 1:
        return 1.0
    values = norm.ppf((rankdata(scores) - 0.5) / n)
    means = np.bincount(group, values) / sizes
    between = float((sizes * (means - values.mean()) ** 2).sum()) / (count - 1)
    within = float(((values - means[group]) ** 2).sum()) / (n - count)
    usual = (n - float((sizes**2).sum()) / n) / (count - 1)
    spread = between + (usual - 1) * within
    correlation = min(1.0, max(0.0, (between - within) / spread)) if spread > 0 else 1.0
    effect = 1 + (float((sizes**2).sum()) / n - 1) * correlation
    few = float(t.ppf(confidence, n - 1) / t.ppf(confidence, count - 1)) ** 2
    return max(1.0, n / effect * few)
