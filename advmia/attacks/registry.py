"""The registry of attacks: how each is built, with which budget the survey evaluates it, and what it is.

A new attack needs a module in this folder and an entry in `ATTACKS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from advmia.attacks.auto_attack import autoattack
from advmia.attacks.auto_pgd import apgd, apgd_ce, apgd_t
from advmia.attacks.common import EvaluationAttack, Objective
from advmia.attacks.fab import fab_t
from advmia.attacks.findings import pgd_finding
from advmia.attacks.gradient import cw, fgsm, pgd
from advmia.attacks.mask_attacks import segpgd
from advmia.attacks.mask_ensemble import sea
from advmia.attacks.mask_losses import cospgd_loss
from advmia.attacks.momentum import dimifgsm, mifgsm
from advmia.attacks.simba_dct import simba
from advmia.attacks.square_attack import square
from advmia.attacks.square_memory import SquareMemory
from advmia.budgets import (
    Budget,
    auto_budget,
    cw_budget,
    fgsm_budget,
    momentum_budget,
    pgd_budget,
    sea_budget,
    simba_budget,
    square_budget,
)
from advmia.losses import (
    binary_cross_entropy,
    confident_margin,
    cross_entropy,
    label_margin,
    pixel_cross_entropy,
    soft_dice,
)
from advmia.targets import TaskName

Objectives = Mapping[TaskName, Objective]  # the tasks that an attack works for, and the loss that it ascends there
_TASK_LOSSES: Objectives = {
    "single-label": cross_entropy,
    "multi-label": binary_cross_entropy,
    "segmentation": pixel_cross_entropy,
}
_CLASSES: Objectives = {"single-label": cross_entropy}  # AutoAttack, its parts and SimBA have losses of their own too
_MARGINS: Objectives = {"multi-label": label_margin}
_DICE: Objectives = {"segmentation": soft_dice}
_MASKS: Objectives = {"segmentation": pixel_cross_entropy}


@dataclass(frozen=True)
class AttackSpec:
    """One attack of the evaluation: how it is built, its standard budget, and its traits.

    Every other module reads the traits from here.
    """

    build: Callable[[Budget, Objective], EvaluationAttack]
    budget: Callable[[float], Budget]  # the survey's setting for an eps in grey levels
    phrase: str  # the attack's line in --help
    objectives: Objectives
    uses_gradients: bool = True  # False: it uses the network's outputs only
    bounded: bool = True  # False: eps is the size of a step, and adversarial images may be further away than eps
    # Starts at a random point, and its loss says which start is worse, so that --restarts can run it from several.
    restartable: bool = False
    early_stopping: bool = False  # leaves an image alone once it is misclassified; the built attack has the same value
    streams: str | None = None  # the attack whose random streams it shares; None: it has streams of its own


# In the order of the tables.
ATTACKS: dict[str, AttackSpec] = {
    "fgsm": AttackSpec(fgsm, fgsm_budget, "one step of size eps up the training loss", _CLASSES),
    "pgd": AttackSpec(pgd, pgd_budget, "20 steps up the training loss", _TASK_LOSSES, restartable=True),
    "pgd-margin": AttackSpec(
        pgd, pgd_budget, "PGD that lowers the labels' margins instead of raising the loss", _MARGINS, restartable=True
    ),
    "pgd-dice": AttackSpec(pgd, pgd_budget, "PGD up the soft Dice loss", _DICE, restartable=True),
    "cw": AttackSpec(
        cw,
        cw_budget,
        "30 steps down the margin of the true class's logit",
        {"single-label": confident_margin},
        restartable=True,
    ),
    "aa": AttackSpec(
        autoattack,
        auto_budget,
        "AutoAttack: apgd-ce, apgd-t, fab-t and square in turn",
        _CLASSES,
        early_stopping=True,
    ),
    "apgd-ce": AttackSpec(
        apgd_ce,
        auto_budget,
        "Auto-PGD (PGD that adapts its step size), 100 steps up the cross-entropy",
        _CLASSES,
        early_stopping=True,
    ),
    "apgd-t": AttackSpec(
        apgd_t, auto_budget, "Auto-PGD towards each of the other classes, at most 9", _CLASSES, early_stopping=True
    ),
    "fab-t": AttackSpec(
        fab_t,
        auto_budget,
        "FAB, which looks for the nearest boundary to each of the same classes",
        _CLASSES,
        early_stopping=True,
    ),
    "square": AttackSpec(
        square,
        square_budget,
        "Square, 5,000 random squares, without gradients",
        _CLASSES,
        uses_gradients=False,
        early_stopping=True,
        streams="aa",
    ),
    "simba": AttackSpec(
        simba,
        simba_budget,
        "SimBA, 5,000 random DCT directions, without gradients; eps is a step, not a bound",
        _CLASSES,
        uses_gradients=False,
        bounded=False,
        early_stopping=True,
    ),
    "apgd": AttackSpec(
        apgd,
        auto_budget,
        "Auto-PGD (PGD that adapts its step size), 100 steps up the training loss",
        {task: loss for task, loss in _TASK_LOSSES.items() if task != "single-label"},
    ),
    "apgd-margin": AttackSpec(
        apgd, auto_budget, "Auto-PGD that lowers the labels' margins instead of raising the loss", _MARGINS
    ),
    "apgd-dice": AttackSpec(apgd, auto_budget, "Auto-PGD up the soft Dice loss", _DICE),
    "pgd-finding": AttackSpec(
        pgd_finding,
        pgd_budget,
        "PGD against each finding by itself, which lowers its rank; takes as many times as long as pgd as there are"
        " findings",
        _MARGINS,
    ),
    "segpgd": AttackSpec(
        segpgd, pgd_budget, "SegPGD: PGD that first attacks right pixels, and later wrong ones too", _MASKS
    ),
    "cospgd": AttackSpec(
        pgd,
        pgd_budget,
        "CosPGD: PGD that attacks pixels the more, the more they are right",
        {"segmentation": cospgd_loss},
    ),
    "sea": AttackSpec(
        sea,
        sea_budget,
        "SEA: four runs of Auto-PGD of 300 steps up losses for masks, the worst image by image; takes 60 times as long"
        " as pgd",
        _MASKS,
    ),
    "mifgsm": AttackSpec(
        mifgsm, momentum_budget, "MI-FGSM, for transfer: 10 steps with momentum up the training loss", _TASK_LOSSES
    ),
    "dimifgsm": AttackSpec(
        dimifgsm,
        momentum_budget,
        "MI-FGSM, for transfer, half of whose steps see a shrunk and padded image",
        _TASK_LOSSES,
    ),
}


def stream_scope(seed: int, name: str, grey_eps: float) -> tuple[object, ...]:
    """Returns the purpose by which the random streams of an attack are told apart (`SampleRng.of`)."""
    return seed, ATTACKS[name].streams or name, grey_eps


def square_memory(names: Iterable[str]) -> SquareMemory | None:
    """Returns where attacks of these names share what Square finds (`remembering`); None if they share nothing."""
    used = set(names)
    return SquareMemory() if any(ATTACKS[name].streams in used for name in used) else None


def attacks_on(task: TaskName) -> dict[str, Objective]:
    """Returns the attacks that work for a task: name to the loss of each sample that it ascends."""
    return {name: spec.objectives[task] for name, spec in ATTACKS.items() if task in spec.objectives}
