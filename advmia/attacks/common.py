"""What the attacks share: the contract, freezing the network, gradients, starting points and the ascent loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from advmia.budgets import Budget
from advmia.losses import margin
from advmia.runtime.rng import SampleRng

# What an attack ascends: takes logits (B, ...) and targets y (B, ...), and returns the loss of each sample, shape (B,).
Objective = Callable[[Tensor, Tensor], Tensor]
# An image counts as misclassified if its margin is below zero by more than this share of its largest logit. tf32 has
# been seen to move a logit by up to 0.8 % of the largest one, and a margin is the difference of two.
_CLEAR_MARGIN, _CLEAR_MARGIN_TF32 = 1e-5, 0.02


class Attack(Protocol):
    """The contract of every attack: takes images x (B, C, H, W) in [0, 1] and targets y, and returns x_adv.

    x_adv has the shape and dtype of x, is detached, in [0, 1] and within the attack's eps of x (except SimBA's). The
    attack changes neither x nor the model: parameters with their `grad` and `requires_grad`, the mode of every
    submodule, and running statistics are as before, even if the attack raises. Random numbers come from `rng` only.
    """

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor: ...


class EvaluationAttack(Attack, Protocol):
    """An attack that `advmia.attacks.ATTACKS` builds."""

    def losses(self, classes: int) -> tuple[str, ...]:
        """Returns the names of the losses that the attack ascends on a network with this many classes."""
        ...


def notes_of(attack: Attack) -> dict[str, Tensor]:
    """Returns what the attack recorded in its last call about each image, such as the queries; tensors (B,).

    Most attacks record nothing.
    """
    return getattr(attack, "notes", {})


def runs_of(attack: Attack, y: Tensor) -> list[Attack]:
    """Returns the attacks on each finding of the labels y (B, L), for an attack that has them; else the attack."""
    runs: Callable[[int], list[Attack]] | None = getattr(attack, "runs", None)
    return [attack] if runs is None else runs(y.shape[1])


def stops_early(attack: Attack | None) -> bool:
    """Returns whether the attack leaves an image alone as soon as it is misclassified.

    The attack's batch then shrinks, so that it should be given many images at once. None stands for no attack.
    """
    return getattr(attack, "early_stopping", False)


@contextmanager
def frozen_eval(model: nn.Module) -> Iterator[None]:
    """Keeps the model in eval mode, with parameters that require no gradient, during the block; then restores it.

    The mode of each submodule is restored separately: a batch norm that was in eval mode inside a network in train mode
    is in eval mode again.
    """
    modes = [(module, module.training) for module in model.modules()]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.eval()
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter in trainable:
            parameter.requires_grad_(True)


def input_gradient(model: nn.Module, x: Tensor, y: Tensor, objective: Objective) -> Tensor:
    """Returns the gradient with respect to x of the objective's sum over the batch, in the shape of x.

    The sum, not the mean: an image's gradient must not depend on the number of images in its batch.
    """
    return value_and_gradient(model, x, y, objective)[2]


def value_and_gradient(model: nn.Module, x: Tensor, y: Tensor, objective: Objective) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the logits (B, ...) in float32, the objective of each image (B,), and its gradient with respect to x.

    A model that has a `block_size` (`advmia.attacks.inference.Blocks`) gets one block at a time, because the graphs of
    all blocks together would take much memory.
    """
    size = max(getattr(model, "block_size", len)(x), 1)
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


def misclassified(logits: Tensor, y: Tensor) -> Tensor:
    """Returns which images (B,) are misclassified by a clear margin; logits (B, K), y (B,) int64.

    Attacks run on a copy of the network (`advmia.attacks.inference`) whose logits are rounded differently. An image
    that the copy misclassifies by a rounding error only may be classified correctly by the network itself.
    """
    return margin(logits, y) < -clear_margin(logits.device) * logits.float().abs().amax(dim=1)


def clear_margin(device: torch.device) -> float:
    """Returns the margin, as a share of the largest logit, that rounding in the current precision does not change.

    Early-stopping attacks never run in bf16.
    """
    in_tf32 = device.type == "cuda" and torch.backends.cudnn.allow_tf32
    return _CLEAR_MARGIN_TF32 if in_tf32 else _CLEAR_MARGIN


def attack_correct_images(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    rng: SampleRng,
    attack: Callable[[Tensor, Tensor, Tensor, SampleRng], Tensor],
) -> Tensor:
    """Attacks the images that `model`, in eval mode, classifies correctly. Returns x_adv; the others are unchanged.

    `attack` takes those images, their labels, their logits and their random streams, and returns their x_adv.
    """
    x_adv = x.detach().clone()
    logits = forward(model, x_adv)
    correct = (~misclassified(logits, y)).nonzero()[:, 0]
    if len(correct):
        x_adv[correct] = attack(x_adv[correct], y[correct], logits[correct], rng.take(correct))
    return x_adv


@torch.no_grad()
def forward(model: nn.Module, x: Tensor) -> Tensor:
    """Returns the logits in float32, without a graph."""
    return model(x).float()


def project(x_adv: Tensor, x: Tensor, eps: float) -> Tensor:
    """Returns the image nearest to x_adv that is within eps of x and in [0, 1]."""
    return (x + (x_adv - x).clamp_(-eps, eps)).clamp_(0, 1)


def uniform_start(x: Tensor, eps: float, rng: SampleRng) -> Tensor:
    """Returns x plus uniform noise in [-eps, eps], clamped to [0, 1] (Madry et al. 2018, section 2.1)."""
    return (x + (2 * eps) * rng.uniform(x) - eps).clamp_(0, 1)


def normal_start(x: Tensor, eps: float, rng: SampleRng, scale: float = 0.001) -> Tensor:
    """Returns x plus `scale` times standard normal noise, projected to within eps of x and to [0, 1].

    TRADES, MART and HAT start there, because the gradient of the KL divergence from x's own prediction is zero at x.
    """
    return project(x + scale * rng.normal(x), x, eps)


def ascend(model: nn.Module, x: Tensor, y: Tensor, objective: Objective, budget: Budget, start: Tensor) -> Tensor:
    """Takes sign steps up the objective from `start`, projected after each (Madry et al. 2018, section 2.1).

    Returns the last point.
    """
    x_adv = start
    for _ in range(budget.steps if budget.eps else 0):
        gradient = input_gradient(model, x_adv, y, objective)
        step = gradient.sign().mul_(budget.step_size)
        # As `project`, but in place into `step`. Not into `gradient`, which may be an expanded (stride-0) tensor.
        x_adv = step.add_(x_adv).sub_(x).clamp_(-budget.eps, budget.eps).add_(x).clamp_(0, 1)
    return x_adv.detach()
