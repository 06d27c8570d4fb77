"""BrainMRNet: attention, residual blocks and a hypercolumn in about 0.55 M parameters.

The architecture is from Toğaçar, Ergen and Cömert, "BrainMRNet", Medical Hypotheses 134 (2020) 109531; its attention is
from Woo et al., "CBAM", ECCV 2018. `BrainMRNet` is the network of the published table
(github.com/Marshal-Ashif-Shawkat/bme-310-project). `BrainMRNetPaper` is the authors' own implementation
(github.com/mtogacar/BrainMRNet).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brainscale.models.resize import bilinear_matrix, resample


@dataclass(frozen=True, kw_only=True)
class Variant:
    """The settings in which the two networks differ.

    Attributes:
        padding: padding of the 3 × 3 convolutions in the convolution blocks.
        spatial_bias: whether the convolution of the spatial attention has a bias.
        mean_first: whether the input planes of the spatial attention are (mean, max) instead of (max, mean).
        slope: negative slope of LeakyReLU.
        eps: epsilon of batch norm.
        momentum: momentum of batch norm, as PyTorch defines it.
    """

    padding: int = 0
    spatial_bias: bool = True
    mean_first: bool = False
    slope: float = 0.01
    eps: float = 1e-5
    momentum: float = 0.1


PUBLISHED = Variant()
PAPER = Variant(padding=1, spatial_bias=False, mean_first=True, slope=0.3, eps=1e-3, momentum=0.01)
HYPERCOLUMN_SIDE = 4


class ConvBlock(nn.Module):
    """3 × 3 convolution, batch norm and ReLU."""

    def __init__(self, inputs: int, outputs: int, variant: Variant) -> None:
        super().__init__()
        self.conv2d = nn.Conv2d(inputs, outputs, 3, padding=variant.padding)
        self.bn = nn.BatchNorm2d(outputs, variant.eps, variant.momentum)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, outputs, H', W'] for [N, inputs, H, W]."""
        return F.relu(self.bn(self.conv2d(x)), inplace=True)


class ChannelAttention(nn.Module):
    """Multiply the input by sigmoid(MLP(max over space) + MLP(mean over space)), with one MLP for both."""

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        hidden = channels // reduction
        self.shared_mlp = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape, [N, C, H, W]."""
        # not adaptive max pooling, whose backward pass is not deterministic on CUDA
        highest = self.shared_mlp(x.flatten(2).max(2).values)
        mean = self.shared_mlp(x.mean((2, 3)))
        return x * torch.sigmoid(highest + mean)[:, :, None, None]


class SpatialAttention(nn.Module):
    """Multiply the input by sigmoid(7 × 7 convolution of the max and the mean over channels)."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.mean_first = variant.mean_first
        self.conv2d = nn.Conv2d(2, 1, 7, padding=3, bias=variant.spatial_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape, [N, C, H, W]."""
        planes = [x.max(1, keepdim=True).values, x.mean(1, keepdim=True)]
        if self.mean_first:
            planes.reverse()
        return x * torch.sigmoid(self.conv2d(torch.cat(planes, 1)))


class CBAM(nn.Module):
    """Channel attention, then spatial attention."""

    def __init__(self, channels: int, variant: Variant) -> None:
        super().__init__()
        self.cam = ChannelAttention(channels)
        self.sam = SpatialAttention(variant)

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape, [N, C, H, W]."""
        attended: Tensor = self.sam(self.cam(x))
        return attended


class ResidualBlock(nn.Module):
    """Two 3 × 3 convolutions with batch norm and LeakyReLU, and an identity shortcut."""

    def __init__(self, channels: int, variant: Variant) -> None:
        super().__init__()
        self.slope = variant.slope
        self.conv2d1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(channels, variant.eps, variant.momentum)
        self.conv2d2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(channels, variant.eps, variant.momentum)

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape, [N, C, H, W]."""
        inner = F.leaky_relu(self.bn1(self.conv2d1(x)), self.slope, inplace=True)
        return F.leaky_relu(self.bn2(self.conv2d2(inner)).add_(x), self.slope, inplace=True)


class FirstStage(nn.Module):
    """Two convolution blocks and 2 × 2 max pooling."""

    def __init__(self, outputs: int, variant: Variant) -> None:
        super().__init__()
        self.conv1 = ConvBlock(3, outputs, variant)
        self.conv2 = ConvBlock(outputs, outputs, variant)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, outputs, about H/2, about W/2] for [N, 3, H, W]."""
        return F.max_pool2d(self.conv2(self.conv1(x)), 2)


class Stage(nn.Module):
    """Convolution block, CBAM, residual block and 2 × 2 max pooling."""

    def __init__(self, inputs: int, outputs: int, variant: Variant) -> None:
        super().__init__()
        self.conv = ConvBlock(inputs, outputs, variant)
        self.cbam = CBAM(outputs, variant)
        self.residual = ResidualBlock(outputs, variant)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, outputs, about H/2, about W/2] for [N, inputs, H, W]."""
        return F.max_pool2d(self.residual(self.cbam(self.conv(x))), 2)


class DenseBlock(nn.Module):
    """Linear layer, batch norm and ReLU."""

    def __init__(self, inputs: int, outputs: int, variant: Variant) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, outputs)
        self.bn = nn.BatchNorm1d(outputs, variant.eps, variant.momentum)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, outputs] for [N, inputs]."""
        return F.relu(self.bn(self.dense(x)))


