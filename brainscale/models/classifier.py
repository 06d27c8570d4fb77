"""The whole way from uint8 planes to probabilities, on the network's device."""

import torch
from safetensors.torch import load
from torch import Tensor, nn

from brainscale.models.fast_brainmrnet import fast_logits
from brainscale.models.registry import build


class Classifier(nn.Module):
    """A network with its normalisation before and softmax behind: what the engines run.

    Args:
        network: normalised [N, 3, H, W] → logits [N, classes].
        winograd: see `logits_of`.
    """

    def __init__(self, network: nn.Module, *, winograd: bool = False) -> None:
        super().__init__()
        self.network, self.winograd = network, winograd

    def forward(self, planes: Tensor) -> Tensor:
        """uint8 [N, H, W] → float32 probabilities [N, classes]."""
        logits = fast_logits(self.network, planes, winograd=self.winograd)
        return torch.softmax(logits.float(), 1)  # bf16 would round the sum


def load_classifier(name: str, classes: int, weights: bytes) -> nn.Module:
    """A scorer in evaluation mode with a bundle's weights, loaded strictly."""
    network = build(name, classes)
    network.load_state_dict(load(weights))
    return Classifier(network).eval()
