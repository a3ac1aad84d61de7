"""AutoAttack, standard, L-infinity (Croce and Hein 2020a, section 5): four attacks, each on what is still right.

Cost for an image that nothing fools: that of the four, one forward pass before and one after each.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from advmia.attacks.auto_pgd import apgd_ce, apgd_t
from advmia.attacks.common import EvaluationAttack, Objective, fooled, forward, frozen_eval, notes_of
from advmia.attacks.fab import fab_t
from advmia.attacks.square_attack import square
from advmia.budgets import Budget
from advmia.runtime.precision import fp32_only
from advmia.runtime.rng import SampleRng

QUERIES_PER_STEP = 50  # Square's queries for one step of the others: 5,000 for 100


@dataclass(frozen=True)
class AutoAttack:
    """The first of the attacks that fools an image gives its x_adv. Contract: `advmia.attacks.steps.Attack`.

    An image that none fools keeps what the first made of it, which transfers better than x itself. `notes`, of each
    image of the last call: "fooled_by", the attack's place in the order (-1: none, or misclassified to begin with), and
    "queries", Square's.
    """

    attacks: dict[str, EvaluationAttack]  # in order
    notes: dict[str, Tensor] = field(default_factory=dict, compare=False)
    early_stopping: ClassVar[bool] = True

    def losses(self, classes: int) -> tuple[str, ...]:
        return tuple(f"{name}: {loss}" for name, each in self.attacks.items() for loss in each.losses(classes))

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor:
        x_adv = x.detach().clone()
        fooled_by = self.notes["fooled_by"] = torch.full((len(x),), -1, device=x.device)
        queries = self.notes["queries"] = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        with frozen_eval(model):
            left = (~self._fooled(model, x_adv, y)).nonzero()[:, 0]
            for number, attack in enumerate(self.attacks.values()):
                if not len(left):
                    break
                found = attack(model, x[left], y[left], rng=rng.take(left))
                queries[left] += notes_of(attack).get("queries", 0)
                done = self._fooled(model, found, y[left])
                kept = done if number else torch.ones_like(done)
                x_adv[left[kept]] = found[kept]
                fooled_by[left[done]] = number
                left = left[~done]
        return x_adv

    def _fooled(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with fp32_only(x.device):  # as evaluations score what such an attack has made
            return fooled(forward(model, x), y)


def autoattack(budget: Budget, objective: Objective) -> AutoAttack:
    """AutoAttack with APGD's and FAB's `budget.steps`; APGD-CE ascends `objective`, the cross-entropy."""
    queries = replace(budget, steps=QUERIES_PER_STEP * budget.steps)
    return AutoAttack(
        {
            "apgd-ce": apgd_ce(budget, objective),
            "apgd-t": apgd_t(budget, objective),
            "fab-t": fab_t(budget, objective),
            "square": square(queries, objective),
        }
    )
