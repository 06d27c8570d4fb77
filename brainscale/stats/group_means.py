"""The mean of a quantity over samples in groups, with its interval."""

import math

import numpy as np

from brainscale.stats.estimate import ONE_SAMPLE, Estimate, name_method
from brainscale.stats.intervals import t_quantile


def estimate_mean(values: np.ndarray, codes: np.ndarray) -> Estimate:
    """Return the mean with its 95 % interval by Student's t, groups as a whole (linearised; L. Kish, 1965).

    For a paired comparison, the values are the differences of the pairs.

    Args:
        values: float [n], n ≥ 1, finite.
        codes: int [n], number of each sample's group.
    """
    mean, n = float(values.mean()), len(values)
    _, group = np.unique(codes, return_inverse=True)
    count = int(group.max()) + 1
    if count < 2:
        return Estimate(value=mean, n=n, reason=ONE_SAMPLE)
    sums = np.bincount(group, values - mean)
    half = t_quantile(count) * math.sqrt(count / (count - 1) * float((sums**2).sum())) / n
    return Estimate(value=mean, low=mean - half, high=mean + half, method=name_method("t interval", codes), n=n)
