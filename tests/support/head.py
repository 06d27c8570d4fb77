"""A phantom head and its right planes, computed without the code under test."""

import numpy as np


def head(height: int = 64, width: int = 64, seed: int = 0) -> np.ndarray:
    """An ellipse with a skull, two lesions and a gradient: 0..1, float64 [H, W]."""
    y, x = np.mgrid[0:height, 0:width]
    y, x = (y - height / 2 + 0.5) / (height / 2), (x - width / 2 + 0.5) / (width / 2)
    distance = (x / 0.75) ** 2 + (y / 0.9) ** 2
    image = np.where(distance < 1, 0.35 + 0.15 * x + 0.1 * y, 0.0)
    image = np.where((distance < 1) & (distance > 0.85), 0.9, image)
    image = np.where((x - 0.25) ** 2 + (y + 0.2) ** 2 < 0.03, 0.75, image)
    image = np.where((x + 0.3) ** 2 + (y - 0.35) ** 2 < 0.01, 0.1, image)
    noise = np.random.default_rng(seed).normal(0, 0.01, (height, width))
    return np.clip(image + (distance < 1) * noise, 0, 1)


def outside(height: int = 64, width: int = 64) -> np.ndarray:
    """Where the head is not, bool [H, W]."""
    y, x = np.mgrid[0:height, 0:width]
    return ((x - width / 2 + 0.5) / (width / 2) / 0.75) ** 2 + ((y - height / 2 + 0.5) / (height / 2) / 0.9) ** 2 >= 1


def scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Grey levels of intensities between two ends, uint8."""
    floats = np.nan_to_num(np.asarray(values, np.float64), nan=low, posinf=low, neginf=low)
    return np.clip(np.rint((floats - low) * 255.0 / (high - low)), 0, 255).astype(np.uint8)


def by_percentiles(
    values: np.ndarray, shown: np.ndarray | None = None, percentiles: tuple[float, float] = (0.5, 99.5)
) -> np.ndarray:
    """Grey levels between two percentiles of the pixels that are shown; black where they are not."""
    seen = np.asarray(values, np.float64)[shown] if shown is not None else np.asarray(values, np.float64)
    low, high = np.percentile(seen[np.isfinite(seen)], percentiles)
    grey = scaled(values, low, high)
    return grey if shown is None else np.where(shown, grey, 0).astype(np.uint8)


def difference(one: np.ndarray, other: np.ndarray) -> int:
    """The largest difference of two planes of one shape, grey levels."""
    assert one.shape == other.shape
    return int(np.abs(one.astype(int) - other.astype(int)).max())
