"""Compute 3 × 3 convolutions with half the multiplications, by Winograd's F(4, 3) along the columns of an image.

Four rows of output need six rows of products instead of twelve (Lavin and Gray, "Fast Algorithms for Convolutional
Neural Networks", CVPR 2016). The transforms are 6 × 1 and 1 × 3 convolutions, so that ONNX Runtime can keep its own
memory layout throughout.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 4
"""Number of output rows that are computed together."""
INPUT_TRANSFORM = (  # six rows of the input → six transformed rows
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
KERNEL_TRANSFORM = (  # three rows of the kernel → six transformed rows
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor, padding: int) -> Tensor:
    """Return `F.conv2d(x, weight, bias, padding=padding)`, up to rounding errors.

    Args:
        x: input, [N, C, H, W].
        weight: kernels, [D, C, 3, 3].
        bias: [D].
        padding: number of zeros on each border.

    Returns:
        The output, [N, D, H + 2 · padding - 2, W + 2 · padding - 2].
    """
    count, channels, height, width = x.shape
    rows, columns = height + 2 * padding - 2, width + 2 * padding - 2
    blocks = -(-rows // ROWS)
    if missing := ROWS * blocks - rows:
        x = F.pad(x, (0, 0, 0, missing))
    filters = torch.tensor(INPUT_TRANSFORM, device=x.device, dtype=x.dtype)[:, None, None, :, None]
    inputs = [F.conv2d(x, f.expand(channels, 1, 6, 1), None, (ROWS, 1), (padding, 0), 1, channels) for f in filters]
    transform = torch.tensor(KERNEL_TRANSFORM, device=x.device, dtype=torch.float64)
    kernels = torch.einsum("jk,dckx->jdcx", transform, weight.double()).to(x.dtype).unsqueeze(3)
    biases = [None, bias, None, None, None, None]  # the output transform below adds the second product to each row once
    products = zip(inputs, kernels, biases, strict=True)
    a, b, c, d, e, f = (F.conv2d(rows6, kernel, added, padding=(0, padding)) for rows6, kernel, added in products)
    even1, odd1, even2, odd2 = b + c, b - c, d + e, d - e
    output_rows = [a + even1 + even2, odd1 + 2 * odd2, even1 + 4 * even2, odd1 + 8 * odd2 + f]
    return torch.stack(output_rows, 3).reshape(count, -1, ROWS * blocks, columns)[:, :, :rows]
