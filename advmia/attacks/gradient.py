"""FGSM, PGD and CW: sign steps up a loss.

Cost an image: FGSM one forward and one backward pass, PGD and CW as many as steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from advmia.attacks.common import Objective, ascend, frozen_eval, uniform_start
from advmia.budgets import Budget
from advmia.runtime.rng import SampleRng


@dataclass(frozen=True)
class SignAscent:
    """The L-infinity sign-step attack; `pgd` builds it. Contract: `advmia.attacks.steps.Attack`."""

    budget: Budget
    objective: Objective
    random_start: bool

    def losses(self, classes: int) -> tuple[str, ...]:
        return (self.objective.__name__,)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor:
        if self.budget.eps == 0:
            return x.detach().clone()
        start = uniform_start(x, self.budget.eps, rng) if self.random_start else x.detach().clone()
        with frozen_eval(model):
            return ascend(model, x.detach(), y, self.objective, self.budget, start)


def pgd(budget: Budget, objective: Objective, *, random_start: bool = True) -> SignAscent:
    """Projected gradient descent (Madry et al. 2018): a random start, then `budget.steps` projected sign steps."""
    return SignAscent(budget, objective, random_start)


def cw(budget: Budget, objective: Objective) -> SignAscent:
    """The survey's CW: PGD on `advmia.losses.confident_margin` (Carlini and Wagner 2017, f_6, without their tanh).

    Their change of variable is flat at 0 and leaves black pixels as they are, of which a fundus has many.
    """
    return pgd(budget, objective)


def fgsm(budget: Budget, objective: Objective) -> SignAscent:
    """Fast gradient sign method (Goodfellow et al. 2015, section 4): one sign step of `budget.eps` from x itself."""
    return pgd(replace(budget, steps=1, step_size=budget.eps), objective, random_start=False)
