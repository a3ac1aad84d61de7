"""AutoAttack, standard version, L-infinity (Croce and Hein 2020a, section 5): four attacks in turn.

Each attacks only the images that are still classified correctly after the attacks before it. Cost for an image that is
never misclassified: the sum of the four, one forward pass before the first, and one after each.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from advmia.attacks.auto_pgd import apgd_ce, apgd_t
from advmia.attacks.common import EvaluationAttack, Objective, choose, forward, frozen_eval, misclassified, notes_of
from advmia.attacks.fab import fab_t
from advmia.attacks.square_attack import Square, square
from advmia.attacks.square_memory import SquareMemory
from advmia.budgets import Budget
from advmia.runtime.precision import fp32_only
from advmia.runtime.rng import SampleRng

QUERIES_PER_STEP = 50  # of Square, for each step of the other attacks: 5,000 for 100


@dataclass(frozen=True)
class AutoAttack:
    """Returns, for each image, the adversarial image of the first attack that succeeds.

    If none succeeds, it returns the first attack's image, which transfers to other networks better than x itself.
    `notes` describes each image of the last call: "fooled_by" is the number of the successful attack in `attacks`, or
    -1 if none succeeded or the image was misclassified before; "queries" is the number of Square's queries. Keeps the
    contract of `advmia.attacks.common.Attack`.
    """

    attacks: dict[str, EvaluationAttack]  # in the order in which they run
    notes: dict[str, Tensor] = field(default_factory=dict, compare=False)
    early_stopping: ClassVar[bool] = True

    def losses(self, classes: int) -> tuple[str, ...]:
        return tuple(f"{name}: {loss}" for name, attack in self.attacks.items() for loss in attack.losses(classes))

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor:
        x_adv = x.detach().clone()
        fooled_by = self.notes["fooled_by"] = torch.full((len(x),), -1, device=x.device)
        queries = self.notes["queries"] = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        with frozen_eval(model):
            remaining = (~self._misclassified(model, x_adv, y)).nonzero()[:, 0]
            for number, attack in enumerate(self.attacks.values()):
                if not len(remaining):
                    break
                candidates = attack(model, x[remaining], y[remaining], rng=rng.take(remaining))
                queries[remaining] += notes_of(attack).get("queries", 0)
                succeeded = self._misclassified(model, candidates, y[remaining])
                kept = succeeded if number else torch.ones_like(succeeded)
                x_adv[remaining] = choose(kept, candidates, x_adv[remaining])
                fooled_by[remaining] = torch.where(succeeded, number, fooled_by[remaining])
                remaining = remaining[~succeeded]
        return x_adv

    def _misclassified(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with fp32_only(x.device):  # the precision in which evaluations score early-stopping attacks
            return misclassified(forward(model, x), y)


def remembering(attack: EvaluationAttack, memory: SquareMemory) -> EvaluationAttack:
    """Returns the attack with this memory of Square's results, if it is Square or AutoAttack; else the attack."""
    if isinstance(attack, Square):
        return replace(attack, memory=memory)
    if isinstance(attack, AutoAttack):
        return replace(attack, attacks={name: remembering(part, memory) for name, part in attack.attacks.items()})
    return attack


def autoattack(budget: Budget, objective: Objective) -> AutoAttack:
    """Returns AutoAttack with `budget.steps` steps of APGD and FAB; APGD-CE ascends `objective`, the cross-entropy."""
    queries = replace(budget, steps=QUERIES_PER_STEP * budget.steps)
    return AutoAttack(
        {
            "apgd-ce": apgd_ce(budget, objective),
            "apgd-t": apgd_t(budget, objective),
            "fab-t": fab_t(budget, objective),
            "square": square(queries, objective),
        }
    )
