"""SegNet (Badrinarayanan, Kendall and Cipolla, SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image
Segmentation, TPAMI 2017): VGG-16's convolutions, mirrored, with max-unpooling at the encoder's indices.

The weights are initialised by torch's defaults.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

# The layers between two poolings or unpoolings, each as (name, input channels, output channels).
_Stage = tuple[tuple[str, int, int], ...]
_ENCODER: tuple[_Stage, ...] = (
    (("11", 3, 64), ("12", 64, 64)),
    (("21", 64, 128), ("22", 128, 128)),
    (("31", 128, 256), ("32", 256, 256), ("33", 256, 256)),
    (("41", 256, 512), ("42", 512, 512), ("43", 512, 512)),
    (("51", 512, 512), ("52", 512, 512), ("53", 512, 512)),
)
_DECODER: tuple[_Stage, ...] = (
    (("53d", 512, 512), ("52d", 512, 512), ("51d", 512, 512)),
    (("43d", 512, 512), ("42d", 512, 512), ("41d", 512, 256)),
    (("33d", 256, 256), ("32d", 256, 256), ("31d", 256, 128)),
    (("22d", 128, 128), ("21d", 128, 64)),
    (("12d", 64, 64),),  # conv11d follows, without batch norm and ReLU
)


class SegNet(nn.Module):
    """SegNet: pixels (B, 3, H, W), float, in [0, 1] -> logits (B, classes, H, W). Sides need not be divisible by 32."""

    def __init__(self, classes: int, normalize: nn.Module) -> None:
        super().__init__()
        self.normalize = normalize
        for stage in _ENCODER + _DECODER:
            for layer, in_channels, out_channels in stage:
                self.add_module(f"conv{layer}", nn.Conv2d(in_channels, out_channels, 3, padding=1))
                self.add_module(f"bn{layer}", nn.BatchNorm2d(out_channels, momentum=0.1))
        self.conv11d = nn.Conv2d(64, classes, 3, padding=1)
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
