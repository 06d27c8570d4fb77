"""Take regions out of a plane: hidden pixels are interpolated from the visible ones, without edges.

A black or blurred region would be a structure of its own, which a network that has never seen its edges may take for a
tumour; a smooth interpolation leaves little for it to see (Rong et al., ROAD, ICML 2022). The interpolation is
push-pull (Gortler et al., The Lumigraph, SIGGRAPH 1996), which costs less than a prediction.
"""

import numpy as np


def hide(plane: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Return copies of a plane without their hidden pixels.

    Args:
        plane: uint8 [S, S].
        hidden: bool [N, S, S]; where all of a plane is hidden, its mean is left.

    Returns:
        uint8 [N, S, S], equal to the plane in visible pixels.
    """
    weights = [(~hidden).astype(np.float32)]
    sums = [weights[0] * plane]
    while weights[-1].shape[-1] > 1:
        sums.append(_halve(sums[-1]))
        weights.append(_halve(weights[-1]))
    filled = np.full(weights[-1].shape, plane.mean(), np.float32)
    for level in range(len(weights) - 1, -1, -1):
        weight = weights[level]
        coarse = _double(filled, weight.shape[-1]) if weight.shape != filled.shape else filled
        means = sums[level] / np.maximum(weight, 1)
        confidence = np.minimum(weight, 1)
        filled = confidence * means + (1 - confidence) * coarse
    return np.asarray(np.where(hidden, np.rint(filled), plane), np.uint8)


def _halve(values: np.ndarray) -> np.ndarray:
    """Return the sums of 2 × 2 pixels, [N, ⌈h/2⌉, ⌈h/2⌉]."""
    odd = values.shape[-1] % 2
    even = np.pad(values, ((0, 0), (0, odd), (0, odd)))
    return np.asarray(even[:, ::2, ::2] + even[:, 1::2, ::2] + even[:, ::2, 1::2] + even[:, 1::2, 1::2])


def _double(values: np.ndarray, side: int) -> np.ndarray:
    """Return values enlarged by 2, bilinear, and cut to a side: [N, side, side]."""
    from brainscale.models.resize import bilinear_matrix  # here: reports name faithfulness, and need no torch for it

    matrix = bilinear_matrix(values.shape[-1], 2 * values.shape[-1]).numpy()[:side]
    return np.asarray(matrix @ values @ matrix.T)
