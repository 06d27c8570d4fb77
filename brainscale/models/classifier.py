"""Classify uint8 planes: normalisation, network and softmax as one module, with features for novelty."""

import torch
from safetensors.torch import load
from torch import Tensor, nn

from brainscale.models.brainmrnet import BrainMRNet
from brainscale.models.fast_brainmrnet import run_fast
from brainscale.models.normalisation import normalise
from brainscale.models.registry import NETWORKS, build_network

LEAST_TEXTURE = 1e-3
"""Standard deviation of a channel below which differences do not count."""


class Classifier(nn.Module):
    """A network with normalisation before it and softmax after it, as the engines run it.

    Args:
        network: takes normalised planes [N, 3, H, W] and returns logits [N, classes].
        first_stage: name of the module whose output the features are computed from; BrainMRNet's is known.
        winograd: whether to use Winograd convolutions, as `run_fast` does.
    """

    def __init__(self, network: nn.Module, first_stage: str = "", *, winograd: bool = False) -> None:
        super().__init__()
        self.network, self.first_stage, self.winograd = network, first_stage, winograd

    def forward(self, planes: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities, float32 [N, classes], and features, float32 [N, D], for planes, uint8 [N, H, W]."""
        if isinstance(self.network, BrainMRNet):
            logits, feature_map = run_fast(self.network, planes, winograd=self.winograd)
        else:
            logits, feature_map = self._run(planes)
        return torch.softmax(logits.float(), 1), measure_texture(feature_map)  # in bf16, they would not sum to 1

    def _run(self, planes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits, and the feature map of the first stage."""
        feature_maps: list[Tensor] = []
        hook = self.network.get_submodule(self.first_stage).register_forward_hook(
            lambda _module, _inputs, output: feature_maps.append(output)
        )
        try:
            logits = self.network(normalise(planes))
        finally:
            hook.remove()
        return logits, feature_maps[0]


def measure_texture(feature_map: Tensor) -> Tensor:
    """Return the logarithm of the standard deviation over space of each channel, float32 [N, C], for [N, C, H, W]."""
    pixels = feature_map.float().flatten(2)
    deviations = pixels - pixels.mean(2, keepdim=True)  # first: a difference of mean squares would lose all digits
    return torch.log((deviations * deviations).mean(2).sqrt() + LEAST_TEXTURE)


def load_classifier(name: str, classes: int, weights: bytes) -> nn.Module:
    """Return a classifier in evaluation mode with the weights of a bundle; missing or extra weights are an error."""
    network = build_network(name, classes)
    network.load_state_dict(load(weights))
    return Classifier(network, NETWORKS[name].first_stage).eval()
