"""Build EfficientNet-Lite0 from torchvision's parts: EfficientNet-B0 without squeeze-and-excitation, and with ReLU6.

EfficientNet is by Tan and Le (ICML 2019). Lite0 is laid out like MobileNetV2, with other widths and with 5 × 5
depthwise convolutions in three stages. Its ImageNet weights were trained in TensorFlow, which pads a convolution of
stride 2 more at the end than at the beginning, and on pixels as (grey − 127) / 128. Both are part of the network here,
so that the weights need no change. To fold the second into the first convolution would be wrong at the border, where
the zeros of the padding stand for grey 127.
"""

from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from brainscale.models.normalisation import normalisation_constants

STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 40, 2, 2), (6, 80, 3, 2), (6, 112, 3, 1), (6, 192, 4, 2), (6, 320, 1, 1))
"""Expansion, channels, blocks and stride of each stage."""
WIDE_KERNELS = (40, 112, 192)
"""Channels of the stages whose depthwise convolutions are 5 × 5; all others are 3 × 3."""


class SameConvolution(nn.Conv2d):
    """A convolution of stride 2 that pads as TensorFlow's `SAME` does: less at the beginning of an even length."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name that torch gives it)
        """Return the convolution of [N, C, H, W], of half the height and width, rounded up."""
        after = self.kernel_size[0] // 2
        top, left = (after - 1 + length % 2 for length in input.shape[2:])
        return F.conv2d(
            F.pad(input, (left, after, top, after)), self.weight, None, self.stride, 0, self.dilation, self.groups
        )


class Stem(SameConvolution):
    """The first convolution: it takes normalised planes and sees (grey − 127) / 128, zeros of the padding included."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Return the convolution of planes as `normalise` returns them, [N, 3, H, W]."""
        mean, std = normalisation_constants(input.device)
        return super().forward(input * (std * (255 / 128)) + (mean * 255 - 127) / 128)


def efficientnet_lite0(classes: int) -> nn.Module:
    """Return EfficientNet-Lite0, with 3,373,570 parameters for two classes."""
    from torchvision.models import MobileNetV2  # here: it is slow to import

    network: Any = MobileNetV2(
        num_classes=classes,
        inverted_residual_setting=[list(stage) for stage in STAGES],
        block=_make_block,
        norm_layer=partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01),
    )
    network.features[0][0] = _replace_convolution(network.features[0][0], Stem, 3)
    built: nn.Module = network
    return built


def _make_block(inputs: int, outputs: int, stride: int, **options: Any) -> Any:
    """Return torchvision's block with the depthwise convolution of this network."""
    from torchvision.models.mobilenetv2 import InvertedResidual

    block: Any = InvertedResidual(inputs, outputs, stride, **options)
    depthwise, kernel = block.conv[-3], 5 if outputs in WIDE_KERNELS else 3
    depthwise[0] = _replace_convolution(depthwise[0], SameConvolution if stride == 2 else nn.Conv2d, kernel)
    return block


def _replace_convolution(given: nn.Conv2d, kind: type[nn.Conv2d], kernel: int) -> nn.Conv2d:
    """Return a convolution of another kind or with another kernel, initialised as MobileNetV2 does."""
    channels, stride = (given.in_channels, given.out_channels), given.stride[0]
    made = kind(*channels, kernel, stride, kernel // 2, groups=given.groups, bias=False)
    nn.init.kaiming_normal_(made.weight, mode="fan_out")
    return made
