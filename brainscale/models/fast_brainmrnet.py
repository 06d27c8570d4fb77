"""Run BrainMRNet for scoring, with the same result from fewer operations.

Grey planes need one input channel instead of three equal ones. Of the last residual block, only the rows and columns
that the 4 × 4 hypercolumn reads are computed, which is a tenth of its second convolution at 224². On a CPU, Winograd's
algorithm halves the multiplications of the larger convolutions.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brainscale.models.brainmrnet import HYPERCOLUMN_SIDE, BrainMRNet, BrainMRNetPaper, ConvBlock, ResidualBlock
from brainscale.models.normalisation import IMAGENET_MEAN, IMAGENET_STD, normalise
from brainscale.models.resize import bilinear_matrix, resample
from brainscale.models.winograd import conv3x3

TILE = 8
"""Input rows of the last residual block for two rows after pooling: 2 · 2, and a margin of 2 for two convolutions."""


def run_fast(network: BrainMRNet, planes: Tensor, *, winograd: bool = False) -> tuple[Tensor, Tensor]:
    """Return the logits of a network in evaluation mode for grey planes, and the feature map of its first stage.

    Args:
        network: `BrainMRNetPaper` has no faster way.
        planes: uint8 [N, H, W].
        winograd: whether to use Winograd convolutions, which are faster with ONNX Runtime on a CPU.

    Returns:
        Logits, float32 [N, classes], and the output of `stage1`, equal to those of `network(normalise(planes))` up to
        rounding errors.
    """
    if isinstance(network, BrainMRNetPaper):
        stages = network.run_stages(normalise(planes))
        return network.head(network.hypercolumn(stages)), stages[0]
    run_block = _winograd_block if winograd else ConvBlock.__call__
    run_residual = _winograd_residual if winograd else ResidualBlock.__call__
    first = _first_stage(network, planes)
    attended = network.stage2.cbam(run_block(network.stage2.conv, first))
    second = F.max_pool2d(run_residual(network.stage2.residual, attended), 2)
    stage3 = network.stage3
    attended = stage3.cbam(run_block(stage3.conv, second))
    rows, columns = (find_tile_starts(length) for length in attended.shape[-2:])
    if rows is None or columns is None:
        third = F.max_pool2d(stage3.residual(attended), 2)
        return network.head(network.hypercolumn([first, second, third])), first
    channels = first.shape[1] + second.shape[1] + attended.shape[1]
    column = sum(_column_sum(stage) for stage in (first, second))
    column = column + _column_sum_from_tiles(stage3.residual, attended, rows, columns)
    return network.head((column / channels).flatten(1)), first


def _first_stage(network: BrainMRNet, planes: Tensor) -> Tensor:
    """Return the output of the first stage, with the normalisation and the sum over equal channels in its weights.

    That is exact because its first convolution has no padding.
    """
    block = network.stage1.conv1
    weight = block.conv2d.weight
    mean = torch.tensor(IMAGENET_MEAN, device=planes.device)[None, :, None, None]
    std = torch.tensor(IMAGENET_STD, device=planes.device)[None, :, None, None]
    bias = cast("Tensor", block.conv2d.bias) - (weight * (mean / std)).sum((1, 2, 3))
    grey = F.conv2d(planes.float().unsqueeze(1), (weight / (255 * std)).sum(1, keepdim=True), bias)
    return F.max_pool2d(network.stage1.conv2(F.relu(block.bn(grey))), 2)


def _winograd_block(block: ConvBlock, x: Tensor) -> Tensor:
    """Return `block(x)`, with Winograd convolutions."""
    return F.relu(_winograd_conv(block.conv2d, block.bn, x))


def _winograd_residual(block: ResidualBlock, x: Tensor) -> Tensor:
    """Return `block(x)`, with Winograd convolutions."""
    inner = F.leaky_relu(_winograd_conv(block.conv2d1, block.bn1, x), block.slope)
    return F.leaky_relu(_winograd_conv(block.conv2d2, block.bn2, inner) + x, block.slope)


def _winograd_conv(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Return `norm(conv(x))` in evaluation mode, with the norm folded into the weights."""
    scale = norm.weight / torch.sqrt(cast("Tensor", norm.running_var) + norm.eps)
    bias = (cast("Tensor", conv.bias) - cast("Tensor", norm.running_mean)) * scale + norm.bias
    return conv3x3(x, conv.weight * scale[:, None, None, None], bias, cast("int", conv.padding[0]))


def _column_sum(stage: Tensor) -> Tensor:
    """Return the sum over the channels of a stage [N, C, H, W], resized to [N, 4, 4]."""
    height, width = stage.shape[-2:]
    rows, columns = bilinear_matrix(height, HYPERCOLUMN_SIDE), bilinear_matrix(width, HYPERCOLUMN_SIDE)
    return resample(stage.sum(1), rows, columns)


def find_tile_starts(length: int) -> list[int] | None:
    """Return the first row of the tile for each row of the hypercolumn; None if tiles would save nothing.

    The same holds for columns.

    Args:
        length: number of rows before the pooling of the last stage.
    """
    pooled = length // 2
    lower_rows = _lower_rows(pooled)
    starts = [2 * row - 2 for row in lower_rows]
    are_inside = starts[0] >= 0 and starts[-1] + TILE <= length and lower_rows[-1] + 1 < pooled
    return starts if are_inside and length > HYPERCOLUMN_SIDE * TILE else None


def _column_sum_from_tiles(block: ResidualBlock, x: Tensor, rows: list[int], columns: list[int]) -> Tensor:
    """Return `_column_sum(max_pool2d(block(x), 2))`, computed only on the tiles that it depends on.

    Args:
        block: the residual block of the last stage.
        x: input of the block, [N, C, H, W].
        rows: first row of each tile.
        columns: first column of each tile.
    """
    _, channels, height, width = x.shape
    side = HYPERCOLUMN_SIDE
    bands = torch.stack([x[:, :, start : start + TILE] for start in rows], 1)
    tiles = torch.stack([bands[..., start : start + TILE] for start in columns], 2).reshape(-1, channels, TILE, TILE)
    inner = F.leaky_relu(block.bn1(F.conv2d(tiles, block.conv2d1.weight, block.conv2d1.bias)), block.slope)
    outer = block.bn2(F.conv2d(inner, block.conv2d2.weight, block.conv2d2.bias)) + tiles[:, :, 2:-2, 2:-2]
    pooled = F.max_pool2d(F.leaky_relu(outer, block.slope), 2).sum(1).reshape(-1, side, side, 2, 2)
    weights = [_row_weights(length // 2).to(x) for length in (height, width)]
    return (pooled * (weights[0][:, None, :, None] * weights[1][None, :, None, :])).sum((3, 4))


def _row_weights(pooled: int) -> Tensor:
    """Return the weights of the two pooled rows that each row of the hypercolumn interpolates, float32 [4, 2]."""
    matrix = bilinear_matrix(pooled, HYPERCOLUMN_SIDE)
    return torch.stack([matrix[i, row : row + 2] for i, row in enumerate(_lower_rows(pooled))])


def _lower_rows(pooled: int) -> list[int]:
    """Return the lower of the two pooled rows that each row of the hypercolumn interpolates."""
    return [int(((i + 0.5) * pooled / HYPERCOLUMN_SIDE - 0.5) // 1) for i in range(HYPERCOLUMN_SIDE)]
