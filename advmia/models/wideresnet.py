"""WideResNet-28-10 (Zagoruyko and Komodakis, Wide Residual Networks, BMVC 2016), as robust classifiers have it.

Parameter names and initial weights are those of the class that TRADES and RobustBench publish, without dropout, as they
train it. That class ends in an average over 8 x 8 pixels and so takes images of 32 pixels only. The average over the
whole map is the same there, and takes images of any size.

Batch norm and ReLU come before each convolution (pre-activation). So only `bn2` of a block follows a convolution in the
same module, into which attacks fold it. Of the others, all but the first follow an addition and cannot be folded.
"""

from __future__ import annotations

from torch import Tensor, nn

STEM_WIDTH = 16  # channels of the first layer; the three stages have 1, 2 and 4 times as many, times the widen factor


class PreActivationBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut: (B, in, H, W) -> (B, out, H / stride, W / stride), rounded up.

    The output is a sum, without a ReLU. Where the widths differ, the shortcut takes the activated input.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.convShortcut: nn.Conv2d | None = None
        if in_channels != out_channels:
            self.convShortcut = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.relu(self.bn1(x))
        out = self.conv2(self.relu(self.bn2(self.conv1(activated))))
        return out + (x if self.convShortcut is None else self.convShortcut(activated))


class Stage(nn.Module):
    """Blocks of one width: (B, in, H, W) -> (B, out, H / stride, W / stride), rounded up."""

    def __init__(self, in_channels: int, out_channels: int, blocks: int, stride: int) -> None:
        super().__init__()
        first = PreActivationBlock(in_channels, out_channels, stride)
        self.layer = nn.Sequential(
            first, *(PreActivationBlock(out_channels, out_channels, stride=1) for _ in range(blocks - 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class WideResNet(nn.Module):
    """WideResNet for classification: pixels (B, 3, H, W), float, in [0, 1] -> logits (B, classes).

    `depth`: 4 more than a multiple of 6, since each of the three stages has (depth - 4) / 6 blocks.
    """

    def __init__(self, classes: int, normalize: nn.Module, depth: int = 28, widen_factor: int = 10) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            raise ValueError(f"expected a depth of 10, 16, 22, 28 or the like, got {depth}")
        widths = [STEM_WIDTH * widen_factor * factor for factor in (1, 2, 4)]
        self.normalize = normalize
        self.conv1 = nn.Conv2d(3, STEM_WIDTH, 3, padding=1, bias=False)
        self.block1 = Stage(STEM_WIDTH, widths[0], blocks, stride=1)
        self.block2 = Stage(widths[0], widths[1], blocks, stride=2)
        self.block3 = Stage(widths[1], widths[2], blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(widths[2])
        self.relu = nn.ReLU(inplace=True)  # a module of its own, because Grad-CAM reads its output
        self.fc = nn.Linear(widths[2], classes)
        nn.init.zeros_(self.fc.bias)
        for module in self.modules():
            # On the meta device, where no weight has a value, torch would import for seconds to draw none.
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")  # He et al. 2015, eq. 14

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(self.normalize(x))  # (B, 16, H, W)
        out = self.block1(out)  # (B, 160, H, W)
        out = self.block2(out)  # (B, 320, H/2, W/2)
        out = self.block3(out)  # (B, 640, H/4, W/4)
        out = self.relu(self.bn1(out))
        return self.fc(out.mean(dim=(2, 3)))
