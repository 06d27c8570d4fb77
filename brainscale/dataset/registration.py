"""Align two signatures and compare them: the second look that confirms a near duplicate.

The comparison is a normalised correlation of details, after the affine transformation that makes it largest; so
another crop, aspect or small rotation of the same scan is found, and another head is told from it.
"""

import numpy as np

from brainscale.reading.signature import COSINES, SIDE

MAX_SHIFT = 0.12
"""Largest shift as a fraction of the head, which also limits scale and shear (1.5 × as much at the edge)."""
_BLUR = 1.5  # values of a signature: deviation of the Gaussian whose complement keeps the details
_OVERLAP = 0.6  # of the grid that must remain in common
_RIDGE = 1e-3  # keeps the equations solvable for signatures with few details
_CHUNK = 256  # pairs at a time, which stay in the cache


def similarities(first: np.ndarray, second: np.ndarray, *, side: int = 24, steps: int = 5) -> np.ndarray:
    """Return the correlation of details of pairs of signatures after alignment, float32 [pairs], −1 to 1.

    Args:
        first: uint8 [pairs, 16, 16].
        second: uint8 [pairs, 16, 16], in the same orientation.
        side: rows and columns of the grid on which they are compared.
        steps: number of steps of the alignment.
    """
    chunks = range(0, len(first), _CHUNK)
    values = [
        _align(_details(first[i : i + _CHUNK], side), _details(second[i : i + _CHUNK], side), steps) for i in chunks
    ]
    return np.concatenate([np.empty(0, np.float32), *values])


def _details(signatures: np.ndarray, side: int) -> np.ndarray:
    """Return signatures without their coarse shades, interpolated to a grid, float32 [n, side, side]."""
    scale = np.full(SIDE, 2 / SIDE, np.float32)
    scale[0] = 1 / SIDE
    frequencies = np.arange(SIDE)
    points = np.arange(side) + 0.5
    interpolate = (np.cos(np.pi / side * np.outer(points, frequencies)) * scale).astype(np.float32)
    squares = frequencies[:, None] ** 2 + frequencies[None, :] ** 2
    passed = 1 - np.exp(-0.5 * (np.pi * _BLUR / SIDE) ** 2 * squares).astype(np.float32)
    spectra = COSINES @ signatures.astype(np.float32) @ COSINES.T
    return np.asarray(interpolate @ (spectra * passed) @ interpolate.T)


def _align(fixed: np.ndarray, moving: np.ndarray, steps: int) -> np.ndarray:
    """Return the largest correlation on the way of an inverse compositional alignment.

    Baker and Matthews, Lucas–Kanade 20 years on, IJCV 56:221, 2004; with gain and offset estimated in each step.

    Args:
        fixed: float32 [n, side, side].
        moving: float32 [n, side, side].
        steps: number of steps.

    Returns:
        float32 [n].
    """
    count, side = fixed.shape[:2]
    half = side / 2
    axis = (np.arange(side, dtype=np.float32) - (side - 1) / 2) / half
    y, x = (grid.ravel() for grid in np.meshgrid(axis, axis, indexing="ij"))
    down, across = (np.ascontiguousarray(g).reshape(count, -1) for g in np.gradient(fixed, axis=(1, 2)))
    fixed = fixed.reshape(count, -1)
    directions = np.stack([across * x, across * y, across, down * x, down * y, down, np.ones_like(fixed), fixed], 1)
    normal = directions @ directions.transpose(0, 2, 1)
    ridge = _RIDGE * np.trace(normal, axis1=1, axis2=2)[:, None, None] / normal.shape[1]
    solve = np.linalg.inv(normal + ridge * np.eye(normal.shape[1], dtype=np.float32))
    transform = np.broadcast_to(np.eye(3), (count, 3, 3)).copy()
    best = np.full(count, -1.0, np.float32)
    contrast = np.sqrt(np.einsum("np,np->n", fixed, fixed))[:, None]
    values, inside = moving.reshape(count, -1), np.ones_like(fixed, bool)
    for number in range(steps + 1):
        if number:
            values, inside = _sample(moving, transform, x, y)
        target, source = _normalise(fixed, inside), _normalise(values, inside)
        correlation = np.einsum("np,np->n", target, source)
        enough = inside.mean(axis=1) >= _OVERLAP
        best = np.maximum(best, np.where(enough, correlation, -1))
        step = (solve @ (directions @ ((source - target) * contrast)[..., None]))[:, :6, 0]
        transform = _compose(transform, step.astype(np.float64) / np.array([half, half, 1, half, half, 1]), side)
    return best


def _sample(moving: np.ndarray, transform: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of images at transformed grid points (bilinear), and whether these are inside: [n, points]."""
    count, side = moving.shape[:2]
    half, centre = side / 2, (side - 1) / 2
    rows = transform.astype(np.float32)
    columns = (rows[:, 0, :1] * x + rows[:, 0, 1:2] * y) * half + rows[:, 0, 2:] + centre
    lines = (rows[:, 1, :1] * x + rows[:, 1, 1:2] * y) * half + rows[:, 1, 2:] + centre
    inside = (abs(columns - centre) <= half - 0.25) & (abs(lines - centre) <= half - 0.25)
    columns, lines = np.clip(columns, 0, side - 1.001), np.clip(lines, 0, side - 1.001)
    left, top = columns.astype(np.int32), lines.astype(np.int32)
    u, v = columns - left, lines - top
    corner, flat = top * side + left, moving.reshape(count, -1)

    def at(offset: int) -> np.ndarray:
        return np.take_along_axis(flat, corner + offset, 1)

    upper = at(0) * (1 - u) + at(1) * u
    lower = at(side) * (1 - u) + at(side + 1) * u
    return upper * (1 - v) + lower * v, inside


def _normalise(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return values with mean 0 and norm 1 over the points inside, and 0 elsewhere."""
    points = inside.sum(axis=1, keepdims=True) + 1e-6
    centred = np.where(inside, values - np.where(inside, values, 0).sum(axis=1, keepdims=True) / points, 0)
    return np.asarray(centred / np.sqrt(np.einsum("np,np->n", centred, centred) + 1e-9)[:, None], np.float32)


def _compose(transform: np.ndarray, step: np.ndarray, side: int) -> np.ndarray:
    """Return the transformations after the inverse of a small step, within the limits."""
    forward = np.broadcast_to(np.eye(3), transform.shape).copy()
    forward[:, :2] += step.reshape(-1, 2, 3)
    composed = transform @ np.linalg.inv(forward)
    linear = np.nan_to_num(composed[:, :2, :2] - np.eye(2))
    composed[:, :2, :2] = np.eye(2) + np.clip(linear, -1.5 * MAX_SHIFT, 1.5 * MAX_SHIFT)
    composed[:, :2, 2] = np.clip(np.nan_to_num(composed[:, :2, 2]), -MAX_SHIFT * side, MAX_SHIFT * side)
    return np.asarray(composed)
