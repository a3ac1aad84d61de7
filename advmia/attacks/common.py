"""What gradient attacks share: the frozen-eval context, random starts, the projection and the one ascent loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from advmia.budgets import Budget
from advmia.losses import margin
from advmia.runtime.rng import SampleRng

# What an attack ascends: (logits (B, ...), y (B, ...)) -> loss of each sample, shape (B,).
Objective = Callable[[Tensor, Tensor], Tensor]
# A margin that rounding in the network could turn is no success: how wide it must be, as a share of the largest logit.
_CLEAR = 1e-5


class Attack(Protocol):
    """Takes images x (B, C, H, W) in [0, 1] and labels y, returns x_adv of the same shape.

    x_adv is detached, in [0, 1] and within the attack's budget of x. The model's parameters, their `grad` and
    `requires_grad`, every submodule's mode, its running statistics, and x itself are as before.
    """

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor: ...


class EvaluationAttack(Attack, Protocol):
    """What `advmia.attacks.ATTACKS` builds: an attack that also names the losses it ascends on so many classes."""

    def losses(self, classes: int) -> tuple[str, ...]: ...


def notes_of(attack: Attack) -> dict[str, Tensor]:
    """Facts (B,) of each image of the attack's last call, e.g. the queries spent on it; most attacks note none."""
    return getattr(attack, "notes", {})


def stops_early(attack: Attack | None) -> bool:
    """Whether images leave the attack's batch one by one, so that it does well to be given many batches at once."""
    return getattr(attack, "early_stopping", False)


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
    return value_and_gradient(model, x, y, objective)[2]


def value_and_gradient(model: nn.Module, x: Tensor, y: Tensor, objective: Objective) -> tuple[Tensor, Tensor, Tensor]:
    """(logits (B, ...) in float32, the objective of each image (B,), its gradient by x).

    A model that takes few images `at_once` (`advmia.inference.Blocks`) is given no more: each one's graph takes memory.
    """
    size = max(getattr(model, "at_once", len)(x), 1)
    parts = []
    for part_x, part_y in zip(x.detach().split(size), y.split(size), strict=True):
        part_x.requires_grad_(True)
        with torch.enable_grad():
            logits = model(part_x)
            loss = objective(logits, part_y)
            (gradient,) = torch.autograd.grad(loss.sum(), part_x)
        parts.append((logits.detach().float(), loss.detach(), gradient))
    if len(parts) == 1:
        return parts[0]
    logits, loss, gradient = map(torch.cat, zip(*parts, strict=True))
    return logits, loss, gradient


def fooled(logits: Tensor, y: Tensor) -> Tensor:
    """Which images (B,) are misclassified by a clear margin; logits (B, K), y (B,) int64.

    Attacks run on a copy of the network whose logits are rounded otherwise: a hair's breadth would be none on it.
    """
    return margin(logits, y) < -_CLEAR * logits.float().abs().amax(dim=1)


def on_right_images(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    rng: SampleRng,
    attack: Callable[[Tensor, Tensor, Tensor, SampleRng], Tensor],
) -> Tensor:
    """Attacks the images that `model`, in eval mode, classifies rightly; the others are fooled already and left alone.

    `attack` takes those images, their labels, their logits and their random streams, and returns their x_adv.
    """
    x_adv = x.detach().clone()
    logits = forward(model, x_adv)
    right = (~fooled(logits, y)).nonzero()[:, 0]
    if len(right):
        x_adv[right] = attack(x_adv[right], y[right], logits[right], rng.take(right))
    return x_adv


@torch.no_grad()
def forward(model: nn.Module, x: Tensor) -> Tensor:
    """The logits in float32, without a graph."""
    return model(x).float()


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
        step = gradient.sign().mul_(budget.step_size)
        # `project`, in the step's own memory. Not in the gradient's: that of a sum is one number, shown many times.
        x_adv = step.add_(x_adv).sub_(x).clamp_(-budget.eps, budget.eps).add_(x).clamp_(0, 1)
    return x_adv.detach()
