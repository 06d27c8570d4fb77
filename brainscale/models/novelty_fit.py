"""Fit what novelty is computed from: training samples give the distance, validation samples its scale."""

import numpy as np

from brainscale.models.novelty import NoveltyReference

QUANTILES = 1000
LEAST_SPREAD = 1e-3
"""Smallest standard deviation of a feature, relative to its size: below, rounding would be taken for variation."""
NEAREST = 1e-3
"""Smallest relative gap between two distances: engines differ by less than a thousandth of it."""


def fit_novelty(train: np.ndarray, val: np.ndarray) -> NoveltyReference | None:
    """Return what novelty is computed from; None where the features do not vary.

    Args:
        train: features of training samples, float32 [N, D].
        val: features of validation samples, float32 [M, D].
    """
    shift, projection = fit_residual(train)
    if not projection.any():
        return None
    nothing = np.empty(0, np.float32)
    reference = NoveltyReference(shift=shift, projection=projection, distances=nothing, shares=nothing)
    distances = reference.measure_distances(val)
    if np.ptp(distances) <= NEAREST * distances.max():
        return None
    knots, shares = calibrate(distances)
    return NoveltyReference(shift=shift, projection=projection, distances=knots, shares=shares)


def fit_residual(train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the means [D] of features, and the projection [D, K] onto the later half of their principal components.

    Features are divided by their standard deviations first; those that do not vary count for nothing.
    """
    features = train.astype(np.float64)
    shift, spread = features.mean(0), features.std(0)
    varies = spread > LEAST_SPREAD * np.abs(features).max(0)
    standard = (features[:, varies] - shift[varies]) / spread[varies]
    _, axes = np.linalg.eigh(standard.T @ standard)  # the component of least variance first
    minor = axes[:, : len(axes) - len(axes) // 2]
    projection = np.zeros((len(shift), minor.shape[1]), np.float32)
    projection[varies] = minor / spread[varies, None]
    return shift.astype(np.float32), projection


def calibrate(distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rising distances, and for each the share of samples that are nearer, from 0 to 1, both float32.

    Args:
        distances: distances of validation samples, not all nearly equal. Those that are nearly equal count as one with
            their mean share, so that novelty has no jumps.
    """
    ordered = np.sort(distances.astype(np.float64))
    if len(ordered) > QUANTILES:
        ordered = np.quantile(ordered, np.linspace(0, 1, QUANTILES))
    shares = np.linspace(0, 1, len(ordered))
    starts = [0]
    for i, distance in enumerate(ordered):
        if distance - ordered[starts[-1]] > NEAREST * distance:
            starts.append(i)
    counts = np.diff([*starts, len(ordered)])
    merged = np.add.reduceat(shares, starts) / counts
    merged[0], merged[-1] = 0, 1
    return ordered[starts].astype(np.float32), merged.astype(np.float32)
