"""Class activation maps: the maths against the definitions, and a network left as it was."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brainscale.config.sections import ARCHITECTURES
from brainscale.models.class_activation import cam_method, class_activation_map
from brainscale.models.classifier import Classifier
from brainscale.models.explained_score import log_odds
from brainscale.models.heatmaps import compute_heatmaps
from brainscale.models.normalisation import normalise
from brainscale.models.registry import NETWORKS, build_network

SIZE = 64


def some_planes(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE), np.uint8)


def built(name: str, classes: int = 2) -> Any:
    return build_network(name, classes, seed=3).eval()


def parts(name: str, network: Any, planes: Tensor) -> tuple[Tensor, Tensor]:
    """The last feature map and the logits, layer by layer, as the networks' papers have them."""
    x = normalise(planes)
    if name.startswith("brainmrnet"):
        first = network.stage1(x)
        second = network.stage2(first)
        last = network.stage3(second)
        return last, network.head(network.hypercolumn([first, second, last]))
    if name == "vgg16":
        last = network.features(x)
        return last, network.classifier(network.avgpool(last).flatten(1))
    if name == "efficientnet_lite0":
        last = network.features(x)
        return last, network.classifier(last.mean((2, 3)))
    if name == "densenet121":
        last = network.features(x).relu()
        return last, network.classifier(last.mean((2, 3)))
    for layer in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
        x = getattr(network, layer)(x)
    return x, network.fc(x.mean((2, 3)))


def expected(name: str, network: nn.Module, planes: Tensor, sign: int) -> Tensor:
    """The map of a two-class network; the exact one differs from Grad-CAM by a factor, which scaling takes away."""
    last, logits = parts(name, network, planes)
    (gradient,) = torch.autograd.grad(sign * (logits[:, 1] - logits[:, 0]).sum(), last)
    if name.startswith("brainmrnet"):
        maps = F.adaptive_avg_pool2d((gradient * last).sum(1, keepdim=True), 4).relu()
    else:
        maps = (gradient.mean((2, 3), keepdim=True) * last).sum(1, keepdim=True).relu()
    maps = F.interpolate(maps, (SIZE, SIZE), mode="bilinear", align_corners=False)[:, 0].detach()
    highest = maps.flatten(1).max(1).values
    return torch.stack([m / h if h > 0 else m for m, h in zip(maps, highest, strict=True)])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_map_is_as_defined_and_the_network_is_as_it_was(name: str) -> None:
    network, planes = built(name), torch.from_numpy(some_planes(3))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    ours = {
        target: compute_heatmaps(network, planes, target, architecture=name, method="cam") for target in (None, 0, 1)
    }
    flat = compute_heatmaps(network, torch.full((2, SIZE, SIZE), 0, dtype=torch.uint8), architecture=name, method="cam")

    assert torch.is_grad_enabled()
    assert all(not (m._forward_hooks or m._forward_pre_hooks or m._backward_hooks) for m in network.modules())
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert not any(m.training for m in network.modules())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())

    assert torch.equal(ours[None], ours[1])
    assert flat.isfinite().all()
    assert max(float(maps.max()) for maps in ours.values()) == 1
    for target, sign in ((None, 1), (0, -1)):
        maps = ours[target]
        assert maps.shape == (3, SIZE, SIZE)
        assert maps.dtype == torch.float32
        assert not maps.requires_grad
        assert maps.amin() >= 0
        assert set(maps.amax((1, 2)).tolist()) <= {0.0, 1.0}
        assert torch.allclose(maps, expected(name, network, planes, sign), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet50", "densenet121", "efficientnet_lite0"])
def test_an_exact_map_adds_up_to_the_score(name: str) -> None:
    network, planes = built(name), torch.from_numpy(some_planes(3))
    maps = class_activation_map(network, planes, architecture=name)
    bias = network.get_parameter(NETWORKS[name].head + "bias").detach()
    with torch.no_grad():
        logits = network(normalise(planes))
    score = logits[:, 1] - logits[:, 0]
    assert torch.allclose(maps.mean((1, 2)) + bias[1] - bias[0], score, rtol=0, atol=1e-4)
    assert torch.equal(class_activation_map(network, planes, 0, architecture=name), -maps)


@pytest.mark.parametrize("name", ["densenet121", "brainmrnet"])
@pytest.mark.parametrize("target", [None, 0, 1, 2])
def test_three_classes(name: str, target: int | None) -> None:
    network, planes = built(name, 3), torch.from_numpy(some_planes(2))
    last, logits = parts(name, network, planes)
    chances = torch.softmax(logits, 1)
    odds = 1 / chances[:, 0] - 1 if target is None else chances[:, target] / (1 - chances[:, target])
    assert torch.allclose(log_odds(logits, target), odds.log(), rtol=0, atol=1e-4)
    (gradient,) = torch.autograd.grad(odds.log().sum(), last)
    if name == "brainmrnet":
        theirs = F.adaptive_avg_pool2d((gradient * last).sum(1), 4).detach()
    else:
        theirs = (gradient.mean((2, 3), keepdim=True) * last).sum(1).detach()
    if NETWORKS[name].cam_method == "cam":
        theirs *= theirs[0].numel()  # ours are on the exact map's scale
    ours = class_activation_map(network, planes, target, architecture=name)
    assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))
    assert compute_heatmaps(network, planes, target, architecture=name, method="cam").isfinite().all()


