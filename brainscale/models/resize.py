"""Resizing a plane as two small fixed matrix products, rows · plane · columnsᵀ.

Their backward is a matrix product too: deterministic on CUDA, where that of interpolation and of adaptive
pooling is not, and ONNX needs nothing special for any input size.
"""

import torch
from torch import Tensor, nn


def bilinear_matrix(size: int, to: int) -> Tensor:
    """float32 [to, size]: bilinear resize, half-pixel centres, corners not aligned, no antialias."""
    centre = ((torch.arange(to, dtype=torch.float64) + 0.5) * (size / to) - 0.5).clamp(0, size - 1)
    low = centre.floor()
    high = (low + 1).clamp(max=size - 1)
    share = centre - low
    matrix = torch.zeros(to, size, dtype=torch.float64)
    rows = torch.arange(to)
    matrix[rows, low.long()] += 1 - share
    matrix[rows, high.long()] += share
    return matrix.float()


def average_matrix(size: int, to: int) -> Tensor:
    """float32 [to, size]: mean over pixels ⌊i·size/to⌋ … ⌈(i+1)·size/to⌉ − 1, as adaptive pooling."""
    matrix = torch.zeros(to, size)
    for i in range(to):
        start, stop = i * size // to, -(-(i + 1) * size // to)
        matrix[i, start:stop] = 1 / (stop - start)
    return matrix


def resample(planes: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Rows [h, H] · planes [..., H, W] · columns [w, W]ᵀ → [..., h, w]."""
    return rows.to(planes) @ planes @ columns.to(planes).T


class AdaptiveAverage(nn.Module):
    """Adaptive average pooling to side × side.

    Args:
        side: of the output.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, features: Tensor) -> Tensor:
        """[N, C, H, W] → [N, C, side, side]."""
        height, width = features.shape[-2:]
        if height == width == self.side:
            return features
        return resample(features, average_matrix(height, self.side), average_matrix(width, self.side))
