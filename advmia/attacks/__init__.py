"""The attacks by name, and the setting the survey evaluates each with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from advmia.attacks.gradient import fgsm, pgd
from advmia.attacks.steps import Attack, Objective
from advmia.budgets import Budget, fgsm_budget, pgd_budget


@dataclass(frozen=True)
class AttackSpec:
    """One attack of the evaluation."""

    build: Callable[[Budget, Objective], Attack]
    budget: Callable[[float], Budget]  # the survey's setting for an eps in grey levels


ATTACKS: dict[str, AttackSpec] = {
    "fgsm": AttackSpec(fgsm, fgsm_budget),
    "pgd": AttackSpec(pgd, pgd_budget),
    "pgd-dice": AttackSpec(pgd, pgd_budget),  # segmentation: the same attack up the soft Dice loss
}
