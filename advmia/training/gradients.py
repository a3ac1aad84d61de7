"""The gradient of a training's loss, which is computed term by term, and its mean over the processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn

from advmia.runtime import distributed


def backward(
    losses: Iterator[Tensor], weight: float = 1.0, context: Callable[[], AbstractContextManager[object]] = nullcontext
) -> Tensor:
    """Adds the gradient of the sum of these terms, times `weight`, to the parameters' `grad`; returns that loss.

    The gradient of each term is computed before the next term. `context` returns a context in which terms are computed;
    the gradients are computed outside, as torch asks for `autocast`.
    """
    total: Tensor | None = None
    while True:
        with context():
            term = next(losses, None)
        if term is None:
            break
        (term * weight).backward()
        total = term.detach() if total is None else total + term.detach()
    if total is None:
        raise ValueError("expected at least one term of a loss")
    return total * weight


def average_gradients(model: nn.Module) -> None:
    """Makes the gradients of the parameters their means over the ranks (collective)."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    distributed.average_tensors(gradients)
