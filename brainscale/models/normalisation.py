"""Normalise grey planes as the ImageNet networks expect their input."""

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(planes: Tensor) -> Tensor:
    """Return planes [N, H, W] in 0..255 as float32 [N, 3, H, W], normalised with the mean and deviation of ImageNet."""
    mean = torch.tensor(IMAGENET_MEAN, device=planes.device)[:, None, None]
    std = torch.tensor(IMAGENET_STD, device=planes.device)[:, None, None]
    return (planes.float().unsqueeze(1) / 255 - mean) / std
