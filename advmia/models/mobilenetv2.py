"""MobileNetV2 in the CIFAR form (Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018).

It differs from the paper: the stem and the second stage have stride 1, ReLU replaces ReLU6, and a block of stride 1
whose input and output widths differ has a convolution as its shortcut. The weights are initialised by torch's defaults.
"""

from __future__ import annotations

from torch import Tensor, nn

# The stages of the paper's table 2: (expansion, output channels, number of blocks, stride of the first block).
STAGES: tuple[tuple[int, int, int, int], ...] = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise and linear 1x1 convolution.

    (B, in, H, W) -> (B, out, H / stride, W / stride), rounded up.
    """

    def __init__(self, in_channels: int, out_channels: int, expansion: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        hidden = expansion * in_channels
        self.conv1 = nn.Conv2d(in_channels, hidden, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, stride=stride, padding=1, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3 = nn.Conv2d(hidden, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride == 1 and in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return out + self.shortcut(x) if self.stride == 1 else out


class MobileNetV2(nn.Module):
    """MobileNetV2 for classification: pixels (B, 3, H, W), float, in [0, 1] -> logits (B, classes)."""

    def __init__(self, classes: int, normalize: nn.Module) -> None:
        super().__init__()
        self.normalize = normalize
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.relu = nn.ReLU(inplace=True)
        self.layers = _inverted_residuals(in_channels=32)
        self.conv2 = nn.Conv2d(320, 1280, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(1280)
        self.relu2 = nn.ReLU(inplace=True)  # a module of its own, because Grad-CAM reads its output
        self.linear = nn.Linear(1280, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(self.normalize(x))))  # (B, 32, H, W)
        out = self.layers(out)  # (B, 320, H/8, W/8)
        out = self.relu2(self.bn2(self.conv2(out)))  # (B, 1280, H/8, W/8)
        return self.linear(out.mean(dim=(2, 3)))


def _inverted_residuals(in_channels: int) -> nn.Sequential:
    """Builds the blocks of all stages as one sequence; the first block of a stage has the stage's stride."""
    blocks = []
    for expansion, out_channels, count, stride in STAGES:
        for index in range(count):
            blocks.append(InvertedResidual(in_channels, out_channels, expansion, stride if index == 0 else 1))
            in_channels = out_channels
    return nn.Sequential(*blocks)
