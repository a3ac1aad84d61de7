"""Auto-PGD (Croce and Hein 2020a, "Reliable evaluation of adversarial robustness ...", section 3 and algorithm 1).

Cost for an image that is never fooled, N steps: N + 1 forward and N backward passes a run. APGD-CE is one run, APGD-T
one for each target and loss; where images are dropped once fooled, one forward pass looks at them first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from advmia.attacks.common import (
    Objective,
    fooled,
    forward,
    frozen_eval,
    on_right_images,
    project,
    uniform_start,
    value_and_gradient,
)
from advmia.budgets import Budget
from advmia.losses import targeted_cross_entropy, targeted_dlr, targeted_margin
from advmia.runtime.rng import SampleRng

MOMENTUM = 0.75  # alpha: the weight of the new step
RISE_SHARE = 0.75  # rho: fewer rises than this between two checkpoints halve the step
TARGETS = 9  # at most, as in the standard AutoAttack

Criterion = Callable[[Tensor, Tensor], Tensor]  # (logits, y) to which images (B,) need no more


@dataclass(frozen=True)
class APGD:
    """Ascends one objective; `apgd` and `apgd_ce` build it. Contract: `advmia.attacks.steps.Attack`."""

    budget: Budget
    objective: Objective
    early_stopping: bool

    def losses(self, classes: int) -> tuple[str, ...]:
        return (self.objective.__name__,)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor:
        if self.budget.eps == 0:
            return x.detach().clone()
        with frozen_eval(model):
            if self.early_stopping:
                return on_right_images(model, x, y, rng, lambda x, y, _, rng: self._run(model, x, y, rng))
            return self._run(model, x.detach(), y, rng)

    def _run(self, model: nn.Module, x: Tensor, y: Tensor, rng: SampleRng) -> Tensor:
        start = uniform_start(x, self.budget.eps, rng)
        done = fooled if self.early_stopping else None
        return auto_ascend(model, x, y, self.objective, self.budget, start, done)[0]


def apgd(budget: Budget, objective: Objective) -> APGD:
    """APGD up any objective (findings, masks): each image's point of the highest loss. The first step is 2 eps."""
    return APGD(budget, objective, early_stopping=False)


def apgd_ce(budget: Budget, objective: Objective) -> APGD:
    """APGD-CE for single labels: as `apgd`, but an image is left alone once it is misclassified."""
    return APGD(budget, objective, early_stopping=True)


@dataclass(frozen=True)
class TargetedAPGD:
    """APGD-T: towards each of the likeliest wrong classes in turn. Contract: `advmia.attacks.steps.Attack`."""

    budget: Budget
    early_stopping: ClassVar[bool] = True

    def losses(self, classes: int) -> tuple[str, ...]:
        return tuple(loss.__name__ for loss in targeted_losses(classes))

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor:
        if self.budget.eps == 0:
            return x.detach().clone()
        with frozen_eval(model):
            return on_right_images(
                model, x, y, rng, lambda x, y, logits, rng: self._towards_all(model, x, y, logits, rng)
            )

    def _towards_all(self, model: nn.Module, x: Tensor, y: Tensor, logits: Tensor, rng: SampleRng) -> Tensor:
        targets = likeliest_wrong(logits, y)
        x_adv, left = x.clone(), torch.arange(len(x), device=x.device)
        for loss in targeted_losses(logits.shape[1]):
            for rank in range(targets.shape[1]):
                pair = torch.stack([y[left], targets[left, rank]], dim=1)  # (B, 2)
                start = uniform_start(x[left], self.budget.eps, rng.take(left))
                found, done = auto_ascend(model, x[left], pair, loss, self.budget, start, _is_off_label)
                x_adv[left] = found
                left = left[~done]
                if not len(left):
                    return x_adv
        return x_adv


def apgd_t(budget: Budget, objective: Objective) -> TargetedAPGD:
    """APGD-T; it has objectives of its own, `targeted_losses`."""
    return TargetedAPGD(budget)


def targeted_losses(classes: int) -> tuple[Objective, ...]:
    """What APGD-T ascends: the loss that is blind to the logits' scale first, then the targeted cross-entropy.

    Targeted DLR ranks four logits; with fewer classes the plain difference of logits stands in. With two classes the
    targeted cross-entropy rises where that does: a second run would only repeat it.
    """
    if classes == 2:
        return (targeted_margin,)
    return (targeted_margin if classes == 3 else targeted_dlr, targeted_cross_entropy)


def likeliest_wrong(logits: Tensor, y: Tensor) -> Tensor:
    """The wrong classes by falling logit, at most 9; logits (B, K), y (B,), result (B, min(9, K - 1)) int64."""
    count = min(TARGETS, logits.shape[1] - 1)
    return logits.scatter(1, y[:, None], -torch.inf).topk(count, dim=1).indices


