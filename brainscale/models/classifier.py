"""Classify uint8 planes: normalisation, network and softmax as one module, with features for novelty."""

import torch
from safetensors.torch import load
from torch import Tensor, nn

from brainscale.models.brainmrnet import BrainMRNet
from brainscale.models.ensemble import Ensemble, build_from_spec, first_stage, name_parameters
from brainscale.models.fast_brainmrnet import run_fast
from brainscale.models.network_spec import NetworkSpec
from brainscale.models.normalisation import normalise

LEAST_TEXTURE = 1e-3
"""Standard deviation of a channel below which differences do not count."""

MAX_TOGETHER = 512
"""Side of a plane up to which its views are one batch in an ONNX graph; larger ones would need too much memory."""


class Classifier(nn.Module):
    """A network with normalisation before it and softmax after it, as the engines run it.

    Args:
        network: takes normalised planes [N, 3, H, W] and returns logits [N, classes].
        first_stage: name of the module whose output the features are computed from, in the first member of an
            ensemble; BrainMRNet's is known.
        together: whether to compute all views of a plane together, as suits ONNX Runtime.
        winograd: whether to compute with Winograd convolutions, which suit ONNX Runtime in float32.
    """

    def __init__(
        self, network: nn.Module, first_stage: str = "", *, together: bool = False, winograd: bool = False
    ) -> None:
        super().__init__()
        self.network, self.first_stage = network, first_stage
        self.together, self.winograd = together, winograd

    def forward(self, planes: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities, float32 [N, classes], and features, float32 [N, D], for planes, uint8 [N, H, W]."""
        features: list[Tensor] = []

        def run(network: nn.Module, view: Tensor) -> Tensor:
            logits, feature_map = self._run(network, view, has_features=not features)
            if feature_map is not None:
                features.append(measure_texture(feature_map[: planes.shape[0]]))
            return logits

        if isinstance(self.network, Ensemble):
            # in an ONNX graph, one network for all views: the graph stays small, and a plane is scored alone there
            together = self.together and planes.shape[-1] <= MAX_TOGETHER
            logits = self.network.average(planes.float(), run, together=together)
        else:
            logits = run(self.network, planes)
        return torch.softmax(logits.float(), 1), features[0]  # in bf16, probabilities would not sum to 1

    def _run(self, network: nn.Module, planes: Tensor, *, has_features: bool) -> tuple[Tensor, Tensor | None]:
        """Return the logits and, where it has features, the feature map of the first stage."""
        if isinstance(network, BrainMRNet):
            logits, feature_map = run_fast(network, planes, winograd=self.winograd)
            return logits, feature_map if has_features else None
        if not has_features:
            return network(normalise(planes)), None
        feature_maps: list[Tensor] = []
        hook = network.get_submodule(self.first_stage).register_forward_hook(
            lambda _module, _inputs, output: feature_maps.append(output)
        )
        try:
            logits = network(normalise(planes))
        finally:
            hook.remove()
        return logits, feature_maps[0]


def measure_texture(feature_map: Tensor) -> Tensor:
    """Return the logarithm of the standard deviation over space of each channel, float32 [N, C], for [N, C, H, W]."""
    pixels = feature_map.float().flatten(2)
    deviations = pixels - pixels.mean(2, keepdim=True)  # first: a difference of mean squares would lose all digits
    return torch.log((deviations * deviations).mean(2).sqrt() + LEAST_TEXTURE)


def load_classifier(spec: NetworkSpec, classes: int, weights: bytes) -> nn.Module:
    """Return a classifier in evaluation mode with the weights of a bundle; missing or extra weights are an error."""
    network = build_from_spec(spec, classes)
    network.load_state_dict(name_parameters(spec, load(weights)))
    return Classifier(network, first_stage(spec)).eval()
