"""The attacks of the evaluation suite, ours and plain, by name."""

from __future__ import annotations

import argparse
from functools import partial
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from advmia.attacks import ATTACKS
from advmia.attacks.auto_attack import AutoAttack
from advmia.attacks.auto_pgd import apgd_ce, apgd_t
from advmia.attacks.common import EvaluationAttack
from advmia.attacks.fab import fab_t
from advmia.attacks.square_attack import square
from advmia.budgets import Budget, cw_budget, fgsm_budget, pgd_budget
from advmia.losses import cross_entropy
from advmia.tasks import SINGLE_LABEL
from benchmarks import plain

CLASSES = 4  # pyautoattack's APGD-T needs at least four
SUITE = ("fgsm", "pgd", "cw", "aa", "simba")
LONG = ("aa", "simba")  # the attacks that --queries and --steps shorten


def budget_of(name: str, grey_eps: float, args: argparse.Namespace) -> Budget:
    """Returns an attack's budget, with the numbers of queries and steps that the flags set."""
    survey_budgets = {"fgsm": fgsm_budget, "pgd": pgd_budget, "cw": cw_budget}
    if name in survey_budgets:
        return survey_budgets[name](grey_eps)
    return Budget.grey(grey_eps, args.queries, grey_eps) if name == "simba" else Budget.grey(grey_eps, args.steps, 0)


def our_attack(name: str, budget: Budget, args: argparse.Namespace) -> EvaluationAttack:
    """Builds our attack as the commands do, except that AutoAttack's Square makes `args.queries` queries."""
    if name != "aa":
        return ATTACKS[name].build(budget, SINGLE_LABEL.attacks[name])
    return AutoAttack(
        {
            "apgd-ce": apgd_ce(budget, cross_entropy),
            "apgd-t": apgd_t(budget, cross_entropy),
            "fab-t": fab_t(budget, cross_entropy),
            "square": square(Budget(budget.eps, args.queries, 0), cross_entropy),
        }
    )


def plain_attack(name: str, budget: Budget, args: argparse.Namespace) -> plain.Attack | None:
    """Builds the plain attack; returns None for AutoAttack if pyautoattack is not installed."""
    if name == "aa":
        modules = _official_modules()
        return partial(_official_autoattack, modules, args, budget) if modules else None
    if name == "simba":
        return partial(plain.simba_dct, eps=budget.eps, directions=budget.steps)
    attack = {"fgsm": plain.fgsm, "pgd": plain.pgd, "cw": plain.cw}[name]
    return partial(attack, budget=budget)


def _official_modules() -> dict[str, Any]:
    """Returns the modules of pyautoattack by name, "" for the package itself; empty if it is not installed."""
    try:
        names = ("autopgd_base", "fab_pt", "square")
        return {"": import_module("pyautoattack"), **{name: import_module(f"pyautoattack.{name}") for name in names}}
    except ImportError:
        return {}


def _official_autoattack(
    modules: dict[str, Any], args: argparse.Namespace, budget: Budget, model: nn.Module, x: Tensor, y: Tensor
) -> Tensor:
    """Runs pyautoattack's four attacks with our numbers of steps, queries and target classes; returns x_adv."""
    common = {"norm": "Linf", "eps": budget.eps, "seed": 0, "device": x.device}
    targeted = {"n_iter": args.steps, "n_target_classes": CLASSES - 1}
    names = ["apgd-ce", "apgd-t", "fab-t", "square"]
    suite = modules[""].AutoAttack(model, version="custom", attacks=names, **common)
    suite.apgd = modules["autopgd_base"].APGDAttack(model, n_iter=args.steps, **common)
    suite.apgd_targeted = modules["autopgd_base"].APGDAttack_targeted(model, **targeted, **common)
    suite.fab = modules["fab_pt"].FABAttack_PT(model, targeted=True, **targeted, **common)
    suite.square = modules["square"].SquareAttack(model, n_queries=args.queries, resc_schedule=False, **common)
    x_adv: Tensor = suite.run_standard_evaluation(x, y, batch_size=len(x))[0]
    return x_adv
