"""EfficientNet-Lite0 against the implementation that its ImageNet weights come from."""

import numpy as np
import pytest
import torch

from brainscale.models.normalisation import normalise
from brainscale.models.registry import build_network

LOGITS = {
    64: (-4.325480, 4.800454, 0.493201),
    75: (-2.243146, 6.523409, 0.874049),
    96: (-2.707000, 6.949752, 0.697053),
}
"""Logits of efficientnet-lite-pytorch 0.1.0 with these weights and planes, (grey - 127) / 128, computed in float64."""


def made_weights(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights of a size that keeps activations about 1, from a stream of numbers that no version of torch changes."""
    made = {}
    for number, (key, tensor) in enumerate(sorted(network.state_dict().items())):
        if key.endswith("num_batches_tracked"):
            made[key] = torch.tensor(0)
            continue
        values = np.random.default_rng(number).random(tensor.shape, np.float32)
        if tensor.ndim > 1:
            values = (values - 0.5) * np.sqrt(24 / np.prod(tensor.shape[1:]))
        elif key.endswith(("bias", "mean")):
            values = values - 0.5
        else:
            values = values + 0.5
        made[key] = torch.from_numpy(values.astype(np.float32))
    return made


@pytest.mark.parametrize("side", LOGITS)
def test_the_logits_are_those_of_the_source(side: int) -> None:
    """Sides that stay even, and one that is odd in most layers: the padding differs."""
    network = build_network("efficientnet_lite0", 3).eval()
    network.load_state_dict(made_weights(network))
    planes = torch.arange(side * side).reshape(1, side, side).mul(7).remainder(256).to(torch.uint8)
    with torch.no_grad():
        logits = network.double()(normalise(planes).double())[0]
    assert logits.tolist() == pytest.approx(LOGITS[side], abs=1e-5)


def test_the_padding_of_the_stem_is_grey_127() -> None:
    """A plane of that grey is nothing but zeros for it, at the border too."""
    network = build_network("efficientnet_lite0", 2).eval()
    with torch.no_grad():
        features = network.get_submodule("features.0.0")(normalise(torch.full((1, 64, 64), 127, dtype=torch.uint8)))
    assert features.abs().max() < 1e-6
