"""What is asked of a faster form of a network before attacks rely on it: that it runs, and gives the same results."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def results_of(network: Callable[[Tensor], Tensor], x: Tensor, *, with_gradient: bool) -> list[Tensor]:
    """Returns the outputs (B, ...) for images x (B, C, H, W) and, `with_gradient`, the gradient with respect to x.

    The gradient is that of half the sum of the squared outputs. Raises `TypeError` if the outputs are no tensor, or
    depend on more than x.
    """
    leaf = x.detach().requires_grad_(with_gradient)
    outputs = network(leaf)
    if not isinstance(outputs, Tensor) or outputs.requires_grad != with_gradient:
        raise TypeError("the network's outputs are no tensor that depends on the images only")
    if not with_gradient:
        return [outputs]
    return [outputs.detach(), *torch.autograd.grad(outputs, leaf, outputs.detach())]


def difference(actual: list[Tensor], expected: list[Tensor]) -> Tensor:
    """Returns how much the results of two passes differ: the larger norm of a difference, as a share of the expected.

    NaN and infinity count as 0 and the largest number: there, both must be so.
    """
    pairs = [[each.float().nan_to_num() for each in pair] for pair in zip(actual, expected, strict=True)]
    tiny = torch.finfo(torch.float32).tiny
    return torch.stack([(a - b).norm() / b.norm().clamp_min(tiny) for a, b in pairs]).amax()


def first_line(error: Exception) -> str:
    """Returns the first line of an error's text, shortened, or its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
