"""Winograd's convolution is a convolution."""

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from brainscale.models.winograd import conv3x3

sides = st.integers(3, 19)


@given(sides, sides, st.integers(1, 5), st.integers(1, 5), st.integers(0, 1), st.integers(0, 2**32))
def test_the_same_numbers(height: int, width: int, inputs: int, outputs: int, padding: int, seed: int) -> None:
    made = torch.Generator().manual_seed(seed)
    x = torch.randn(2, inputs, height, width, generator=made, dtype=torch.float64)
    weight = torch.randn(outputs, inputs, 3, 3, generator=made, dtype=torch.float64)
    bias = torch.randn(outputs, generator=made, dtype=torch.float64)
    expected = F.conv2d(x, weight, bias, padding=padding)
    assert torch.allclose(conv3x3(x, weight, bias, padding), expected, rtol=0, atol=1e-11)


def test_rounding_is_that_of_float32() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(1, 64, 54, 54), torch.randn(64, 64, 3, 3) / 24, torch.randn(64)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    assert (conv3x3(x, weight, bias, 1) - exact).abs().max() < 1e-5
