"""ResNet-18 in the CIFAR form (He et al., Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2).

The stem is one 3x3 convolution of stride 1 without max-pooling, so the last stage's maps have an eighth of the input's
side. The weights are initialised by torch's defaults.
"""

from __future__ import annotations

from torch import Tensor, nn

WIDTH = 64  # channels of the first layer; each later layer has twice as many


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut: (B, in, H, W) -> (B, out, H / stride, W / stride), rounded up."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18 for classification: pixels (B, 3, H, W), float, in [0, 1] -> logits (B, classes)."""

    def __init__(self, classes: int, normalize: nn.Module) -> None:
        super().__init__()
        self.normalize = normalize
        self.conv1 = nn.Conv2d(3, WIDTH, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTH)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _layer(WIDTH, WIDTH, stride=1)
        self.layer2 = _layer(WIDTH, 2 * WIDTH, stride=2)
        self.layer3 = _layer(2 * WIDTH, 4 * WIDTH, stride=2)
        self.layer4 = _layer(4 * WIDTH, 8 * WIDTH, stride=2)
        self.linear = nn.Linear(8 * WIDTH, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(self.normalize(x))))  # (B, 64, H, W)
        out = self.layer1(out)
        out = self.layer2(out)  # (B, 128, H/2, W/2)
        out = self.layer3(out)  # (B, 256, H/4, W/4)
        out = self.layer4(out)  # (B, 512, H/8, W/8)
        return self.linear(out.mean(dim=(2, 3)))


def _layer(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """Returns two blocks: (B, in, H, W) -> (B, out, H / stride, W / stride), rounded up."""
    return nn.Sequential(
        BasicBlock(in_channels, out_channels, stride), BasicBlock(out_channels, out_channels, stride=1)
    )
