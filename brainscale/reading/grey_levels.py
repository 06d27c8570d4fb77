"""Normalise the grey levels of a plane, so that brightness and contrast of a scanner matter less."""

import numpy as np

from brainscale.reading.signature import AIR, otsu_threshold

MEAN, DEVIATION = 128.0, 48.0
"""Grey levels that `z_score` gives the mean and the standard deviation of what is not air, before it clips."""
DARKEST = 32
"""Grey level from which on `histogram` spreads what is not air."""


def normalise_levels(plane: np.ndarray, kind: str) -> np.ndarray:
    """Return a plane with other grey levels, by one table for the whole plane that keeps their order.

    Air does not count: what is darker than a share of the way from the darkest level to Otsu's threshold. Its levels
    are stretched from 0 up to where those of the head begin.

    Args:
        plane: uint8, of any shape.
        kind: none; histogram (each level of the head becomes its rank, so that all are about as frequent); or z_score
            (their mean and standard deviation become those above).

    Returns:
        uint8 of the same shape.
    """
    if kind == "none":
        return plane
    darkest = int(plane.min())
    first = int(darkest + AIR * (otsu_threshold(plane) - darkest)) + 1  # darkest level of the head
    counts = np.bincount(plane.reshape(-1), minlength=256)
    counts[:first] = 0
    if not counts.any():
        return plane
    levels = _equalise(counts) if kind == "histogram" else _standardise(counts)
    levels = np.clip(levels, 0, 255)
    levels[darkest:first] = levels[first] * np.arange(first - darkest) / (first - darkest)
    normalised: np.ndarray = np.rint(levels).astype(np.uint8)[plane]
    return normalised


def _equalise(counts: np.ndarray) -> np.ndarray:
    """Return the middle rank of each level, spread from `DARKEST` to 255, float64 [256]."""
    ranks = (np.cumsum(counts) - counts / 2) / counts.sum()
    levels: np.ndarray = DARKEST + (255 - DARKEST) * ranks
    return levels


def _standardise(counts: np.ndarray) -> np.ndarray:
    """Return each level with mean and standard deviation changed, float64 [256]; a single level becomes the mean."""
    levels = np.arange(256.0)
    mean = np.average(levels, weights=counts)
    deviation = np.sqrt(np.average((levels - mean) ** 2, weights=counts))
    standardised: np.ndarray = MEAN + DEVIATION * (levels - mean) / max(deviation, 1.0)
    return standardised
