"""Resize planes with two small fixed matrices, as rows · plane · columnsᵀ.

The backward pass is a matrix product too. It is deterministic on CUDA, unlike that of interpolation and of adaptive
pooling, and works in ONNX for any size of the input.
"""

import torch
from torch import Tensor, nn


def bilinear_matrix(size: int, target: int) -> Tensor:
    """Return the matrix of a bilinear resize, float32 [target, size]: half-pixel centres, no antialiasing."""
    centre = ((torch.arange(target, dtype=torch.float64) + 0.5) * (size / target) - 0.5).clamp(0, size - 1)
    low = centre.floor()
    high = (low + 1).clamp(max=size - 1)
    weight_of_high = centre - low
    matrix = torch.zeros(target, size, dtype=torch.float64)
    rows = torch.arange(target)
    matrix[rows, low.long()] += 1 - weight_of_high
    matrix[rows, high.long()] += weight_of_high
    return matrix.float()


def average_matrix(size: int, target: int) -> Tensor:
    """Return the matrix of adaptive average pooling, float32 [target, size].

    Row i is the mean over the pixels ⌊i·size/target⌋ … ⌈(i+1)·size/target⌉ − 1.
    """
    matrix = torch.zeros(target, size)
    for i in range(target):
        start, stop = i * size // target, -(-(i + 1) * size // target)
        matrix[i, start:stop] = 1 / (stop - start)
    return matrix


def resample(planes: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return planes [..., H, W] resized to [..., h, w] by the matrices rows [h, H] and columns [w, W]."""
    return rows.to(planes) @ planes @ columns.to(planes).T


class AdaptiveAverage(nn.Module):
    """Adaptive average pooling.

    Args:
        side: height and width of the output.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, features: Tensor) -> Tensor:
        """Return [N, C, side, side] for [N, C, H, W]."""
        height, width = features.shape[-2:]
        if height == width == self.side:
            return features
        return resample(features, average_matrix(height, self.side), average_matrix(width, self.side))
