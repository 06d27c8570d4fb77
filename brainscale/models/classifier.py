"""Classify uint8 planes: normalisation, network and softmax as one module."""

import torch
from safetensors.torch import load
from torch import Tensor, nn

from brainscale.models.fast_brainmrnet import compute_logits
from brainscale.models.registry import build_network


class Classifier(nn.Module):
    """A network with normalisation before it and softmax after it, as the engines run it.

    Args:
        network: takes normalised planes [N, 3, H, W] and returns logits [N, classes].
        winograd: whether to use Winograd convolutions, as `compute_logits` does.
    """

    def __init__(self, network: nn.Module, *, winograd: bool = False) -> None:
        super().__init__()
        self.network, self.winograd = network, winograd

    def forward(self, planes: Tensor) -> Tensor:
        """Return probabilities, float32 [N, classes], for planes, uint8 [N, H, W]."""
        logits = compute_logits(self.network, planes, winograd=self.winograd)
        return torch.softmax(logits.float(), 1)  # in bf16, the probabilities would not sum to 1


def load_classifier(name: str, classes: int, weights: bytes) -> nn.Module:
    """Return a classifier in evaluation mode with the weights of a bundle; missing or extra weights are an error."""
    network = build_network(name, classes)
    network.load_state_dict(load(weights))
    return Classifier(network).eval()
