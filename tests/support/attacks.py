"""Helpers for the tests of all attacks: each attack's traits, small budgets, and the count of successes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pytest
import torch
from _pytest.mark import ParameterSet
from torch import Tensor, nn

from advmia.attacks import ATTACKS
from advmia.attacks.common import EvaluationAttack, Objective, frozen_eval
from advmia.attacks.gradient import SignAscent
from advmia.attacks.mask_attacks import SegPGD
from advmia.attacks.momentum import MomentumAscent
from advmia.budgets import Budget
from advmia.losses import cross_entropy
from advmia.tasks import SINGLE_LABEL
from tests.support.networks import right

EPS = 8 / 255
SLACK = 1e-6  # for rounding


@dataclass(frozen=True)
class Traits:
    """Properties of an attack that `AttackSpec` does not state, and a budget that is small enough for tests."""

    steps: int = 3  # or queries: 60 are needed to mislead the network on a third of the images
    eps: float = EPS
    own_losses: bool = False  # ascends losses of its own, whatever objective it is built with
    all_or_nothing: bool = False  # returns x itself if it finds no misclassified point
    scale_blind: bool = False  # succeeds on logits times 1e4 too
    grows: bool = False  # a larger budget begins like a smaller one, so that it misleads on at least the same images
    slow: bool = False  # one image takes hundreds of passes


# Attacks that share a builder differ in the objective only, so one of them, with single labels, stands for all. The
# others are tested with their tasks. A label is a mask of one pixel to the attacks on masks, which are tested with
# both.
TRAITS = {
    "fgsm": Traits(),
    "pgd": Traits(),
    "cw": Traits(scale_blind=True),
    "apgd-ce": Traits(),
    "apgd-t": Traits(own_losses=True, scale_blind=True),
    "fab-t": Traits(own_losses=True, all_or_nothing=True, scale_blind=True, grows=True),
    "square": Traits(steps=60, own_losses=True, scale_blind=True, grows=True, slow=True),
    "aa": Traits(steps=2, scale_blind=True, slow=True),
    # A step is spread over the whole image, so that only large steps have an effect within some dozens of directions.
    "simba": Traits(steps=60, eps=1.0, own_losses=True, grows=True, slow=True),
    "apgd": Traits(),
    "segpgd": Traits(own_losses=True),
    "sea": Traits(own_losses=True),
    "mifgsm": Traits(),
    "dimifgsm": Traits(),
}
# Attacks that single labels are no targets for. They are tested with their tasks only.
OTHER_TRAITS = {"pgd-finding": Traits()}
# They pass images through a network as PGD and APGD do, which are tested with deep networks: small ones do for these.
SMALL_ONLY = ("segpgd", "cospgd", "sea", "pgd-finding", "mifgsm", "dimifgsm")
for_each_attack = pytest.mark.parametrize("attack", TRAITS)


def slow_marked(names: Iterable[str]) -> list[ParameterSet]:
    """Returns the attacks as parameters of a test; those that take hundreds of passes are marked slow."""
    return [pytest.param(name, marks=pytest.mark.slow if TRAITS[name].slow else ()) for name in names]


def traits_of(name: str) -> Traits:
    """Returns the traits of the attack, or of the attack in `TRAITS` that shares its builder."""
    return next(
        traits for other, traits in (TRAITS | OTHER_TRAITS).items() if ATTACKS[other].build is ATTACKS[name].build
    )


def build(
    name: str, eps: float = EPS, objective: Objective | None = None, steps: int | None = None
) -> EvaluationAttack:
    """Builds the attack with few steps and, by default, the task's objective.

    An eps of 8/255 stands for the eps in `TRAITS`. Other values except 0 are for bounded attacks only.
    """
    traits = traits_of(name)
    if eps == EPS:
        eps = traits.eps
    objective = objective or SINGLE_LABEL.attacks.get(name, cross_entropy)
    return ATTACKS[name].build(Budget(eps, traits.steps if steps is None else steps, step_size=eps / 4), objective)


def within_eps(name: str, x_adv: Tensor, x: Tensor) -> bool:
    """Returns whether x_adv is within eps of x; true for attacks that are not bounded."""
    return not ATTACKS[name].bounded or bool((x_adv - x).abs().max() <= EPS + SLACK)


def is_steady(name: str) -> bool:
    """Returns whether rounding changes only few pixels of x_adv, because the attack never compares losses.

    For other attacks, tests compare only the number of successes.
    """
    return isinstance(build(name), SignAscent | SegPGD | MomentumAscent)


def success(model: nn.Module, x_adv: Tensor, y: Tensor) -> int:
    """Returns the number of misclassified images."""
    return int((~right(model, x_adv, y)).sum())


def predictions(model: nn.Module, x: Tensor) -> Tensor:
    """Returns the classes (B,) that the model predicts in eval mode."""
    with torch.no_grad(), frozen_eval(model):
        return model(x).argmax(dim=1)