def auto_ascend(
    model: nn.Module, x: Tensor, y: Tensor, objective: Objective, budget: Budget, start: Tensor, done: Criterion | None
) -> tuple[Tensor, Tensor]:
    """Runs APGD from `start`: (the best points (B, C, H, W), which images (B,) met the criterion `done`).

    Best is the first point that meets `done`; without one, that of the highest objective. Images that are done leave
    the batch. `model` is frozen.
    """
    x_adv, is_done = start.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
    checkpoints = _checkpoints(budget.steps)
    run = _Run.begin(model, x, y, objective, start, 2 * budget.eps)
    for step in range(budget.steps + 1):
        if done is not None:
            reached = done(run.logits, run.y)
            x_adv[run.places[reached]] = run.now[reached]
            is_done[run.places[reached]] = True
            run = run.keep(~reached)
        if not len(run.places) or step == budget.steps:
            break
        if step in checkpoints:  # not before: going back to the best would lose a point that meets `done`
            run.adapt(checkpoints[step])
        run.step(model, objective, budget, is_first=step == 0, is_last=step + 1 == budget.steps)
    x_adv[run.places] = run.best
    return x_adv, is_done


@dataclass
class _Run:
    """The images still under way. Every field has one entry an image, shape (B, ...)."""

    places: Tensor  # in the batch, int64
    x: Tensor
    y: Tensor
    now: Tensor
    before: Tensor  # the point before `now`
    logits: Tensor  # at `now`, and so on
    loss: Tensor
    gradient: Tensor
    best: Tensor
    best_loss: Tensor
    best_gradient: Tensor
    size: Tensor  # of the step, (B, 1, 1, 1)
    rises: Tensor  # how often the loss rose since the last checkpoint
    size_then: Tensor  # at the last checkpoint
    best_loss_then: Tensor

    @classmethod
    def begin(cls, model: nn.Module, x: Tensor, y: Tensor, objective: Objective, start: Tensor, size: float) -> _Run:
        logits, loss, gradient = value_and_gradient(model, start, y, objective)
        sizes = torch.full((len(x), 1, 1, 1), size, device=x.device)
        return cls(
            places=torch.arange(len(x), device=x.device),
            x=x, y=y, now=start, before=start, logits=logits, loss=loss, gradient=gradient,
            best=start, best_loss=loss, best_gradient=gradient,
            size=sizes, rises=torch.zeros_like(loss), size_then=sizes, best_loss_then=loss,
        )  # fmt: skip

    def keep(self, which: Tensor) -> _Run:
        """The run of some of the images, (B,) bool."""
        return self if which.all() else _Run(**{name: value[which] for name, value in vars(self).items()})

    def step(self, model: nn.Module, objective: Objective, budget: Budget, *, is_first: bool, is_last: bool) -> None:
        """One step, from the second on with momentum (equation 1). After the last no gradient is needed."""
        z = project(self.now + self.size * self.gradient.sign(), self.x, budget.eps)
        weight = 1.0 if is_first else MOMENTUM
        step = self.now + weight * (z - self.now) + (1 - weight) * (self.now - self.before)
        self.before, self.now = self.now, project(step, self.x, budget.eps)
        earlier = self.loss
        if is_last:
            self.logits = forward(model, self.now)
            self.loss = objective(self.logits, self.y)
        else:
            self.logits, self.loss, self.gradient = value_and_gradient(model, self.now, self.y, objective)
        self.rises = self.rises + (self.loss > earlier)
        better = self.loss > self.best_loss
        self.best = _where(better, self.now, self.best)
        self.best_gradient = _where(better, self.gradient, self.best_gradient)
        self.best_loss = torch.where(better, self.loss, self.best_loss)

    def adapt(self, steps: int) -> None:
        """At a checkpoint, `steps` after the last: where the ascent stalls, halve the step and go on from the best."""
        few_rises = self.rises < RISE_SHARE * steps
        no_better = (self.size == self.size_then).flatten() & (self.best_loss <= self.best_loss_then)
        stalls = few_rises | no_better
        self.size_then, self.best_loss_then = self.size, self.best_loss
        self.size = _where(stalls, self.size / 2, self.size)
        self.now = _where(stalls, self.best, self.now)
        self.gradient = _where(stalls, self.best_gradient, self.gradient)
        self.loss = torch.where(stalls, self.best_loss, self.loss)
        self.rises = torch.zeros_like(self.rises)


def _where(which: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """torch.where by image: which (B,)."""
    return torch.where(which.view(-1, *[1] * (yes.dim() - 1)), yes, no)


def _checkpoints(steps: int) -> dict[int, int]:
    """Each checkpoint w_j of section 3.1, with the steps since the one before."""
    shares = [0, 22]  # in hundredths: rounding would move ceil(0.57 * 100)
    while shares[-1] < 100:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 3, 6))
    at = sorted({-(-share * steps // 100) for share in shares if share <= 100})
    return {later: later - earlier for earlier, later in pairwise(at)}


def _is_off_label(logits: Tensor, pair: Tensor) -> Tensor:
    """Misclassified as whatever class, the target or another."""
    return fooled(logits, pair[:, 0])
