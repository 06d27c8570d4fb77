"""BrainMRNet as scoring runs it: the same numbers from fewer operations.

Grey planes need one input channel, not three equal ones; of the last residual block only the rows and
columns that the 4 × 4 hypercolumn reads, a tenth of its second convolution at 224²; and on a CPU, the larger
convolutions half their products.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brainscale.models.brainmrnet import HYPERCOLUMN_SIDE, BrainMRNet, BrainMRNetPaper, ConvBlock, ResidualBlock
from brainscale.models.normalisation import IMAGENET_MEAN, IMAGENET_STD, normalise
from brainscale.models.resize import bilinear_matrix, resample
from brainscale.models.winograd import conv3x3

TILE = 8  # rows behind two pooled ones: twice two, and a margin of two for two 3 × 3 convolutions


def fast_logits(network: nn.Module, planes: Tensor, *, winograd: bool = False) -> Tensor:
    """What a network in evaluation mode says of grey planes.

    Args:
        network: normalised [N, 3, H, W] → logits [N, classes].
        planes: uint8 [N, H, W].
        winograd: whether to save products in large convolutions: for ONNX Runtime on a CPU.

    Returns:
        float32 [N, classes]: `network(normalise(planes))` to rounding.
    """
    if not isinstance(network, BrainMRNet) or isinstance(network, BrainMRNetPaper):
        logits: Tensor = network(normalise(planes))
        return logits
    block, residual = (_saving_block, _saving_residual) if winograd else (ConvBlock.__call__, ResidualBlock.__call__)
    first = _first_stage(network, planes)
    inner = network.stage2.cbam(block(network.stage2.conv, first))
    second = F.max_pool2d(residual(network.stage2.residual, inner), 2)
    third = network.stage3
    before = third.cbam(block(third.conv, second))
    rows, columns = (tile_starts(length) for length in before.shape[-2:])
    if rows is None or columns is None:
        last = F.max_pool2d(third.residual(before), 2)
        return network.head(network.hypercolumn([first, second, last]))  # type: ignore[no-any-return]
    channels = first.shape[1] + second.shape[1] + before.shape[1]
    column = sum(_resized(stage) for stage in (first, second)) + _tiled(third.residual, before, rows, columns)
    return network.head((column / channels).flatten(1))  # type: ignore[no-any-return]


def _first_stage(network: BrainMRNet, planes: Tensor) -> Tensor:
    """The first stage with normalisation and the sum over equal channels moved into its weights; it has no padding."""
    block = network.stage1.conv1
    weight = block.conv2d.weight
    mean = torch.tensor(IMAGENET_MEAN, device=planes.device)[None, :, None, None]
    std = torch.tensor(IMAGENET_STD, device=planes.device)[None, :, None, None]
    bias = cast("Tensor", block.conv2d.bias) - (weight * (mean / std)).sum((1, 2, 3))
    grey = F.conv2d(planes.float().unsqueeze(1), (weight / (255 * std)).sum(1, keepdim=True), bias)
    return F.max_pool2d(network.stage1.conv2(F.relu(block.bn(grey))), 2)


def _saving_block(block: ConvBlock, x: Tensor) -> Tensor:
    """`block(x)` with fewer products."""
    return F.relu(_saving(block.conv2d, block.bn, x))


def _saving_residual(block: ResidualBlock, x: Tensor) -> Tensor:
    """`block(x)` with fewer products."""
    inner = F.leaky_relu(_saving(block.conv2d1, block.bn1, x), block.slope)
    return F.leaky_relu(_saving(block.conv2d2, block.bn2, inner) + x, block.slope)


def _saving(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """`norm(conv(x))` in evaluation mode, the norm in the weights."""
    scale = norm.weight / torch.sqrt(cast("Tensor", norm.running_var) + norm.eps)
    bias = (cast("Tensor", conv.bias) - cast("Tensor", norm.running_mean)) * scale + norm.bias
    return conv3x3(x, conv.weight * scale[:, None, None, None], bias, cast("int", conv.padding[0]))


def _resized(stage: Tensor) -> Tensor:
    """[N, C, H, W] → the sum over channels at 4 × 4."""
    height, width = stage.shape[-2:]
    rows, columns = bilinear_matrix(height, HYPERCOLUMN_SIDE), bilinear_matrix(width, HYPERCOLUMN_SIDE)
    return resample(stage.sum(1), rows, columns)


def tile_starts(length: int) -> list[int] | None:
    """First row, or column, of the tile behind each of the hypercolumn's: None where tiles save nothing.

    Args:
        length: rows before the last stage's pooling.
    """
    pooled = length // 2
    lowest = _lower_rows(pooled)
    starts = [2 * low - 2 for low in lowest]
    inside = starts[0] >= 0 and starts[-1] + TILE <= length and lowest[-1] + 1 < pooled
    return starts if inside and length > HYPERCOLUMN_SIDE * TILE else None


def _tiled(block: ResidualBlock, before: Tensor, rows: list[int], columns: list[int]) -> Tensor:
    """What `_resized` gives of the block's pooled output, from the tiles that it reads alone.

    Args:
        block: the residual block.
        before: its input, [N, C, H, W].
        rows: first row of each tile.
        columns: first column of each tile.
    """
    _, channels, height, width = before.shape
    side = HYPERCOLUMN_SIDE
    bands = torch.stack([before[:, :, start : start + TILE] for start in rows], 1)
    tiles = torch.stack([bands[..., start : start + TILE] for start in columns], 2).reshape(-1, channels, TILE, TILE)
    inner = F.leaky_relu(block.bn1(F.conv2d(tiles, block.conv2d1.weight, block.conv2d1.bias)), block.slope)
    outer = block.bn2(F.conv2d(inner, block.conv2d2.weight, block.conv2d2.bias)) + tiles[:, :, 2:-2, 2:-2]
    pooled = F.max_pool2d(F.leaky_relu(outer, block.slope), 2).sum(1).reshape(-1, side, side, 2, 2)
    shares = [_shares(length // 2).to(before) for length in (height, width)]
    return (pooled * (shares[0][:, None, :, None] * shares[1][None, :, None, :])).sum((3, 4))


def _shares(pooled: int) -> Tensor:
    """float32 [4, 2]: the weights of the two rows between which each of the hypercolumn's lies."""
    matrix = bilinear_matrix(pooled, HYPERCOLUMN_SIDE)
    return torch.stack([matrix[i, at : at + 2] for i, at in enumerate(_lower_rows(pooled))])


def _lower_rows(pooled: int) -> list[int]:
    """The lower of the two rows between which each of the hypercolumn's lies."""
    return [int(((i + 0.5) * pooled / HYPERCOLUMN_SIDE - 0.5) // 1) for i in range(HYPERCOLUMN_SIDE)]
