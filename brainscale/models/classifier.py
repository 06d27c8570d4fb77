"""Classify uint8 planes: normalisation, network and softmax as one module, with features for novelty."""

from collections.abc import Sequence

import torch
from safetensors.torch import load
from torch import Tensor, nn

from brainscale.models.brainmrnet import BrainMRNet
from brainscale.models.fast_brainmrnet import compute_logits_and_features
from brainscale.models.normalisation import normalise
from brainscale.models.registry import NETWORKS, build_network


class Classifier(nn.Module):
    """A network with normalisation before it and softmax after it, as the engines run it.

    Args:
        network: takes normalised planes [N, 3, H, W] and returns logits [N, classes].
        stages: names of the modules whose outputs, averaged over space, are the features; BrainMRNet has its own.
        winograd: whether to use Winograd convolutions, as `compute_logits_and_features` does.
    """

    def __init__(self, network: nn.Module, stages: Sequence[str] = (), *, winograd: bool = False) -> None:
        super().__init__()
        self.network, self.stages, self.winograd = network, tuple(stages), winograd

    def forward(self, planes: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities, float32 [N, classes], and features, float32 [N, D], for planes, uint8 [N, H, W]."""
        if isinstance(self.network, BrainMRNet):
            logits, features = compute_logits_and_features(self.network, planes, winograd=self.winograd)
        else:
            logits, features = self._run_stages(planes)
        return torch.softmax(logits.float(), 1), features.float()  # in bf16, probabilities would not sum to 1

    def _run_stages(self, planes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits, and the mean over space of each channel of the stages."""
        means: list[Tensor] = []

        def keep_mean(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            means.append(output.mean((2, 3)))  # now: a layer after it may work in place

        hooks = [self.network.get_submodule(name).register_forward_hook(keep_mean) for name in self.stages]
        try:
            logits = self.network(normalise(planes))
        finally:
            for hook in hooks:
                hook.remove()
        return logits, torch.cat(means, 1) if means else logits.new_empty(len(logits), 0)


def load_classifier(name: str, classes: int, weights: bytes) -> nn.Module:
    """Return a classifier in evaluation mode with the weights of a bundle; missing or extra weights are an error."""
    network = build_network(name, classes)
    network.load_state_dict(load(weights))
    return Classifier(network, NETWORKS[name].stages).eval()
