"""Folding batch norms into the convolutions before them.

In eval mode a batch norm scales and shifts each channel by fixed numbers, which the convolution before it can do
instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import compress, pairwise
from typing import cast

import torch
from torch import Tensor, nn

# Convolutions with fewer weights than this are scaled together on a GPU, where launching a kernel for each takes longer
# than its arithmetic. Those with more are scaled one by one: together they would need memory for indices and products.
_FEWEST_ALONE = 2**18


class Folding:
    """The convolutions of a copy that also do the work of the batch norms after them."""

    def __init__(self, network: nn.Module) -> None:
        """Gives these convolutions weights and biases of their own, and replaces the batch norms by identities.

        `network`: a copy whose tensors are still those of the network itself. `refresh` reads them again.
        """
        self._sources: list[Tensor] = []  # the network's weights, (out_channels, weights of each)
        self._weights: list[Tensor] = []  # the copy's, likewise
        self._biases: list[Tensor] = []  # the copy's, (out_channels,)
        vectors: list[list[Tensor]] = []  # what describes each channel, for each convolution
        epsilons: list[Tensor] = []
        for conv_name, norm_name in list(foldable(network)):
            conv = cast(nn.Conv2d, network.get_submodule(conv_name))
            norm = cast(nn.BatchNorm2d, network.get_submodule(norm_name))
            mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
            one, zero = torch.ones_like(mean), torch.zeros_like(mean)
            scale, shift, bias = (
                default if given is None else given
                for given, default in ((norm.weight, one), (norm.bias, zero), (conv.bias, zero))
            )
            vectors.append([scale, shift, mean, variance, bias])
            epsilons.append(torch.full_like(mean, norm.eps, dtype=torch.float64))
            self._sources.append(_by_channel(conv.weight))
            conv.weight = nn.Parameter(torch.empty_like(conv.weight), requires_grad=False)
            conv.bias = nn.Parameter(conv.weight.new_empty(conv.out_channels), requires_grad=False)
            self._weights.append(_by_channel(conv.weight))
            self._biases.append(conv.bias)
            parent, _, child = norm_name.rpartition(".")
            setattr(network.get_submodule(parent), child, nn.Identity())
        self._vectors = [tensor for kind in zip(*vectors, strict=True) for tensor in kind]
        self._epsilon = torch.cat(epsilons) if epsilons else torch.empty(0)
        self._together = [rows.is_cuda and rows.numel() < _FEWEST_ALONE for rows in self._sources]
        counts = [
            torch.full_like(epsilon, rows.shape[1] if together else 0, dtype=torch.int64)
            for epsilon, rows, together in zip(epsilons, self._sources, self._together, strict=True)
        ]
        self._counts = torch.cat(counts) if any(self._together) else None  # weights that a channel has in `_together`

    @torch.no_grad()
    def refresh(self) -> None:
        """Sets weights and biases to those of y = (conv(x) - mean) * scale + shift, computed in float64.

        On a GPU that takes a few launches, and one for each convolution that has many weights.
        """
        if not self._sources:
            return
        scale, shift, mean, variance, bias = torch.cat(self._vectors).double().unflatten(0, (5, -1))
        scale = scale / torch.sqrt(variance + self._epsilon)
        sizes = [len(bias) for bias in self._biases]
        targets, values = list(self._biases), list(((bias - mean) * scale + shift).split(sizes))
        for source, weight, its_scale, together in zip(
            self._sources, self._weights, scale.split(sizes), self._together, strict=True
        ):
            if not together:
                torch.mul(source, its_scale[:, None], out=weight)
        if self._counts is not None:
            sources = torch.cat([source.flatten() for source in compress(self._sources, self._together)])
            sources = scale.repeat_interleave(self._counts, output_size=len(sources)).mul_(sources)
            targets += [weight.flatten() for weight in compress(self._weights, self._together)]
            values += sources.split([len(target) for target in targets[len(sizes) :]])
        torch._foreach_copy_(targets, values)


def _by_channel(weight: Tensor) -> Tensor:
    """Returns a convolution's weights as a view (out_channels, weights of each)."""
    if weight.is_contiguous(memory_format=torch.channels_last):
        weight = weight.permute(0, 2, 3, 1)
    return weight.detach().view(len(weight), -1)


def foldable(network: nn.Module) -> Iterator[tuple[str, str]]:
    """Yields the names of a convolution and the batch norm that is registered next in the same module.

    A convolution whose weights are computed from others is left out.
    """
    for path, module in network.named_modules():
        for (name, first), (next_name, second) in pairwise(module.named_children()):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d) and second.running_mean is not None:
                prefix = f"{path}." if path else ""
                if "weight" in dict(first.named_parameters(recurse=False)):
                    yield prefix + name, prefix + next_name
