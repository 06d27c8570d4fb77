"""From uint8 planes to a network's input, and the whole way to probabilities, on the network's device."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from brainscale.models.registry import build

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(planes: Tensor) -> Tensor:
    """Grey planes [N, H, W] in 0..255 → float32 [N, 3, H, W] with ImageNet's mean and deviation."""
    mean = torch.tensor(IMAGENET_MEAN, device=planes.device)[:, None, None]
    std = torch.tensor(IMAGENET_STD, device=planes.device)[:, None, None]
    return (planes.float().unsqueeze(1) / 255 - mean) / std


class Scorer(nn.Module):
    """A network with its normalisation before and softmax behind: what the engines run.

    Args:
        network: normalised [N, 3, H, W] → logits [N, classes].
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, planes: Tensor) -> Tensor:
        """uint8 [N, H, W] → float32 probabilities [N, classes]."""
        return torch.softmax(self.network(normalise(planes)), 1)


def load_scorer(name: str, classes: int, weights: Path) -> nn.Module:
    """A scorer in evaluation mode with a bundle's weights, loaded strictly."""
    network = build(name, classes)
    network.load_state_dict(load_file(weights))
    return Scorer(network).eval()
