"""Find the head in a plane, to say where a heatmap looks outside of it."""

import numpy as np
from scipy import ndimage

LEVELS = 256
_AIR = 0.5  # of the way from black to Otsu's threshold: darker is air


def find_head_mask(plane: np.ndarray) -> np.ndarray:
    """Return the largest bright region of a plane with its holes filled, which is the head where there is one.

    Args:
        plane: uint8 [S, S].

    Returns:
        bool [S, S]; all False without contrast.
    """
    smooth = ndimage.gaussian_filter(plane.astype(np.float32), plane.shape[0] / 100)
    lowest, highest = float(smooth.min()), float(smooth.max())
    if highest - lowest < 1:
        return np.zeros(plane.shape, bool)
    bright = smooth > lowest + _AIR * (_otsu_threshold(np.rint(smooth).astype(np.int64)) - lowest)
    regions, count = ndimage.label(bright)
    sizes = np.bincount(regions.ravel(), minlength=count + 1)
    sizes[0] = 0
    return np.asarray(ndimage.binary_fill_holes(regions == sizes.argmax()))


def _otsu_threshold(levels: np.ndarray) -> float:
    """Return the grey level that parts dark from bright pixels best (Otsu, IEEE SMC 9:62, 1979)."""
    counts = np.bincount(levels.ravel(), minlength=LEVELS).astype(np.float64)
    dark, sums = np.cumsum(counts), np.cumsum(counts * np.arange(LEVELS))
    bright = dark[-1] - dark
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (sums[-1] * dark / dark[-1] - sums) ** 2 / (dark * bright)
    return float(np.nanargmax(np.where((dark > 0) & (bright > 0), between, -1.0)))