def test_the_score_is_the_one_that_engines_give() -> None:
    network, planes = built("brainmrnet", 3), torch.from_numpy(some_planes(2))
    with torch.no_grad():
        tumour = 1 - Classifier(network)(planes)[0][:, 0]
        assert torch.allclose(torch.sigmoid(log_odds(network(normalise(planes)))), tumour, rtol=0, atol=1e-5)


def test_frozen_weights_and_a_caller_without_gradients_make_no_difference() -> None:
    network, planes = built("brainmrnet"), torch.from_numpy(some_planes(2))
    free = compute_heatmaps(network, planes, architecture="brainmrnet", method="cam")
    network.requires_grad_(False)
    with torch.no_grad():
        assert torch.equal(compute_heatmaps(network, planes, architecture="brainmrnet", method="cam"), free)
        assert not torch.is_grad_enabled()
    assert not any(p.requires_grad for p in network.parameters())


class Toy(nn.Module):
    """Eight-pixel means, and two classes that see the brightness with opposite signs; built like ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.layer4 = nn.Sequential(nn.AvgPool2d(8), nn.ReLU())
        self.fc = nn.Linear(3, 2)
        nn.init.constant_(self.fc.weight[0], -1.0)
        nn.init.constant_(self.fc.weight[1], 1.0)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.layer4(x).mean((2, 3)))
        return logits


@pytest.mark.parametrize(("row", "column"), [(0, 0), (5, 2), (7, 4)])
def test_a_hot_spot_is_where_the_map_is_highest(row: int, column: int) -> None:
    planes = torch.zeros(2, SIZE, SIZE, dtype=torch.uint8)
    planes[1, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 255
    network = Toy().eval()
    dark, lit = compute_heatmaps(network, planes, architecture="resnet50", method="cam")
    at = divmod(int(lit.argmax()), SIZE)
    assert (at[0] // 8, at[1] // 8) == (row, column)
    assert lit[8 * row : 8 * row + 8, 8 * column : 8 * column + 8].mean() > 0.5
    assert lit.sum() < 2 * 64  # next to nothing elsewhere
    assert not dark.any()
    assert not compute_heatmaps(network, planes, 0, architecture="resnet50", method="cam").any()


def test_every_network_has_its_kind_of_map() -> None:
    assert tuple(NETWORKS) == ARCHITECTURES
    assert {name for name in ARCHITECTURES if cam_method(name, 2) == "cam"} == {
        "resnet50",
        "densenet121",
        "efficientnet_lite0",
    }
    assert {cam_method(name, 3) for name in ARCHITECTURES} == {"hirescam", "grad-cam"}
