"""U-Net (Ronneberger, Fischer and Brox, U-Net: Convolutional Networks for Biomedical Image Segmentation, MICCAI 2015).

It differs from the paper: convolutions are padded, so that the output has the input's size, and followed by batch norm.
The weights are initialised by torch's defaults.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 64  # channels of the first level; each lower level has twice as many


class DoubleConv(nn.Module):
    """3x3 convolution, batch norm and ReLU, twice: (B, in, H, W) -> (B, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.double_conv = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.double_conv(x)


class Down(nn.Module):
    """Max-pooling that halves the sides, rounding down, then a `DoubleConv`: (B, in, H, W) -> (B, out, H/2, W/2)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), DoubleConv(in_channels, out_channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.maxpool_conv(x)


class Up(nn.Module):
    """Upsampling that doubles the sides, concatenation with the skip connection, then a `DoubleConv`.

    x (B, in, h, w) and skip (B, in/2, H, W) -> (B, out, H, W). If the encoder rounded a side down, the upsampled map is
    padded with zeros to the size of the skip connection.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, in_channels // 2, 2, stride=2)
        self.conv = DoubleConv(in_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = _padded(self.up(x), skip)  # (B, in/2, H, W)
        return self.conv(torch.cat((skip, x), dim=1))  # (B, in, H, W) -> (B, out, H, W)


@torch.fx.wrap  # one call for traces of the network, which know no sizes
def _padded(x: Tensor, like: Tensor) -> Tensor:
    """Returns x (B, C, h, w) with zeros around it, up to the height and width of `like`."""
    height, width = like.shape[2] - x.shape[2], like.shape[3] - x.shape[3]  # the rows and columns that are missing
    if height or width:
        x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
    return x


class OutConv(nn.Module):
    """1x1 convolution to logits: (B, in, H, W) -> (B, classes, H, W)."""

    def __init__(self, in_channels: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class UNet(nn.Module):
    """U-Net: pixels (B, 3, H, W), float, in [0, 1] -> logits (B, classes, H, W). Sides need not be divisible by 16."""

    def __init__(self, classes: int, normalize: nn.Module) -> None:
        super().__init__()
        self.normalize = normalize
        self.inc = DoubleConv(3, WIDTH)
        self.down1 = Down(WIDTH, 2 * WIDTH)
        self.down2 = Down(2 * WIDTH, 4 * WIDTH)
        self.down3 = Down(4 * WIDTH, 8 * WIDTH)
        self.down4 = Down(8 * WIDTH, 16 * WIDTH)
        self.up1 = Up(16 * WIDTH, 8 * WIDTH)
        self.up2 = Up(8 * WIDTH, 4 * WIDTH)
        self.up3 = Up(4 * WIDTH, 2 * WIDTH)
        self.up4 = Up(2 * WIDTH, WIDTH)
        self.outc = OutConv(WIDTH, classes)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.inc(self.normalize(x))  # (B, 64, H, W)
        x2 = self.down1(x1)  # (B, 128, H/2, W/2)
        x3 = self.down2(x2)  # (B, 256, H/4, W/4)
        x4 = self.down3(x3)  # (B, 512, H/8, W/8)
        x5 = self.down4(x4)  # (B, 1024, H/16, W/16)
        out = self.up1(x5, x4)  # (B, 512, H/8, W/8)
        out = self.up2(out, x3)  # (B, 256, H/4, W/4)
        out = self.up3(out, x2)  # (B, 128, H/2, W/2)
        out = self.up4(out, x1)  # (B, 64, H, W)
        return self.outc(out)
