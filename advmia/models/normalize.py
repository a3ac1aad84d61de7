"""The first layer of every network: repeats the channel of grey images, and normalises.

So data and attacks work on pixels in [0, 1], and, where the noise is grey, on the one channel that a radiograph has.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """Computes (x - mean) / std for each channel; x is (B, 3, H, W) or (B, 1, H, W), the result (B, 3, H, W).

    Without mean and std, it only repeats the channel of grey images. It has no parameters, and its buffers are not
    saved: a network's state_dict is the same with and without it.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(self, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            buffer = None if values is None else torch.tensor(values).view(-1, 1, 1)  # (C, 1, 1)
            self.register_buffer(name, buffer, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        return x if self.mean is None or self.std is None else (x - self.mean) / self.std
