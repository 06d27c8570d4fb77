"""Build VGG16, ResNet50 and DenseNet121 with torchvision, with a last layer for the given number of classes."""

from typing import Any

from torch import Tensor, nn
from torch.hub import load_state_dict_from_url

from brainscale.errors import UsageError
from brainscale.models.resize import AdaptiveAverage


def _torchvision() -> Any:
    from torchvision import models  # slower to import than torch, and BrainMRNet does not need it

    return models


def vgg16(classes: int) -> nn.Module:
    """Return VGG16 (Simonyan and Zisserman 2015), with 134,268,738 parameters for two classes."""
    network: nn.Module = _torchvision().vgg16(num_classes=classes)
    network.avgpool = AdaptiveAverage(7)  # the same result, with a deterministic backward pass
    return network


def resnet50(classes: int) -> nn.Module:
    """Return ResNet50 (He et al. 2016), with 23,512,130 parameters for two classes."""
    network: nn.Module = _torchvision().resnet50(num_classes=classes)
    return network


def densenet121(classes: int) -> nn.Module:
    """Return DenseNet121 (Huang et al. 2017), with 6,955,906 parameters for two classes."""
    network: nn.Module = _torchvision().densenet121(num_classes=classes)
    return network


def missing_imagenet_weights(name: str) -> UsageError:
    """Return the error for a network that torchvision has no ImageNet weights of."""
    return UsageError(f"there are no ImageNet weights for {name}: set model.weights to null or to a .safetensors file")


def load_imagenet_weights(name: str, weights_name: str | None) -> dict[str, Tensor]:
    """Return torchvision's ImageNet weights, from torch's cache or by download; only tensors are unpickled.

    Args:
        name: name of the network in the registry.
        weights_name: torchvision's name of the weights, such as `ResNet50_Weights.IMAGENET1K_V2`.

    Raises:
        UsageError: there are no such weights, or they cannot be downloaded.
    """
    if weights_name is None:
        raise missing_imagenet_weights(name)
    try:
        weights: dict[str, Tensor] = load_state_dict_from_url(
            _torchvision().get_weight(weights_name).url, progress=False, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:
        raise UsageError(
            f"the ImageNet weights for {name} could not be downloaded ({error}): allow the download, "
            "or set model.weights to a .safetensors file with them"
        ) from None
    return {_rename_densenet_key(key): value for key, value in weights.items()}


def _rename_densenet_key(key: str) -> str:
    """Return the name of a module, such as norm1 or conv2; torchvision's DenseNet files have norm.1 and conv.2."""
    for part in ("norm", "relu", "conv"):
        for number in "12":
            key = key.replace(f".{part}.{number}.", f".{part}{number}.")
    return key
