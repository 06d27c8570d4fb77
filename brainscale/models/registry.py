"""The networks by name."""

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from brainscale.errors import UsageError
from brainscale.models.brainmrnet import BrainMRNet, BrainMRNetPaper
from brainscale.models.torchvision_networks import densenet121, imagenet_weights, resnet50, vgg16

BUILDERS: Mapping[str, Callable[[int], nn.Module]] = {
    "brainmrnet": BrainMRNet,
    "brainmrnet_paper": BrainMRNetPaper,
    "vgg16": vgg16,
    "resnet50": resnet50,
    "densenet121": densenet121,
}
HEADS = {
    "brainmrnet": "head.classifier.",
    "brainmrnet_paper": "head.classifier.",
    "vgg16": "classifier.6.",
    "resnet50": "fc.",
    "densenet121": "classifier.",
}
"""Where the last layer's parameters stand: it is made anew when a file has other classes."""


def build(name: str, classes: int, weights: str | None = None, seed: int = 0) -> nn.Module:
    """A network, initialised from a seed or from given weights; the global random state is left alone.

    Args:
        name: one of `BUILDERS`.
        classes: outputs.
        weights: None, `imagenet`, or the path of a .safetensors file with the network's own keys.
        seed: of the random initialisation.

    Raises:
        UsageError: unknown name, or weights that are absent or do not fit.
    """
    if name not in BUILDERS:
        near = difflib.get_close_matches(name, BUILDERS, n=1)
        hint = f": did you mean '{near[0]}'?" if near else ":"
        raise UsageError(f"unknown model '{name}'{hint} known: {', '.join(BUILDERS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = BUILDERS[name](classes)
    if weights is not None:
        given = imagenet_weights(name) if weights == "imagenet" else _read(weights, name)
        _fill(network, given, HEADS[name], weights)
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
