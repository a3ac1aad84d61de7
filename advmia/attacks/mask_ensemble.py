"""SEA, the segmentation ensemble attack (Croce et al., Towards Reliable Evaluation and Fast Training of Robust Semantic
Segmentation Models, arXiv 2306.12941): four runs of APGD up different losses, and of their images the worst.

Cost for an image of which some pixel stays right, with N steps a run: 4 (N + 4) forward and 4 N backward passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from advmia.attacks.auto_pgd import AscentSettings, auto_ascend
from advmia.attacks.common import Objective, choose, forward, frozen_eval, project, uniform_start
from advmia.attacks.mask_attacks import wrong_weight
from advmia.attacks.mask_losses import (
    all_wrong,
    jensen_shannon,
    masked_cross_entropy,
    masked_normalized_logit,
    normalized_logit,
    segpgd_loss,
    wrong_share,
)
from advmia.budgets import Budget
from advmia.losses import pixel_cross_entropy
from advmia.runtime.rng import SampleRng

# The losses that the four runs ascend, and by which loss APGD judges their points: masked losses fall as pixels become
# wrong, so they cannot say which point is better.
RUNS: tuple[tuple[Callable[..., Tensor], Objective], ...] = (
    (masked_cross_entropy, pixel_cross_entropy),
    (segpgd_loss, pixel_cross_entropy),
    (jensen_shannon, pixel_cross_entropy),
    (masked_normalized_logit, normalized_logit),
)


@dataclass(frozen=True)
class RunSettings(AscentSettings):
    """The settings of one run: it judges points by `objective`, and ascends `loss`."""

    loss: Callable[..., Tensor] = pixel_cross_entropy

    def objective_at(self, step: int) -> Objective:
        """Returns an objective with the values of `objective` and the gradient of `loss` after `step` steps."""
        loss = self.loss
        if loss is segpgd_loss:
            loss = partial(loss, wrong_weight=wrong_weight(step, self.budget.steps))
        return partial(_judged, judge=self.objective, ascended=loss)


def _judged(logits: Tensor, y: Tensor, judge: Objective, ascended: Objective) -> Tensor:
    loss = ascended(logits, y)
    return judge(logits.detach(), y) + (loss - loss.detach())


@dataclass(frozen=True)
class SEA:
    """Returns, for each image, the point with the most wrong pixels; `budget.steps` are those of each of four runs.

    A run begins at a random point and takes 30 % of its steps within 2 eps, 30 % within 1.5 eps and the others
    within eps, each part from the worst point of the part before, projected. An image of which all pixels are wrong
    leaves. Keeps the contract of `advmia.attacks.common.Attack`.
    """

    budget: Budget

    def losses(self, classes: int) -> tuple[str, ...]:
        return tuple(loss.__name__ for loss, _ in RUNS)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor:
        x_adv = x.detach().clone()
        if self.budget.eps == 0:
            return x_adv
        harm = torch.full((len(x),), -torch.inf, device=x.device)
        with frozen_eval(model):
            for loss, judge in RUNS:
                remaining = (harm < 1).nonzero()[:, 0]
                if not len(remaining):
                    break
                settings = RunSettings(judge, self.budget, all_wrong, wrong_share, loss)
                candidates = self._run(model, x.detach()[remaining], y[remaining], settings, rng.take(remaining))
                candidate_harm = wrong_share(forward(model, candidates), y[remaining])
                better = candidate_harm > harm[remaining]
                x_adv[remaining] = choose(better, candidates, x_adv[remaining])
                harm[remaining] = torch.where(better, candidate_harm, harm[remaining])
        return x_adv

    def _run(self, model: nn.Module, x: Tensor, y: Tensor, settings: RunSettings, rng: SampleRng) -> Tensor:
        x_adv = None
        for budget in parts(self.budget):
            start = uniform_start(x, budget.eps, rng) if x_adv is None else project(x_adv, x, budget.eps)
            x_adv, _ = auto_ascend(model, x, y, start, replace(settings, budget=budget))
        assert x_adv is not None
        return x_adv


def parts(budget: Budget) -> Iterator[Budget]:
    """Yields the budgets of a run's parts: 2 eps, 1.5 eps and eps. The first two are left out if they have no step."""
    early = 3 * budget.steps // 10
    for factor in (2, 1.5) if early else ():
        yield replace(budget, eps=min(factor * budget.eps, 1), steps=early)
    yield replace(budget, steps=budget.steps - 2 * early)


def sea(budget: Budget, objective: Objective) -> SEA:
    """Returns SEA. It ignores `objective` and ascends the losses of `RUNS`."""
    return SEA(budget)
