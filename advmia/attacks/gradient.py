"""FGSM, PGD and CW: attacks that take sign steps up a loss.

Cost for an image: one forward and one backward pass for each step; FGSM takes one step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from advmia.attacks.common import Objective, ascend, frozen_eval, uniform_start
from advmia.budgets import Budget
from advmia.runtime.rng import SampleRng


@dataclass(frozen=True)
class SignAscent:
    """The L-infinity sign-step attack, built by `pgd`. Keeps the contract of `advmia.attacks.common.Attack`."""

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
    """Returns projected gradient descent (Madry et al. 2018): a random start, then projected sign steps."""
    return SignAscent(budget, objective, random_start)


def cw(budget: Budget, objective: Objective) -> SignAscent:
    """Returns the survey's CW: PGD up `advmia.losses.confident_margin` (Carlini and Wagner 2017, f_6).

    Carlini and Wagner replace the pixels by a tanh of new variables. Here, as in the survey, this is left out: the tanh
    is flat at 0, so black pixels, of which a fundus photograph has many, would not change.
    """
    return pgd(budget, objective)


def fgsm(budget: Budget, objective: Objective) -> SignAscent:
    """Returns the fast gradient sign method (Goodfellow et al. 2015, section 4): one sign step of size eps from x.

    The steps and the step size of `budget` are ignored.
    """
    return pgd(replace(budget, steps=1, step_size=budget.eps), objective, random_start=False)
