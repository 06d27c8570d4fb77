"""Normalise grey planes as the ImageNet networks expect their input."""

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalisation_constants(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return mean and deviation on a device, float32 [3, 1, 1] each."""
    mean = torch.tensor(IMAGENET_MEAN, device=device)[:, None, None]
    return mean, torch.tensor(IMAGENET_STD, device=device)[:, None, None]


def normalise(planes: Tensor, constants: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Return planes [N, H, W] in 0..255 as float32 [N, 3, H, W], normalised with the mean and deviation of ImageNet.

    Args:
        planes: the planes.
        constants: `normalisation_constants` of their device, for callers that would copy them there again and again.
    """
    mean, std = constants or normalisation_constants(planes.device)
    return (planes.float().unsqueeze(1) / 255 - mean) / std
