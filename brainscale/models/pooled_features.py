"""Features of images from a network as it is: its last feature map, averaged and maximised over space."""

import numpy as np
import torch
from torch import Tensor

from brainscale.models.normalisation import normalise
from brainscale.models.registry import NETWORKS, build_network

BATCH = 16


def pool_features(planes: np.ndarray, *, architecture: str, weights: str | None) -> np.ndarray:
    """Return the mean and the maximum over space of each channel of the last feature map: float32 [N, 2 C].

    Args:
        planes: uint8 [N, S, S].
        architecture: name of the network in the registry.
        weights: as for `build_network`; its last layer, which may be random, is not used.
    """
    network, record = build_network(architecture, 2, weights).eval(), NETWORKS[architecture]
    feature_maps: list[Tensor] = []
    layer = network.get_submodule(record.cam_layer)
    pooled = []
    with torch.no_grad(), layer.register_forward_hook(lambda _module, _inputs, output: feature_maps.append(output)):
        for batch in torch.from_numpy(planes).split(BATCH):
            network(normalise(batch))
            features = feature_maps.pop().relu().flatten(2)  # densenet121 has its last ReLU after this layer
            pooled.append(torch.cat([features.mean(2), features.amax(2)], 1))
    return torch.cat(pooled).numpy()
