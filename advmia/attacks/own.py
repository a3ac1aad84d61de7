"""Attacks on a network of your own, from Python. They find what the scripts find for the same images, eps and seed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from advmia.attacks.common import Attack, runs_of
from advmia.attacks.inference import Blocks, inference_copy
from advmia.attacks.registry import ATTACKS, stream_scope
from advmia.attacks.restarts import with_restarts
from advmia.budgets import (
    AUTO_STEPS,
    CW_STEPS,
    EVALUATION_STEPS,
    MOMENTUM_STEPS,
    QUERIES,
    SEA_STEPS,
    Budget,
    cw_budget,
    pgd_budget,
)
from advmia.errors import UserError
from advmia.runtime.rng import SampleRng
from advmia.targets import check_pixels, task_of_targets


@dataclass(frozen=True)
class OwnAttack:
    """An attack with its budget, to be called with a network, images and targets."""

    name: str  # in `ATTACKS`
    budget: Budget
    restarts: int = 1  # random starts, of which the worst is kept image by image
    finding: int | None = None  # of pgd-finding: which finding is attacked

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, seed: int = 0, first: int = 0) -> Tensor:
        """Returns adversarial images x_adv, of the shape, type and device of x, detached, in [0, 1].

        Except for SimBA's, they are within eps of x. An image's x_adv does not depend on the other images of the batch.
        Neither the network nor x is changed: weights, gradients, the mode of every layer and running statistics stay.

        Args:
            model: takes images (B, C, H, W) in [0, 1] and returns logits, (B, K), or (B, K, H, W) for masks.
            x: images (B, C, H, W), floats in [0, 1].
            y: classes (B,), findings (B, L) of 0 and 1, or masks (B, H, W) of classes.
            seed: of the random numbers.
            first: the number of the batch's first image in its data set: each image has random numbers of its own.

        Raises `UserError` if x or y is something else, or if the attack is not for such targets.
        """
        check_pixels(x)
        task, objectives = task_of_targets(y), ATTACKS[self.name].objectives
        if task not in objectives:
            raise UserError(f"{self.name} is for {' and '.join(objectives)}: these targets are for {task}")
        attack = with_restarts(ATTACKS[self.name].build(self.budget, objectives[task]), objectives[task], self.restarts)
        samples = range(first, first + len(x))
        scope = stream_scope(seed, self.name, self.budget.grey_eps)
        rng = SampleRng.of(*scope, samples=samples, device=x.device)
        run: Attack = attack
        if self.finding is not None:
            if not 0 <= self.finding < y.shape[1]:
                raise UserError(f"finding {self.finding}: expected 0 to {y.shape[1] - 1}, as there are {y.shape[1]}")
            run = runs_of(attack, y)[self.finding]
        return run(Blocks(inference_copy(model, x), len(x)), x, y, rng=rng)


def fgsm(eps: float) -> OwnAttack:
    """Returns FGSM: one step of size eps. `eps`: in pixels of [0, 1], as in all these functions: 8 / 255, not 8."""
    return OwnAttack("fgsm", Budget(eps, 1, eps))


def pgd(eps: float, steps: int = EVALUATION_STEPS, step_size: float | None = None, *, restarts: int = 1) -> OwnAttack:
    """Returns PGD with a random start. `step_size`: by default max(0.5 / 255, eps / 4), as in the survey.

    `restarts`: number of random starts; each image keeps the first that fools the network (findings and masks: the one
    with the highest loss).
    """
    budget = pgd_budget(Budget(eps, 0, 0).grey_eps)
    return OwnAttack("pgd", Budget(eps, steps, budget.step_size if step_size is None else step_size), restarts)


def pgd_finding(eps: float, finding: int, steps: int = EVALUATION_STEPS, step_size: float | None = None) -> OwnAttack:
    """Returns PGD against one finding, counted from 0: its logit falls where it is present, and rises elsewhere."""
    return replace(pgd(eps, steps, step_size), name="pgd-finding", finding=finding)


def segpgd(eps: float, steps: int = EVALUATION_STEPS, step_size: float | None = None) -> OwnAttack:
    """Returns SegPGD, for masks. `step_size`: as for `pgd`."""
    return replace(pgd(eps, steps, step_size), name="segpgd")


def cospgd(eps: float, steps: int = EVALUATION_STEPS, step_size: float | None = None) -> OwnAttack:
    """Returns CosPGD, for masks. `step_size`: as for `pgd`."""
    return replace(pgd(eps, steps, step_size), name="cospgd")


def sea(eps: float, steps: int = SEA_STEPS) -> OwnAttack:
    """Returns SEA, for masks: four runs of Auto-PGD, and of each image the worst."""
    return OwnAttack("sea", Budget(eps, steps, 0))


def cw(eps: float, steps: int = CW_STEPS, step_size: float | None = None, *, restarts: int = 1) -> OwnAttack:
    """Returns CW: PGD down the margin. `step_size`: by default 0.0015, or 0.003 for an eps above 2 / 255.

    `restarts`: as for `pgd`.
    """
    budget = cw_budget(Budget(eps, 0, 0).grey_eps)
    return OwnAttack("cw", Budget(eps, steps, budget.step_size if step_size is None else step_size), restarts)


def apgd_ce(eps: float, steps: int = AUTO_STEPS) -> OwnAttack:
    """Returns Auto-PGD up the cross-entropy."""
    return OwnAttack("apgd-ce", Budget(eps, steps, 0))


def apgd_t(eps: float, steps: int = AUTO_STEPS) -> OwnAttack:
    """Returns Auto-PGD towards each of the other classes, at most 9."""
    return OwnAttack("apgd-t", Budget(eps, steps, 0))


def fab_t(eps: float, steps: int = AUTO_STEPS) -> OwnAttack:
    """Returns FAB towards the same classes as `apgd_t`."""
    return OwnAttack("fab-t", Budget(eps, steps, 0))


def square(eps: float, queries: int = QUERIES) -> OwnAttack:
    """Returns Square, which needs no gradients."""
    return OwnAttack("square", Budget(eps, queries, 0))


def autoattack(eps: float) -> OwnAttack:
    """Returns AutoAttack: apgd-ce, apgd-t, fab-t and square in turn, each on the images still classified correctly."""
    return OwnAttack("aa", Budget(eps, AUTO_STEPS, 0))


def simba(eps: float, directions: int = QUERIES) -> OwnAttack:
    """Returns SimBA. `eps`: the size of a step; adversarial images may be further away."""
    return OwnAttack("simba", Budget(eps, directions, eps))


def mifgsm(eps: float, steps: int = MOMENTUM_STEPS) -> OwnAttack:
    """Returns MI-FGSM, for transfer: `steps` steps of eps / `steps`, with momentum."""
    return OwnAttack("mifgsm", Budget(eps, steps, eps / max(steps, 1)))


def dimifgsm(eps: float, steps: int = MOMENTUM_STEPS) -> OwnAttack:
    """Returns MI-FGSM with input diversity, for transfer."""
    return replace(mifgsm(eps, steps), name="dimifgsm")


def attack_named(name: str, eps: float) -> OwnAttack:
    """Returns an attack of `ATTACKS` with the budget that the survey evaluates it with. Raises `UserError`."""
    if name not in ATTACKS:
        raise UserError(f"unknown attack {name!r}: choose from {', '.join(ATTACKS)}")
    return OwnAttack(name, ATTACKS[name].budget(Budget(eps, 0, 0).grey_eps))
