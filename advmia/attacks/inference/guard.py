"""The first pass of a faster form of a network, from which errors and results are taken before attacks rely on it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from advmia.runtime.terminal import say


def results_of(network: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    """Returns the outputs (B, ...) for images x, and, if a gradient is asked for, one with respect to x (B, C, H, W).

    The gradient is that of the sum of the squared outputs.
    """
    x = x.detach().requires_grad_(x.requires_grad)
    outputs = network(x)
    if not outputs.requires_grad:
        return [outputs]
    return [outputs.detach(), *torch.autograd.grad(outputs.float().square().sum(), x)]


def attempt(network: Callable[[Tensor], Tensor], x: Tensor, trouble: str, consequence: str) -> list[Tensor] | None:
    """Returns `results_of`; None after an error, which one line says: `trouble` (the error); `consequence`.

    Without `trouble` no line says it.
    """
    try:
        return results_of(network, x)
    except Exception as error:  # compilers and kernels raise different exceptions, by version and machine
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if trouble:
            say(f"{trouble} ({reason[:200]}); {consequence}")
        return None