class Head(nn.Module):
    """Dense block, dropout, dense block and linear layer."""

    def __init__(self, inputs: int, classes: int, variant: Variant) -> None:
        super().__init__()
        self.dense1 = DenseBlock(inputs, 256, variant)
        self.dropout = nn.Dropout(0.3)
        self.dense2 = DenseBlock(256, 256, variant)
        self.classifier = nn.Linear(256, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [N, classes] for [N, inputs]."""
        logits: Tensor = self.classifier(self.dense2(self.dropout(self.dense1(x))))
        return logits


class BrainMRNet(nn.Module):
    """The network of the published table, with 550,016 parameters for two classes.

    Args:
        classes: number of classes.
        variant: settings in which it differs from `BrainMRNetPaper`.
        column: length of the hypercolumn.
    """

    def __init__(self, classes: int, variant: Variant = PUBLISHED, column: int = HYPERCOLUMN_SIDE**2) -> None:
        super().__init__()
        self.stage1 = FirstStage(32, variant)
        self.stage2 = Stage(32, 64, variant)
        self.stage3 = Stage(64, 128, variant)
        self.head = Head(column, classes, variant)

    def hypercolumn(self, stages: list[Tensor]) -> Tensor:
        """Return the mean over all 224 channels of the stages, each resized to 4 × 4, as [N, 16].

        Resizing is linear, so each stage is summed over its channels first, and only one plane per stage is resized.
        """
        side, channels = HYPERCOLUMN_SIDE, sum(s.shape[1] for s in stages)
        total = torch.zeros((), device=stages[0].device, dtype=stages[0].dtype)
        for stage in stages:
            height, width = stage.shape[-2:]
            total = total + resample(stage.sum(1), bilinear_matrix(height, side), bilinear_matrix(width, side))
        return (total / channels).flatten(1)

    def run_stages(self, x: Tensor) -> list[Tensor]:
        """Return the outputs of the three stages for normalised planes, float [N, 3, H, W]."""
        first = self.stage1(x)
        second = self.stage2(first)
        return [first, second, self.stage3(second)]

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [N, classes] for normalised planes, float [N, 3, H, W] with H and W of 64 or more."""
        logits: Tensor = self.head(self.hypercolumn(self.run_stages(x)))
        return logits


class BrainMRNetPaper(BrainMRNet):
    """The authors' own network, with 603,262 parameters for two classes.

    As in Keras, weights are initialised He-normal in the attention and Glorot-uniform elsewhere, and biases are 0.
    """

    def __init__(self, classes: int) -> None:
        super().__init__(classes, PAPER, column=32 + 64 + 128)
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                if ".cbam." in name:
                    nn.init.kaiming_normal_(module.weight)
                else:
                    nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def hypercolumn(self, stages: list[Tensor]) -> Tensor:
        """Return the mean over space of each channel, upsampled to the size of the input, as [N, 224].

        Half-pixel bilinear upsampling by a whole factor keeps the mean, so no upsampling is needed.
        """
        return torch.cat([stage.mean((2, 3)) for stage in stages], 1)
