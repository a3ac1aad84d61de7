"""SegNet (Badrinarayanan, Kendall and Cipolla, SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image
Segmentation, TPAMI 2017): VGG-16's convolutions, mirrored, with max-unpooling at the encoder's indices.

The weights are initialised by torch's defaults.
"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 64  # channels of the first stage

# The layers between two poolings or unpoolings, each as (name, input channels, output channels), in units of WIDTH; 0
# stands for the three colours.
_Stage = tuple[tuple[str, int, int], ...]
_ENCODER: tuple[_Stage, ...] = (
    (("11", 0, 1), ("12", 1, 1)),
    (("21", 1, 2), ("22", 2, 2)),
    (("31", 2, 4), ("32", 4, 4), ("33", 4, 4)),
    (("41", 4, 8), ("42", 8, 8), ("43", 8, 8)),
    (("51", 8, 8), ("52", 8, 8), ("53", 8, 8)),
)
_DECODER: tuple[_Stage, ...] = (
    (("53d", 8, 8), ("52d", 8, 8), ("51d", 8, 8)),
    (("43d", 8, 8), ("42d", 8, 8), ("41d", 8, 4)),
    (("33d", 4, 4), ("32d", 4, 4), ("31d", 4, 2)),
    (("22d", 2, 2), ("21d", 2, 1)),
    (("12d", 1, 1),),  # conv11d follows, without batch norm and ReLU
)


class SegNet(nn.Module):
    """SegNet: pixels (B, 3, H, W), float, in [0, 1] -> logits (B, classes, H, W). Sides need not be divisible by 32."""

    block_methods: ClassVar = ("_convolve",)  # of which each call is a block, see `advmia.training.recomputation`

    def __init__(self, classes: int, normalize: nn.Module) -> None:
        super().__init__()
        self.normalize = normalize
        for stage in _ENCODER + _DECODER:
            for layer, in_channels, out_channels in stage:
                self.add_module(f"conv{layer}", nn.Conv2d(in_channels * WIDTH or 3, out_channels * WIDTH, 3, padding=1))
                self.add_module(f"bn{layer}", nn.BatchNorm2d(out_channels * WIDTH, momentum=0.1))
        self.conv11d = nn.Conv2d(WIDTH, classes, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.normalize(x)
        poolings = []  # (indices, size before pooling) of each
        for stage in _ENCODER:
            out = self._convolve(out, stage)
            size = out.shape[2:]
            out, indices = F.max_pool2d(out, 2, return_indices=True)
            poolings.append((indices, size))
        for stage in _DECODER:
            indices, size = poolings.pop()
            out = F.max_unpool2d(out, indices, [2, 2], output_size=size)
            out = self._convolve(out, stage)
        return self.conv11d(out)

    def _convolve(self, x: Tensor, stage: _Stage) -> Tensor:
        """Applies each layer of a stage (3x3 convolution, batch norm, ReLU): (B, in, H, W) -> (B, out, H, W)."""
        for layer, _, _ in stage:
            x = getattr(self, f"conv{layer}")(x)
            x = self.relu(getattr(self, f"bn{layer}")(x))
        return x
