"""Folding batch norms into the convolutions before them.

In eval mode a batch norm scales and shifts each channel by fixed numbers, which the convolution before it can do
instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn


class Fold:
    """A convolution of the copy that also does the work of the batch norm after it."""

    def __init__(self, network: nn.Module, conv: str, norm: str) -> None:
        self._conv_name, self._norm_name = conv, norm
        self._conv = cast(nn.Conv2d, network.get_submodule(conv))
        batch_norm = cast(nn.BatchNorm2d, network.get_submodule(norm))
        self._epsilon = batch_norm.eps
        if self._conv.bias is None:
            self._conv.bias = nn.Parameter(self._conv.weight.new_zeros(self._conv.out_channels), requires_grad=False)
        parent, _, child = norm.rpartition(".")
        setattr(network.get_submodule(parent), child, nn.Identity())

    def refresh(self, weights: dict[str, Tensor]) -> None:
        """Sets the convolution's weights to those of y = (conv(x) - mean) * scale + bias, computed in float64."""

        def read(name: str, default: float) -> Tensor:
            mean = weights[f"{self._norm_name}.running_mean"]
            return weights.get(name, torch.full_like(mean, default)).double()

        scale = read(f"{self._norm_name}.weight", 1.0)
        scale = scale / torch.sqrt(read(f"{self._norm_name}.running_var", 1.0) + self._epsilon)
        shift = read(f"{self._conv_name}.bias", 0.0) - read(f"{self._norm_name}.running_mean", 0.0)
        assert self._conv.bias is not None
        self._conv.weight.copy_(weights[f"{self._conv_name}.weight"].double() * scale[:, None, None, None])
        self._conv.bias.copy_(shift * scale + read(f"{self._norm_name}.bias", 0.0))


def foldable(network: nn.Module) -> Iterator[tuple[str, str]]:
    """Yields the names of a convolution and the batch norm that is registered next in the same module."""
    for path, module in network.named_modules():
        for (name, first), (next_name, second) in pairwise(module.named_children()):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d) and second.running_mean is not None:
                prefix = f"{path}." if path else ""
                yield prefix + name, prefix + next_name
