"""Normalise the grey levels of a plane, so that brightness and contrast of a scanner matter less."""

import numpy as np

BLACK = 10
"""Grey levels up to this one are background, as JPEG leaves noise there: they stay, and do not count."""
MEAN, DEVIATION = 128.0, 48.0
"""Grey levels that `z_score` gives the mean and the standard deviation."""


def normalise_levels(plane: np.ndarray, kind: str) -> np.ndarray:
    """Return a plane with other grey levels; the same level everywhere in it becomes the same new one.

    Args:
        plane: uint8, of any shape.
        kind: none; histogram (each level becomes its rank, so that all levels are about as frequent); or z_score (mean
            and standard deviation become those above).

    Returns:
        uint8 of the same shape. Levels up to `BLACK` are as they were, and all others stay above it.
    """
    if kind == "none":
        return plane
    counts = np.bincount(plane.reshape(-1), minlength=256)
    counts[: BLACK + 1] = 0
    if not counts.any():
        return plane
    new = _equalise(counts) if kind == "histogram" else _standardise(counts)
    table = np.arange(256)
    table[BLACK + 1 :] = np.clip(np.rint(new), BLACK + 1, 255)[BLACK + 1 :]
    normalised: np.ndarray = table.astype(np.uint8)[plane]
    return normalised


def _equalise(counts: np.ndarray) -> np.ndarray:
    """Return the middle rank of each level, spread over the levels above `BLACK`, float64 [256]."""
    ranks = (np.cumsum(counts) - counts / 2) / counts.sum()
    levels: np.ndarray = BLACK + (255 - BLACK) * ranks
    return levels


def _standardise(counts: np.ndarray) -> np.ndarray:
    """Return each level with mean and standard deviation changed, float64 [256]; a single level becomes the mean."""
    levels = np.arange(256.0)
    mean = np.average(levels, weights=counts)
    deviation = np.sqrt(np.average((levels - mean) ** 2, weights=counts))
    standardised: np.ndarray = MEAN + DEVIATION * (levels - mean) / max(deviation, 1.0)
    return standardised
