"""The networks by name, one record for each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from brainscale.config.explain import did_you_mean
from brainscale.errors import UsageError
from brainscale.models.brainmrnet import BrainMRNet, BrainMRNetPaper
from brainscale.models.torchvision_networks import densenet121, imagenet_weights, resnet50, vgg16


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One network: how it is built, read and explained.

    Attributes:
        build: number of classes → a network with random weights.
        head: prefix of the last layer's parameters, which start afresh when a file of weights has other classes.
        cam_layer: the module whose output is the last feature map.
        cam_method: how a heatmap follows from that map: `cam` where a ReLU, the mean over space and a linear layer
            come after it, `hirescam` where a hypercolumn reads it cell by cell, else `grad-cam`.
        imagenet: torchvision's name of its ImageNet weights, if there are any.
    """

    build: Callable[[int], nn.Module]
    head: str
    cam_layer: str
    cam_method: Literal["cam", "hirescam", "grad-cam"]
    imagenet: str | None = None


NETWORKS: Mapping[str, Architecture] = {
    "brainmrnet": Architecture(build=BrainMRNet, head="head.classifier.", cam_layer="stage3", cam_method="hirescam"),
    "brainmrnet_paper": Architecture(
        build=BrainMRNetPaper, head="head.classifier.", cam_layer="stage3", cam_method="hirescam"
    ),
    "vgg16": Architecture(
        build=vgg16,
        head="classifier.6.",
        cam_layer="features",
        cam_method="grad-cam",
        imagenet="VGG16_Weights.IMAGENET1K_V1",
    ),
    "resnet50": Architecture(
        build=resnet50,
        head="fc.",
        cam_layer="layer4",
        cam_method="cam",
        imagenet="ResNet50_Weights.IMAGENET1K_V2",
    ),
    "densenet121": Architecture(
        build=densenet121,
        head="classifier.",
        cam_layer="features",
        cam_method="cam",
        imagenet="DenseNet121_Weights.IMAGENET1K_V1",
    ),
}
"""Every network by its name, as `config.sections.ARCHITECTURES` lists them."""


def build(name: str, classes: int, weights: str | None = None, seed: int = 0) -> nn.Module:
    """Build a network from a seed or from given weights; the global random state is left alone.

    Args:
        name: one of `NETWORKS`.
        classes: number of outputs.
        weights: None for random ones, `imagenet`, or the path of a .safetensors file with the network's own keys.
        seed: seed of the random initialisation.

    Raises:
        UsageError: unknown name, or weights that are absent or do not fit.
    """
    if name not in NETWORKS:
        raise UsageError(f"unknown model '{name}'{did_you_mean(name, NETWORKS)}")
    architecture = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = architecture.build(classes)
    if weights is not None:
        given = imagenet_weights(name, architecture.imagenet) if weights == "imagenet" else _read(weights, name)
        _fill(network, given, architecture.head, weights)
    return network


def count_parameters(network: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def _read(path: str, name: str) -> dict[str, Tensor]:
    if not Path(path).is_file():
        raise UsageError(
            f"no weights file {path} for {name}: give the path of a .safetensors file, "
            "or set model.weights to imagenet (downloads) or null (random)"
        )
    try:
        weights: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is not a safetensors file ({error}): convert the weights first") from None
    return weights


def _fill(network: nn.Module, given: Mapping[str, Tensor], head: str, source: str) -> None:
    """Load strictly, but keep the network's own last layer where the file's has other classes."""
    own = network.state_dict()
    kept = {k for k in own if k.startswith(head) and (k not in given or given[k].shape != own[k].shape)}
    counters = {k for k in own if k.endswith("num_batches_tracked") and k not in given}  # absent from older files
    wrong = sorted(
        {k for k in own if k not in given or given[k].shape != own[k].shape} - kept - counters
        | {k for k in given if k not in own}
    )
    if wrong:
        raise UsageError(
            f"the weights of {source} do not fit the network: '{wrong[0]}' and {len(wrong) - 1} more differ"
        )
    network.load_state_dict({**given, **{k: own[k] for k in kept | counters}})


def flops(name: str, classes: int, size: int) -> int:
    """Floating-point operations of one image through a network, a multiplication and an addition each one.

    Args:
        name: of the network.
        classes: outputs.
        size: side of the image, pixels.
    """
    with torch.device("meta"):  # shapes suffice
        image = torch.empty(1, 3, size, size)
    network = build(name, classes).eval().to("meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(image)
    return int(counter.get_total_flops())
