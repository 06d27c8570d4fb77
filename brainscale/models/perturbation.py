"""Heatmaps from the scores of changed planes, for any network: occlusion and RISE."""

from collections.abc import Callable

import numpy as np
import torch

from brainscale.models.explained_score import Score
from brainscale.models.imputation import hide
from brainscale.models.resize import bilinear_matrix, resample

CELLS = 8
"""Cells of the grid of occlusion along each side; a window covers 2 × 2 of them."""
MASKS, MASK_CELLS = 128, 7
"""Number of masks of RISE, and cells along the side of each (Petsiuk et al. have 4,000 masks of 7 × 7)."""


Hide = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Takes hidden pixels out of a plane, as `imputation.hide` does."""


def occlusion_map(score: Score, plane: np.ndarray, cells: int = CELLS, hide: Hide = hide) -> np.ndarray:
    """Return by how much the score falls, on average, when a window over a cell is hidden (Zeiler and Fergus 2014).

    Windows reach over the borders, so that each cell lies in four of them. A window that changes nothing is not scored.

    Args:
        score: function from planes to scores.
        plane: uint8 [S, S].
        cells: number of cells along each side; at most (cells + 1)² windows are scored.
        hide: how to take a window out of the plane.

    Returns:
        float32 [cells, cells].
    """
    edges = [round(i * plane.shape[0] / cells) for i in range(cells + 1)]
    spans = [slice(edges[max(i - 1, 0)], edges[min(i + 1, cells)]) for i in range(cells + 1)]
    hidden = np.zeros(((cells + 1) ** 2, *plane.shape), bool)
    for number, window in enumerate(hidden):
        row, column = divmod(number, cells + 1)
        window[spans[row], spans[column]] = True
    planes = hide(plane, hidden)
    changed = (planes != plane).any((1, 2))
    whole, *occluded = score(np.concatenate([plane[None], planes[changed]]))
    falls = np.zeros(len(hidden), np.float32)
    falls[changed] = whole - np.array(occluded)
    drops = falls.reshape(cells + 1, cells + 1)
    return np.asarray((drops[1:, 1:] + drops[:-1, 1:] + drops[1:, :-1] + drops[:-1, :-1]) / 4)


def rise_map(score: Score, plane: np.ndarray, filling: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return how much the score rises where a random mask shows the plane (RISE; Petsiuk, Das and Saenko 2018).

    Args:
        score: function from planes to scores.
        plane: uint8 [S, S].
        filling: uint8 [S, S], what stands where a mask hides the plane.
        masks: float32 [M, S, S] in 0..1, from `draw_masks`.

    Returns:
        float32 [S, S]: slope of the regression of the score on each pixel of the masks.
    """
    difference = plane.astype(np.float32) - filling
    scores = np.concatenate([score(np.rint(filling + some * difference).astype(np.uint8)) for some in _parts(masks)])
    centred = masks - masks.mean(0)
    slopes = np.einsum("m,mhw->hw", scores - scores.mean(), centred) / np.maximum((centred**2).sum(0), 1e-6)
    return np.asarray(slopes, np.float32)


def draw_masks(side: int, seed: int, count: int = MASKS, cells: int = MASK_CELLS) -> np.ndarray:
    """Return the masks of RISE, float32 [count, side, side] in 0..1: random cells, smoothed and shifted.

    Args:
        side: height and width of the planes, pixels.
        seed: seed of the cells and shifts.
        count: number of masks.
        cells: number of cells along each side, each shown half of the time.
    """
    generator = np.random.default_rng(seed)
    cell = -(-side // cells)
    shown = torch.from_numpy((generator.random((count, cells + 1, cells + 1)) < 0.5).astype(np.float32))
    matrix = bilinear_matrix(cells + 1, (cells + 1) * cell)
    smooth = resample(shown, matrix, matrix).numpy()
    shifts = generator.integers(0, cell, (count, 2))
    return np.stack([mask[i : i + side, j : j + side] for mask, (i, j) in zip(smooth, shifts, strict=True)])


def _parts(masks: np.ndarray, size: int = 64) -> list[np.ndarray]:
    return [masks[start : start + size] for start in range(0, len(masks), size)]
