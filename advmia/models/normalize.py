"""Normalisation as a layer of the network, so that data and attacks work on pixels in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """Computes (x - mean) / std for each channel; x and the result are (B, C, H, W) of the same dtype.

    It has no parameters, and its buffers are not saved: a network's state_dict is the same with and without it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)  # (C, 1, 1)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)  # (C, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std
