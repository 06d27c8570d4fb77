"""Grey planes as the networks were taught to see images."""

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(planes: Tensor) -> Tensor:
    """Grey planes [N, H, W] in 0..255 → float32 [N, 3, H, W] with ImageNet's mean and deviation."""
    mean = torch.tensor(IMAGENET_MEAN, device=planes.device)[:, None, None]
    std = torch.tensor(IMAGENET_STD, device=planes.device)[:, None, None]
    return (planes.float().unsqueeze(1) / 255 - mean) / std
