"""The first pass of a faster form of a network, from which errors and results are taken before attacks rely on it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def results_of(network: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    """Returns the outputs (B, ...) for images x, and, if a gradient is asked for, one with respect to x (B, C, H, W).

    The gradient is that of the sum of the squared outputs.
    """
    x = x.detach().requires_grad_(x.requires_grad)
    outputs = network(x)
    if not outputs.requires_grad:
        return [outputs]
    return [outputs.detach(), *torch.autograd.grad(outputs.float().square().sum(), x)]


def attempt(network: Callable[[Tensor], Tensor], x: Tensor, tell: Callable[[str], None]) -> list[Tensor] | None:
    """Returns `results_of`, or after an error None; then `tell` is called with the reason, the error's first line."""
    try:
        return results_of(network, x)
    except Exception as error:  # compilers and kernels raise different exceptions, by version and machine
        tell((str(error).strip().splitlines() or [type(error).__name__])[0][:200])
        return None
