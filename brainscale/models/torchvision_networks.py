"""VGG16, ResNet50 and DenseNet121 as torchvision builds them, with a last layer for our classes."""

from typing import Any

from torch import Tensor, nn
from torch.hub import load_state_dict_from_url

from brainscale.errors import UsageError
from brainscale.models.resize import AdaptiveAverage


def _torchvision() -> Any:
    from torchvision import models  # here: it takes longer to import than torch, and brainmrnet does without

    return models


def vgg16(classes: int) -> nn.Module:
    """Simonyan and Zisserman 2015; 134,268,738 parameters for two classes."""
    network: nn.Module = _torchvision().vgg16(num_classes=classes)
    network.avgpool = AdaptiveAverage(7)  # the same numbers, a deterministic backward
    return network


def resnet50(classes: int) -> nn.Module:
    """He et al. 2016; 23,512,130 parameters for two classes."""
    network: nn.Module = _torchvision().resnet50(num_classes=classes)
    return network


def densenet121(classes: int) -> nn.Module:
    """Huang et al. 2017; 6,955,906 parameters for two classes."""
    network: nn.Module = _torchvision().densenet121(num_classes=classes)
    return network


def imagenet_weights(name: str, weights_name: str | None) -> dict[str, Tensor]:
    """Download torchvision's weights, or take them from torch's cache; tensors only, nothing is unpickled.

    Args:
        name: the network's name in the registry.
        weights_name: torchvision's name of the weights, such as `ResNet50_Weights.IMAGENET1K_V2`.

    Raises:
        UsageError: no such weights, or no way to get them.
    """
    if weights_name is None:
        raise UsageError(
            f"there are no ImageNet weights of {name}: set model.weights to null or to a .safetensors file"
        )
    try:
        weights: dict[str, Tensor] = load_state_dict_from_url(
            _torchvision().get_weight(weights_name).url, progress=False, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:
        raise UsageError(
            f"the ImageNet weights of {name} could not be downloaded ({error}): allow the download, "
            "or set model.weights to a .safetensors file of them"
        ) from None
    return {_old_densenet_name(key): value for key, value in weights.items()}


def _old_densenet_name(key: str) -> str:
    """Torchvision's DenseNet files say norm.1 and conv.2 where its modules say norm1 and conv2."""
    for part in ("norm", "relu", "conv"):
        for number in "12":
            key = key.replace(f".{part}.{number}.", f".{part}{number}.")
    return key
