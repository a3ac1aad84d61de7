"""What gradient attacks share: the frozen-eval context, random starts, the projection and the one ascent loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from advmia.budgets import Budget
from advmia.rng import SampleRng

# What an attack ascends: (logits (B, ...), y (B, ...)) -> loss of each sample, shape (B,).
Objective = Callable[[Tensor, Tensor], Tensor]


class Attack(Protocol):
    """Takes images x (B, C, H, W) in [0, 1] and labels y, returns x_adv of the same shape.

    x_adv is detached, in [0, 1] and within the attack's budget of x. The model's parameters, their `grad` and
    `requires_grad`, every submodule's mode, its running statistics, and x itself are as before.
    """

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor: ...


@contextmanager
def frozen_eval(model: nn.Module) -> Iterator[None]:
    """Eval mode and no parameter gradients inside; each submodule's mode and each `requires_grad` restored after.

    Submodules are restored one by one: a batch norm that was held in eval inside a training network stays so.
    """
    modes = [(module, module.training) for module in model.modules()]
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.eval()
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter in learning:
            parameter.requires_grad_(True)


def input_gradient(model: nn.Module, x: Tensor, y: Tensor, objective: Objective) -> Tensor:
    """Gradient of the objective's sum by x, same shape as x.

    The sum, not the mean: an image's gradient must not depend on how many others share its batch.
    """
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        loss = objective(model(x), y).sum()
    return torch.autograd.grad(loss, x)[0]


def project(x_adv: Tensor, x: Tensor, eps: float) -> Tensor:
    """The nearest image within +-eps of x and within [0, 1]."""
    return (x + (x_adv - x).clamp_(-eps, eps)).clamp_(0, 1)


def uniform_start(x: Tensor, eps: float, rng: SampleRng) -> Tensor:
    """x plus noise uniform in +-eps, in [0, 1] (Madry et al. 2018, section 2.1)."""
    return (x + (2 * eps) * rng.uniform(x) - eps).clamp_(0, 1)


def normal_start(x: Tensor, eps: float, rng: SampleRng, scale: float = 0.001) -> Tensor:
    """x plus 0.001 times normal noise, within the budget: where TRADES, MART and HAT start, since KL is flat at x."""
    return project(x + scale * rng.normal(x), x, eps)


def ascend(model: nn.Module, x: Tensor, y: Tensor, objective: Objective, budget: Budget, start: Tensor) -> Tensor:
    """Sign steps up the objective from `start`, projected after each (Madry et al. 2018, equation in section 2.1)."""
    x_adv = start
    for _ in range(budget.steps if budget.eps else 0):
        gradient = input_gradient(model, x_adv, y, objective)
        x_adv = project(x_adv + budget.step_size * gradient.sign(), x, budget.eps)
    return x_adv.detach()
