"""Adversarial weight perturbation, AWP.

Wu, Xia and Wang, Adversarial Weight Perturbation Helps Robust Generalization, NeurIPS 2020, section 4.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from advmia.errors import UserError

_TINY = 1e-20  # of the published code: a gradient of zero moves nothing


@dataclass(frozen=True)
class WeightPerturbation:
    """Moves the weights of a network up its loss while the gradient of an update is computed.

    Each weight w with more than one dimension, of convolutions and linear layers, moves once by gamma * ||w|| along its
    gradient, as in the published code; biases and batch norms stay. The first `warm_up` epochs go without it.
    """

    gamma: float  # how far a weight moves, as a share of its norm: 0.01 for PGD-AT and 0.005 for TRADES in the paper
    warm_up: int = 0  # epochs: 10 in the published TRADES

    def __post_init__(self) -> None:
        """Raises `UserError` for a gamma that is not between 0 and 1."""
        if not 0 < self.gamma < 1:
            raise UserError(f"gamma of the weight perturbation (AWP) is {self.gamma:g}: expected one such as 0.01")

    def is_active(self, epoch: int) -> bool:
        """Returns whether the weights move in this epoch; epochs count from 1."""
        return epoch > self.warm_up

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Moves the weights up by the gradients in their `grad` during the block; then they are as before, to the bit.

        Saved copies are put back, since adding and subtracting the same step would leave rounding errors.
        """
        weights = [weight for weight in model.parameters() if weight.dim() > 1 and weight.grad is not None]
        saved = [weight.detach().clone() for weight in weights]
        try:
            with torch.no_grad():
                for weight in weights:
                    assert weight.grad is not None
                    weight.add_(weight.grad * (self.gamma * weight.norm() / (weight.grad.norm() + _TINY)))
            yield
        finally:
            with torch.no_grad():
                for weight, values in zip(weights, saved, strict=True):
                    weight.copy_(values)


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """Lets the block change the network's buffers, such as running statistics, and then puts back their values."""
    saved = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, values in saved:
                buffer.copy_(values)
