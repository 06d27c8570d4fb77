"""Class activation maps: heatmaps from the last feature map of a network.

CAM (Zhou et al., CVPR 2016) is exact if a network averages its last feature map over space and has one linear layer
after it. HiResCAM (Draelos and Carin 2020) is for the two networks with a hypercolumn, which gives all channels the
same weight: there, the mean gradient of Grad-CAM would show only where features are large. Grad-CAM (Selvaraju et al.,
ICCV 2017) is for all others.
"""

import torch
from torch import Tensor, nn

from brainscale.models.brainmrnet import HYPERCOLUMN_SIDE
from brainscale.models.explained_score import log_odds
from brainscale.models.normalisation import normalise
from brainscale.models.registry import NETWORKS
from brainscale.models.resize import average_matrix, resample


def class_activation_map(network: nn.Module, planes: Tensor, target: int | None = None, *, architecture: str) -> Tensor:
    """Return the evidence for a tumour, or for one class, in each cell of the last feature map: float32 [N, h, w].

    The mean over space of an exact class activation map, plus the difference of the two biases, is equal to `log_odds`.

    Args:
        network: a network in evaluation mode.
        planes: [N, S, S] in 0..255.
        target: index of a class; None for a tumour.
        architecture: name of the network in the registry.
    """
    record = NETWORKS[architecture]
    is_averaged = record.cam_method == "cam"
    feature_maps: list[Tensor] = []

    def keep_feature_map(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        feature_maps.append((output.relu() if is_averaged else output).requires_grad_())
        torch.set_grad_enabled(True)  # only from here on: gradients of the layers before are not needed
        return feature_maps[0].clone()  # the layers after it may work in place

    with torch.no_grad(), network.get_submodule(record.cam_layer).register_forward_hook(keep_feature_map):
        logits = network(normalise(planes))
        score = log_odds(logits, target).sum()
    if is_averaged:  # not the gradient at the feature map, which the ReLU would set to 0 where the map is 0
        weights = torch.autograd.grad(score, logits)[0] @ network.get_parameter(record.head + "weight").detach()
    else:
        gradient = torch.autograd.grad(score, feature_maps)[0]
        if record.cam_method == "hirescam":
            product = (gradient * feature_maps[0].detach()).sum(1)
            # averaged over the cells of the hypercolumn, since the head sees nothing finer
            return resample(product, *(average_matrix(length, HYPERCOLUMN_SIDE) for length in product.shape[1:]))
        weights = gradient.mean((2, 3))
    return torch.einsum("nc,nchw->nhw", weights, feature_maps[0].detach())


def cam_method(architecture: str, classes: int) -> str:
    """Return the kind of class activation map for a network: `cam`, `hirescam` or `grad-cam`.

    CAM is exact for two classes only.
    """
    method = NETWORKS[architecture].cam_method
    return "grad-cam" if method == "cam" and classes > 2 else method
