"""Registry of the networks: how each is built, and what heatmaps and pretrained weights need to know about it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from brainscale.config.explain import did_you_mean
from brainscale.errors import UsageError
from brainscale.models.brainmrnet import BrainMRNet, BrainMRNetPaper
from brainscale.models.efficientnet_lite import efficientnet_lite0
from brainscale.models.pretrained import require_weights_file
from brainscale.models.torchvision_networks import (
    densenet121,
    load_imagenet_weights,
    missing_imagenet_weights,
    resnet50,
    vgg16,
)

HeatmapMethod = Literal["occlusion", "rise", "integrated gradients", "cam"]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A network in the registry.

    Attributes:
        build: makes the network with random weights, for a number of classes.
        head: prefix of the parameters of the last layer, which stays random if a weights file has other classes.
        cam_layer: the module whose output is the last feature map.
        cam_method: method for heatmaps: `cam` if a ReLU, the mean over space and a linear layer follow the feature map;
            `hirescam` if a hypercolumn reads the feature map cell by cell; else `grad-cam`.
        first_stage: the module whose output, the first small feature map, novelty is computed from.
        heatmap_method: the method for heatmaps, chosen by benchmarks/heatmap_faithfulness.py.
        imagenet: torchvision's name of the ImageNet weights; None if there are none.
    """

    build: Callable[[int], nn.Module]
    head: str
    cam_layer: str
    cam_method: Literal["cam", "hirescam", "grad-cam"]
    first_stage: str
    heatmap_method: HeatmapMethod = "integrated gradients"
    imagenet: str | None = None


NETWORKS: Mapping[str, Architecture] = {
    "brainmrnet": Architecture(
        build=BrainMRNet,
        head="head.classifier.",
        cam_layer="stage3",
        cam_method="hirescam",
        first_stage="stage1",
    ),
    "brainmrnet_paper": Architecture(
        build=BrainMRNetPaper,
        head="head.classifier.",
        cam_layer="stage3",
        cam_method="hirescam",
        first_stage="stage1",
    ),
    "vgg16": Architecture(
        build=vgg16,
        head="classifier.6.",
        cam_layer="features",
        cam_method="grad-cam",
        first_stage="features.4",
        imagenet="VGG16_Weights.IMAGENET1K_V1",
    ),
    "resnet50": Architecture(
        build=resnet50,
        head="fc.",
        cam_layer="layer4",
        cam_method="cam",
        first_stage="maxpool",
        imagenet="ResNet50_Weights.IMAGENET1K_V2",
    ),
    "densenet121": Architecture(
        build=densenet121,
        head="classifier.",
        cam_layer="features",
        cam_method="cam",
        first_stage="features.pool0",
        imagenet="DenseNet121_Weights.IMAGENET1K_V1",
    ),
    "efficientnet_lite0": Architecture(
        build=efficientnet_lite0,
        head="classifier.1.",
        cam_layer="features",
        cam_method="cam",
        first_stage="features.3",
    ),
}
"""Name → network, in the order of `config.sections.ARCHITECTURES`."""


def build_network(name: str, classes: int, weights: str | None = None, seed: int = 0) -> nn.Module:
    """Return a network with random or pretrained weights; the global random state is not changed.

    Args:
        name: name of the network, a key of `NETWORKS`.
        classes: number of classes.
        weights: None for random weights, `imagenet`, or the path of a .safetensors file with the keys of the network.
        seed: seed of the random weights.

    Raises:
        UsageError: the name is unknown, or the weights are missing or do not fit the network.
    """
    if name not in NETWORKS:
        raise UsageError(f"unknown model '{name}'{did_you_mean(name, NETWORKS)}")
    architecture = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = architecture.build(classes)
    if weights is not None:
        if weights == "imagenet":
            pretrained = load_imagenet_weights(name, architecture.imagenet)
        else:
            pretrained = _read_weights(weights, name)
        _load_weights(network, pretrained, architecture.head, weights)
    return network


def check_initial_weights(name: str, classes: int, weights: str | None) -> None:
    """Check that initial weights fit a network; ImageNet weights are not downloaded for this.

    Args:
        name: name in the registry.
        classes: number of classes.
        weights: as `build_network` takes them.

    Raises:
        UsageError: they are missing or do not fit the network.
    """
    if weights == "imagenet" and NETWORKS[name].imagenet is None:
        raise missing_imagenet_weights(name)
    if weights not in (None, "imagenet"):
        build_network(name, classes, weights)


def count_parameters(network: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def _read_weights(path: str, name: str) -> dict[str, Tensor]:
    require_weights_file(path, name)
    try:
        weights: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is not a safetensors file ({error}): convert the weights first") from None
    return weights


def _load_weights(network: nn.Module, pretrained: Mapping[str, Tensor], head: str, source: str) -> None:
    """Load pretrained weights, but keep the random last layer if the pretrained one has other classes.

    Raises:
        UsageError: other weights are missing, unknown or of another shape.
    """
    random = network.state_dict()
    unfit = {key for key in random if key not in pretrained or pretrained[key].shape != random[key].shape}
    last_layer = {key for key in unfit if key.startswith(head)}
    # older files have no counters
    counters = {key for key in random if key.endswith("num_batches_tracked") and key not in pretrained}
    differing = sorted(unfit - last_layer - counters | {key for key in pretrained if key not in random})
    if differing:
        raise UsageError(
            f"the weights of {source} do not fit the network ('{differing[0]}' and {len(differing) - 1} more tensors "
            "differ): use weights of the same network"
        )
    network.load_state_dict({**pretrained, **{key: random[key] for key in last_layer | counters}})


def count_flops(name: str, classes: int, size: int) -> int:
    """Return the floating-point operations for one image; a multiplication and an addition count as two.

    Args:
        name: name of the network.
        classes: number of classes.
        size: width and height of the image in pixels.
    """
    with torch.device("meta"):  # only shapes are needed
        image = torch.empty(1, 3, size, size)
    network = build_network(name, classes).eval().to("meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(image)
    return int(counter.get_total_flops())
