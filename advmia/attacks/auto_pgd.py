"""Auto-PGD: PGD that adapts its step size (Croce and Hein 2020a, "Reliable evaluation of adversarial robustness with an
ensemble of diverse parameter-free attacks", section 3 and algorithm 1).

Cost of one run of N steps, for an image that is never misclassified: N + 1 forward and N backward passes. APGD-CE is
one run, APGD-T one run for each target and loss. Both first make one more forward pass, to leave out the images that
are misclassified already.
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
    attack_correct_images,
    choose,
    forward,
    frozen_eval,
    misclassified,
    project,
    uniform_start,
    value_and_gradient,
)
from advmia.budgets import Budget
from advmia.losses import targeted_cross_entropy, targeted_dlr, targeted_margin
from advmia.runtime.rng import SampleRng

MOMENTUM = 0.75  # alpha in the paper: the weight of the new step
RISE_SHARE = 0.75  # rho: if the loss rises in a smaller share of the steps since a checkpoint, the step size is halved
TARGETS = 9  # the most target classes, as in the standard AutoAttack

# Takes logits (B, K) and labels (B, ...), and returns which images (B,) need no more steps.
Success = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class APGD:
    """Ascends one objective; built by `apgd` and `apgd_ce`. Keeps the contract of `advmia.attacks.common.Attack`."""

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
                return attack_correct_images(model, x, y, rng, lambda x, y, _, rng: self._run(model, x, y, rng))
            return self._run(model, x.detach(), y, rng)

    def _run(self, model: nn.Module, x: Tensor, y: Tensor, rng: SampleRng) -> Tensor:
        start = uniform_start(x, self.budget.eps, rng)
        settings = AscentSettings(self.objective, self.budget, misclassified if self.early_stopping else None)
        return auto_ascend(model, x, y, start, settings)[0]


def apgd(budget: Budget, objective: Objective) -> APGD:
    """Returns APGD for any objective, such as those of multi-label and segmentation tasks.

    It returns the point of each image's highest loss.
    """
    return APGD(budget, objective, early_stopping=False)


def apgd_ce(budget: Budget, objective: Objective) -> APGD:
    """Returns APGD-CE for single labels: like `apgd`, with early stopping at misclassified images."""
    return APGD(budget, objective, early_stopping=True)


@dataclass(frozen=True)
class TargetedAPGD:
    """APGD-T: runs APGD towards each of the likeliest wrong classes in turn, with each of `targeted_losses`.

    Keeps the contract of `advmia.attacks.common.Attack`.
    """

    budget: Budget
    early_stopping: ClassVar[bool] = True

    def losses(self, classes: int) -> tuple[str, ...]:
        return tuple(loss.__name__ for loss in targeted_losses(classes))

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor:
        if self.budget.eps == 0:
            return x.detach().clone()
        with frozen_eval(model):
            return attack_correct_images(
                model, x, y, rng, lambda x, y, logits, rng: self._try_targets(model, x, y, logits, rng)
            )

    def _try_targets(self, model: nn.Module, x: Tensor, y: Tensor, logits: Tensor, rng: SampleRng) -> Tensor:
        targets = likeliest_wrong(logits, y)
        x_adv, remaining = x.clone(), torch.arange(len(x), device=x.device)
        for loss in targeted_losses(logits.shape[1]):
            settings = AscentSettings(loss, self.budget, _label_misclassified)
            for target_rank in range(targets.shape[1]):
                pair = torch.stack([y[remaining], targets[remaining, target_rank]], dim=1)  # (B, 2)
                start = uniform_start(x[remaining], self.budget.eps, rng.take(remaining))
                x_adv[remaining], succeeded = auto_ascend(model, x[remaining], pair, start, settings)
                remaining = remaining[~succeeded]
                if not len(remaining):
                    return x_adv
        return x_adv


def apgd_t(budget: Budget, objective: Objective) -> TargetedAPGD:
    """Returns APGD-T. It ignores `objective` and ascends `targeted_losses`."""
    return TargetedAPGD(budget)


def targeted_losses(classes: int) -> tuple[Objective, ...]:
    """Returns the losses that APGD-T ascends in turn, for a network with this many classes.

    The first does not depend on the scale of the logits: targeted DLR, or for fewer than four classes, which DLR needs,
    the difference of two logits. The second is the targeted cross-entropy; with two classes it rises exactly where the
    difference of logits does, and is left out.
    """
    if classes == 2:
        return (targeted_margin,)
    return (targeted_margin if classes == 3 else targeted_dlr, targeted_cross_entropy)


def likeliest_wrong(logits: Tensor, y: Tensor) -> Tensor:
    """Returns the wrong classes by falling logit, (B, min(9, K - 1)) int64; logits (B, K), y (B,)."""
    count = min(TARGETS, logits.shape[1] - 1)
    return logits.scatter(1, y[:, None], -torch.inf).topk(count, dim=1).indices


@dataclass(frozen=True)
class AscentSettings:
    """The settings of `auto_ascend`: the objective, the budget, and when an image stops (None: after all steps).

    A subclass may ascend another objective at each step, with comparable values, and choose another best point.
    """

    objective: Objective
    budget: Budget
    success: Success | None
    harm: Objective | None = None  # the best point is that of the highest harm; None: of the highest objective

    def objective_at(self, step: int) -> Objective:
        """Returns the objective after `step` steps."""
        return self.objective


def auto_ascend(
    model: nn.Module, x: Tensor, y: Tensor, start: Tensor, settings: AscentSettings
) -> tuple[Tensor, Tensor]:
    """Runs APGD from `start` on a frozen model, with 2 eps as the first step size.

    Returns the best points (B, C, H, W), and which images (B,) met the criterion `settings.success`. The best point is
    the first that meets it, or else the one of the highest objective or `settings.harm`. Images that meet it leave the
    batch.
    """
    budget, success = settings.budget, settings.success
    x_adv, succeeded = start.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
    checkpoints = checkpoint_steps(budget.steps)
    run = ApgdRun.begin(model, x, y, settings.objective_at(0), start, 2 * budget.eps)
    highest = torch.full_like(run.loss, -torch.inf)  # harm so far
    for step in range(budget.steps + 1):
        if settings.harm is not None:
            harm = settings.harm(run.logits, run.y)
            worse = harm >= highest[run.indices]
            x_adv[run.indices] = choose(worse, run.current, x_adv[run.indices])
            highest[run.indices] = torch.where(worse, harm, highest[run.indices])
        if success is not None:
            reached = success(run.logits, run.y)
            if reached.any():
                x_adv[run.indices[reached]] = run.current[reached]
                succeeded[run.indices[reached]] = True
                run = run.keep(~reached)
        if not len(run.indices) or step == budget.steps:
            break
        if step in checkpoints:  # after the check above: going back to the best point would lose a success
            run.adapt(checkpoints[step])
        objective = settings.objective_at(step + 1)
        run.step(model, objective, budget, is_first=step == 0, is_last=step + 1 == budget.steps)
    if settings.harm is None:
        x_adv[run.indices] = run.best
    return x_adv, succeeded


@dataclass
class ApgdRun:
    """The state of the images that are still under attack. Every field has one entry per image, shape (B, ...)."""

    indices: Tensor  # in the batch that `auto_ascend` was given, int64
    x: Tensor
    y: Tensor
    current: Tensor  # the point that the search is at
    previous: Tensor  # the point before
    logits: Tensor  # at the current point, as are the loss and the gradient
    loss: Tensor
    gradient: Tensor
    best: Tensor
    best_loss: Tensor
    best_gradient: Tensor
    step_size: Tensor  # (B, 1, 1, 1)
    rises: Tensor  # in how many steps since the last checkpoint the loss rose
    checkpoint_step_size: Tensor  # at the last checkpoint
    checkpoint_best_loss: Tensor

    @classmethod
    def begin(
        cls, model: nn.Module, x: Tensor, y: Tensor, objective: Objective, start: Tensor, step_size: float
    ) -> ApgdRun:
        """Returns the state at the point `start` (B, C, H, W), before the first step."""
        logits, loss, gradient = value_and_gradient(model, start, y, objective)
        step_sizes = torch.full((len(x), 1, 1, 1), step_size, device=x.device)
        return cls(
            indices=torch.arange(len(x), device=x.device),
            x=x, y=y, current=start, previous=start, logits=logits, loss=loss, gradient=gradient,
            best=start, best_loss=loss, best_gradient=gradient,
            step_size=step_sizes, rises=torch.zeros_like(loss),
            checkpoint_step_size=step_sizes, checkpoint_best_loss=loss,
        )  # fmt: skip

    def keep(self, mask: Tensor) -> ApgdRun:
        """Returns the state of the images in the mask (B,) bool."""
        return ApgdRun(**{name: value[mask] for name, value in vars(self).items()})

    def step(self, model: nn.Module, objective: Objective, budget: Budget, *, is_first: bool, is_last: bool) -> None:
        """Takes one step, with momentum from the second step on (equation 1). The last step computes no gradient."""
        z = project(self.current + self.step_size * self.gradient.sign(), self.x, budget.eps)
        weight = 1.0 if is_first else MOMENTUM
        step = self.current + weight * (z - self.current) + (1 - weight) * (self.current - self.previous)
        self.previous, self.current = self.current, project(step, self.x, budget.eps)
        previous_loss = self.loss
        if is_last:
            self.logits = forward(model, self.current)
            self.loss = objective(self.logits, self.y)
        else:
            self.logits, self.loss, self.gradient = value_and_gradient(model, self.current, self.y, objective)
        self.rises = self.rises + (self.loss > previous_loss)
        better = self.loss > self.best_loss
        self.best = choose(better, self.current, self.best)
        self.best_gradient = choose(better, self.gradient, self.best_gradient)
        self.best_loss = torch.where(better, self.loss, self.best_loss)

    def adapt(self, steps: int) -> None:
        """Halves the step size of images whose ascent stalls, and goes back to their best points.

        Called at a checkpoint, `steps` steps after the last (conditions 1 and 2 of section 3.1).
        """
        few_rises = self.rises < RISE_SHARE * steps
        same_step_size = (self.step_size == self.checkpoint_step_size).flatten()
        stalls = few_rises | (same_step_size & (self.best_loss <= self.checkpoint_best_loss))
        self.checkpoint_step_size, self.checkpoint_best_loss = self.step_size, self.best_loss
        self.step_size = choose(stalls, self.step_size / 2, self.step_size)
        self.current = choose(stalls, self.best, self.current)
        self.gradient = choose(stalls, self.best_gradient, self.gradient)
        self.loss = torch.where(stalls, self.best_loss, self.loss)
        self.rises = torch.zeros_like(self.rises)


def checkpoint_steps(steps: int) -> dict[int, int]:
    """Returns the checkpoints w_j of section 3.1, each with the number of steps since the one before."""
    shares = [0, 22]  # integers, in hundredths: 0.57 * 100 is slightly more than 57, so that ceil would give 58
    while shares[-1] < 100:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 3, 6))
    at = sorted({-(-share * steps // 100) for share in shares if share <= 100})
    return {later: later - earlier for earlier, later in pairwise(at)}


def _label_misclassified(logits: Tensor, pair: Tensor) -> Tensor:
    """Returns which images (B,) are misclassified, as the target or as another class; pair (B, 2), label and target."""
    return misclassified(logits, pair[:, 0])
