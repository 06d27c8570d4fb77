"""3 × 3 convolutions with half the products: Winograd's F(4, 3) down the columns of an image.

Four rows of output take six rows of products and not twelve (Lavin and Gray, "Fast Algorithms for Convolutional
Neural Networks", CVPR 2016). Written as 6 × 1 and 1 × 3 convolutions, which ONNX Runtime keeps in its own layout.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 4  # of output at a time
BEFORE = (  # six rows of the input → what is multiplied
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
KERNEL = (  # three rows of the kernel → by what it is multiplied
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor, padding: int) -> Tensor:
    """`F.conv2d(x, weight, bias, padding=padding)` to rounding.

    Args:
        x: [N, C, H, W].
        weight: [D, C, 3, 3].
        bias: [D].
        padding: zeros on each side.

    Returns:
        [N, D, H + 2 · padding - 2, W + 2 · padding - 2].
    """
    count, channels, height, width = x.shape
    rows, columns = height + 2 * padding - 2, width + 2 * padding - 2
    fours = -(-rows // ROWS)
    if missing := ROWS * fours - rows:
        x = F.pad(x, (0, 0, 0, missing))
    before = torch.tensor(BEFORE, device=x.device, dtype=x.dtype)[:, None, None, :, None]
    mixed = [F.conv2d(x, by.expand(channels, 1, 6, 1), None, (ROWS, 1), (padding, 0), 1, channels) for by in before]
    kernel = torch.tensor(KERNEL, device=x.device, dtype=torch.float64)
    kernels = torch.einsum("jk,dckx->jdcx", kernel, weight.double()).to(x.dtype).unsqueeze(3)
    biases = [None, bias, None, None, None, None]  # the second reaches each row once
    across = zip(mixed, kernels, biases, strict=True)
    a, b, c, d, e, f = (F.conv2d(part, by, also, padding=(0, padding)) for part, by, also in across)
    even1, odd1, even2, odd2 = b + c, b - c, d + e, d - e
    outer = [a + even1 + even2, odd1 + 2 * odd2, even1 + 4 * even2, odd1 + 8 * odd2 + f]
    return torch.stack(outer, 3).reshape(count, -1, ROWS * fours, columns)[:, :, :rows]
