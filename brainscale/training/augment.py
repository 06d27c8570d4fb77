"""Augment training planes at random; the changes to a sample depend on the seed, the epoch and its id alone."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from brainscale.config.sections import AugmentConfig
from brainscale.seeds import derive

COARSE = 4
"""Control points in each direction from which the smooth fields of elastic deformation and intensity are made."""
FIELDS = 3
"""Smooth fields of a sample: shifts along both axes, and the logarithm of a factor."""


def augment(
    planes: Tensor,
    sample_ids: Sequence[str],
    epoch: int,
    seed: int,
    config: AugmentConfig,
    upload: Callable[[np.ndarray], Tensor] | None = None,
) -> Tensor:
    """Flip, rotate, scale, shift and deform planes, and change their gamma and their intensities.

    Args:
        planes: uint8 [N, S, S].
        sample_ids: the N sample ids.
        epoch: number of the epoch, from 1.
        seed: seed of the run.
        config: range of each change.
        upload: copies an array to the device of the planes; by default, in line.

    Returns:
        float32 [N, S, S] in 0..255, on the device of the planes. Pixels from outside the plane are 0.
    """
    count = 8 + (FIELDS * COARSE**2 if config.elastic or config.bias_field else 0)
    draws = np.stack([_draw_numbers(derive(seed, "augment", epoch, sample_id), count) for sample_id in sample_ids])
    matrices, gain, offset = _transform_parameters(draws, config)
    gamma = np.exp(config.gamma * draws[:, 7])
    columns = [matrices.reshape(-1, 6), gain[:, None], offset[:, None], gamma[:, None], draws[:, 8:]]
    numbers = np.concatenate(columns, 1)  # one copy
    parameters = torch.from_numpy(numbers).to(planes.device) if upload is None else upload(numbers)
    gains, offsets, gammas = (parameters[:, column, None, None] for column in (6, 7, 8))
    shape = [len(planes), 1, *planes.shape[1:]]
    grid = F.affine_grid(parameters[:, :6].reshape(-1, 2, 3), shape, align_corners=False)
    if config.elastic or config.bias_field:
        fields = _spread(parameters[:, 9:], planes.shape[1])
    if config.elastic:
        grid = grid + 2 * config.elastic * fields[:, :2].permute(0, 2, 3, 1)
    moved = F.grid_sample(planes.float().unsqueeze(1), grid, align_corners=False).squeeze(1)
    if config.gamma:
        moved = 255 * (moved / 255) ** gammas
    if config.bias_field:
        moved = moved * torch.exp(config.bias_field * fields[:, 2])
    changed: Tensor = (moved * gains + offsets * (moved > 0)).clamp(0, 255)
    return changed


def _draw_numbers(seed: int, count: int) -> np.ndarray:
    """Return uniform random numbers in −1..1; a greater count begins with those of a smaller one."""
    return np.random.Generator(np.random.Philox(key=seed)).uniform(-1, 1, count).astype(np.float32)


def _spread(numbers: Tensor, side: int) -> Tensor:
    """Return smooth fields in −1..1, float32 [N, FIELDS, side, side], through control points [N, FIELDS · COARSE²]."""
    points = numbers.reshape(-1, FIELDS, COARSE, COARSE)
    return F.interpolate(points, size=(side, side), mode="bicubic", align_corners=True).clamp(-1, 1)


def draw_mixture(count: int, seed: int, alpha: float) -> tuple[np.ndarray, float]:
    """Return how mixup blends the samples of a micro-batch (Zhang et al., "mixup", ICLR 2018).

    Args:
        count: number of samples.
        seed: seed of the micro-batch.
        alpha: both parameters of the beta distribution of the shares.

    Returns:
        The partner of each sample, int64 [count], and the sample's own share, 0.5 to 1.
    """
    generator = np.random.Generator(np.random.Philox(key=seed))
    share = float(generator.beta(alpha, alpha))
    return generator.permutation(count), max(share, 1 - share)


def _transform_parameters(draws: np.ndarray, config: AugmentConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return affine matrices [N, 2, 3] (output to input), gains [N] and offsets [N] (grey levels) of draws [N, ≥ 8]."""
    flip = np.where(config.flip & (draws[:, 0] < 0), -1.0, 1.0)
    angle = np.deg2rad(config.rotate * draws[:, 1])
    zoom = 1 + config.scale * draws[:, 2]
    cos, sin = np.cos(angle) * zoom, np.sin(angle) * zoom
    shift = 2 * config.shift * draws[:, 3:5]
    rows = np.stack([np.stack([cos * flip, -sin, shift[:, 0]], 1), np.stack([sin * flip, cos, shift[:, 1]], 1)], 1)
    gain = 1 + config.intensity * draws[:, 5]
    offset = 255 / 4 * config.intensity * draws[:, 6]
    return rows.astype(np.float32), gain.astype(np.float32), offset.astype(np.float32)
