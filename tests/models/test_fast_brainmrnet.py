"""Scoring's shortcuts give the network's own numbers."""

import pytest
import torch
from torch import nn

from brainscale.models.fast_brainmrnet import find_tile_starts, run_fast
from brainscale.models.normalisation import normalise
from brainscale.models.registry import build_network


@pytest.mark.parametrize("winograd", [False, True])
@pytest.mark.parametrize("name", ["brainmrnet", "brainmrnet_paper"])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 131), (160, 64), (224, 224)])
def test_same_logits(name: str, height: int, width: int, winograd: bool) -> None:
    network = build_network(name, 3, seed=1).eval()
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)  # type: ignore[union-attr,operator]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr,operator]
    with torch.no_grad():
        network.head.classifier.weight.mul_(20)  # type: ignore[union-attr,operator]
        planes = torch.randint(0, 256, (2, height, width), dtype=torch.uint8)
        logits, first = run_fast(network, planes, winograd=winograd)
        assert torch.allclose(logits, network(normalise(planes)), rtol=0, atol=1e-5)
        assert torch.allclose(first, network.stage1(normalise(planes)), rtol=0, atol=1e-5)  # type: ignore[operator]


def test_tiles_hold_what_the_hypercolumn_reads() -> None:
    assert find_tile_starts(52) == [2, 16, 28, 42]  # 224²: 26 pooled rows, read at 2 and 3, 9 and 10, …
    assert find_tile_starts(12) is None  # they would cover everything
    for length in range(12, 200):
        for start in find_tile_starts(length) or []:
            assert 0 <= start <= length - 8
