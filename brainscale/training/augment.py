"""Random changes to training planes; each sample's draw is fixed by (seed, epoch, sample)."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from brainscale.config.sections import AugmentConfig
from brainscale.seeds import derive


def augment(planes: Tensor, sample_ids: Sequence[str], epoch: int, seed: int, config: AugmentConfig) -> Tensor:
    """Flip, rotate, scale, shift and change intensities.

    Args:
        planes: uint8 [N, S, S].
        sample_ids: N ids; the draw of each is a function of (seed, epoch, id).
        epoch: from 1.
        seed: the run's.
        config: how far each change goes.

    Returns:
        float32 [N, S, S] in 0..255, on the planes' device; what moves in from outside is 0.
    """
    draws = np.stack([_draw(derive(seed, "augment", epoch, sample_id)) for sample_id in sample_ids])
    matrices, gain, offset = (torch.from_numpy(a).to(planes.device) for a in _parameters(draws, config))
    shape = [len(planes), 1, *planes.shape[1:]]
    grid = F.affine_grid(matrices, shape, align_corners=False)
    moved = F.grid_sample(planes.float().unsqueeze(1), grid, align_corners=False).squeeze(1)
    changed: Tensor = (moved * gain[:, None, None] + offset[:, None, None] * (moved > 0)).clamp(0, 255)
    return changed


def _draw(seed: int) -> np.ndarray:
    """Seven uniform numbers in −1..1."""
    return np.random.Generator(np.random.Philox(key=seed)).uniform(-1, 1, 7).astype(np.float32)


def _parameters(draws: np.ndarray, config: AugmentConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws [N, 7] → affine matrices [N, 2, 3] (output to input), gain [N], offset [N] in grey levels."""
    flip = np.where(config.flip & (draws[:, 0] < 0), -1.0, 1.0)
    angle = np.deg2rad(config.rotate * draws[:, 1])
    zoom = 1 + config.scale * draws[:, 2]
    cos, sin = np.cos(angle) * zoom, np.sin(angle) * zoom
    shift = 2 * config.shift * draws[:, 3:5]
    rows = np.stack([np.stack([cos * flip, -sin, shift[:, 0]], 1), np.stack([sin * flip, cos, shift[:, 1]], 1)], 1)
    gain = 1 + config.intensity * draws[:, 5]
    offset = 255 / 4 * config.intensity * draws[:, 6]
    return rows.astype(np.float32), gain.astype(np.float32), offset.astype(np.float32)
