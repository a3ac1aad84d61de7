"""SegPGD: PGD for masks, which first makes right pixels wrong, and later also keeps wrong ones wrong.

Cost for an image: one forward and one backward pass for each step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor, nn

from advmia.attacks.common import Objective, ascend, frozen_eval, uniform_start
from advmia.attacks.mask_losses import segpgd_loss
from advmia.budgets import Budget
from advmia.runtime.rng import SampleRng


@dataclass(frozen=True)
class SegPGD:
    """PGD up `segpgd_loss` (Gu et al. 2022, algorithm 1). Keeps the contract of `advmia.attacks.common.Attack`."""

    budget: Budget

    def losses(self, classes: int) -> tuple[str, ...]:
        return (segpgd_loss.__name__,)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor:
        if self.budget.eps == 0:
            return x.detach().clone()
        x_adv, one_step = uniform_start(x, self.budget.eps, rng), replace(self.budget, steps=1)
        with frozen_eval(model):
            for step in range(self.budget.steps):
                objective = partial(segpgd_loss, wrong_weight=wrong_weight(step, self.budget.steps))
                x_adv = ascend(model, x.detach(), y, objective, one_step, x_adv)
        return x_adv.detach()


def segpgd(budget: Budget, objective: Objective) -> SegPGD:
    """Returns SegPGD. It ignores `objective`: its loss changes with the step."""
    return SegPGD(budget)


def wrong_weight(step: int, steps: int) -> float:
    """Returns SegPGD's weight of wrong pixels after `step` of `steps` steps: it rises from 0 towards a half."""
    return step / max(2 * steps, 1)
