"""The attacks by name, and the setting the survey evaluates each with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from advmia.attacks.apgd import apgd, apgd_ce, apgd_t
from advmia.attacks.autoattack import autoattack
from advmia.attacks.fab import fab_t
from advmia.attacks.gradient import FGSM, cw, fgsm, pgd
from advmia.attacks.simba import simba
from advmia.attacks.square import square
from advmia.attacks.steps import EvaluationAttack, Objective
from advmia.budgets import Budget, auto_budget, cw_budget, fgsm_budget, pgd_budget, simba_budget, square_budget


@dataclass(frozen=True)
class AttackSpec:
    """One attack of the evaluation."""

    build: Callable[[Budget, Objective], EvaluationAttack]
    budget: Callable[[float], Budget]  # the survey's setting for an eps in grey levels

    @property
    def shares_gradient(self) -> bool:
        """Whether attacks of several budgets do well to take turns on each image."""
        return self.build is fgsm

    def build_each(self, budgets: Sequence[Budget], objective: Objective) -> list[EvaluationAttack]:
        """The attack with each of the budgets."""
        made = [self.build(budget, objective) for budget in budgets]
        first = made[0]
        return [first.at(budget) for budget in budgets] if isinstance(first, FGSM) else made


ATTACKS: dict[str, AttackSpec] = {
    "fgsm": AttackSpec(fgsm, fgsm_budget),
    "pgd": AttackSpec(pgd, pgd_budget),
    "pgd-margin": AttackSpec(pgd, pgd_budget),  # findings: the same attack up the labels' margins
    "pgd-dice": AttackSpec(pgd, pgd_budget),  # segmentation: up the soft Dice loss
    "cw": AttackSpec(cw, cw_budget),
    "apgd-ce": AttackSpec(apgd_ce, auto_budget),
    "apgd-t": AttackSpec(apgd_t, auto_budget),
    "fab-t": AttackSpec(fab_t, auto_budget),
    "square": AttackSpec(square, square_budget),
    "aa": AttackSpec(autoattack, auto_budget),
    "simba": AttackSpec(simba, simba_budget),
    "apgd": AttackSpec(apgd, auto_budget),  # findings and segmentation: up the loss that training descends
    "apgd-margin": AttackSpec(apgd, auto_budget),
    "apgd-dice": AttackSpec(apgd, auto_budget),
}
