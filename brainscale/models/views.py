"""Views of a plane for test-time augmentation: its mirror image, and both turned a little to either side."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from brainscale.models.network_spec import ANGLE


def iterate_views(planes: Tensor, views: int) -> Iterator[Tensor]:
    """Yield the views of planes one after another, the planes themselves first.

    Args:
        planes: float [..., S, S]; black is 0.
        views: 1 for the planes alone, 2 with their mirror images, 6 with both turned by −10° and 10° too.

    Yields:
        Tensors of the shape of the planes. Pixels from outside the plane are 0, as in the augmentation of training.
    """
    sources = (planes,) if views == 1 else (planes, planes.flip(-1))
    for angle in (0.0, -ANGLE, ANGLE) if views == 6 else (0.0,):
        for source in sources:
            yield rotate(source, angle) if angle else source


def rotate(planes: Tensor, angle: float) -> Tensor:
    """Return planes [..., S, S] turned by an angle in degrees, bilinear; pixels from outside the plane are 0."""
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    height, width = planes.shape[-2:]
    matrix = torch.tensor([[[cos, -sin, 0.0], [sin, cos, 0.0]]], device=planes.device)
    grid = F.affine_grid(matrix, [1, 1, height, width], align_corners=False)
    channels = planes.reshape(1, -1, height, width)  # all planes are channels of one image, for one grid
    return F.grid_sample(channels, grid, align_corners=False).reshape(planes.shape)
