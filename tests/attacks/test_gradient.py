"""FGSM and PGD: their steps, starts and budgets, on linear networks whose best perturbation is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from advmia.attacks import ATTACKS
from advmia.attacks.gradient import fgsm, pgd
from advmia.budgets import Budget, fgsm_budget, pgd_budget
from advmia.losses import cross_entropy
from tests.support.attacks import EPS, SLACK, build
from tests.support.networks import LinearNet, StubRng, pixels, record_calls, share_equal, streams, trained


@pytest.mark.parametrize("random_start", [False, True], ids=["from x", "random start"])
def test_pgd_finds_the_optimum_of_a_linear_network(random_start: bool) -> None:
    """Fails if the sign, the step, the projection or the number of steps is wrong: 4 steps of eps / 2 reach a corner.

    With two classes the loss rises along w_other - w_y everywhere, so the best x_adv is x + eps * sign(w_other - w_y).
    """
    x, y = pixels(8, classes=2)
    model = LinearNet(2, 16)
    with torch.no_grad():
        model.weight.div_(100)  # so that no gradient vanishes
    budget = Budget(EPS, steps=4, step_size=EPS / 2)
    x_adv = pgd(budget, cross_entropy, random_start=random_start)(model, x, y, rng=streams(8))
    direction = (model.weight[1 - y] - model.weight[y]).view_as(x).sign()
    torch.testing.assert_close(x_adv, (x + EPS * direction).clamp(0, 1), rtol=0, atol=SLACK)


@pytest.mark.parametrize("steps", [1, 3])
def test_steps_and_step_size_are_the_budgets(steps: int) -> None:
    """Fails if the number of steps or their size is not the budget's."""
    x, y = pixels(4, classes=2)
    x = x.clamp(0.1, 0.9)
    model = LinearNet(2, 16)
    with torch.no_grad():
        model.weight.div_(100)
    calls = record_calls(model)
    x_adv = pgd(Budget(EPS, steps, step_size=1 / 255), cross_entropy, random_start=False)(model, x, y, rng=streams(4))
    assert len(calls) == steps
    torch.testing.assert_close((x_adv - x).abs(), torch.full_like(x, steps / 255), rtol=0, atol=SLACK)


def test_fgsm_takes_one_step_of_eps_from_x() -> None:
    """Fails if FGSM has a random start, for which it would draw noise, or takes the budget's step size."""
    x, y = pixels(4, classes=2)
    model = LinearNet(2, 16)
    with torch.no_grad():
        model.weight.div_(100)
    rng = StubRng(torch.ones(()))
    calls = record_calls(model)
    x_adv = fgsm(Budget(EPS, steps=20, step_size=EPS / 8), cross_entropy)(model, x, y, rng=rng)
    direction = (model.weight[1 - y] - model.weight[y]).view_as(x).sign()
    assert rng.draws == []
    assert len(calls) == 1 and torch.equal(calls[0].x, x)
    torch.testing.assert_close(x_adv, (x + EPS * direction).clamp(0, 1), rtol=0, atol=SLACK)


def test_the_seed_decides_where_pgd_starts() -> None:
    """Fails if PGD's random start ignores its random streams, or FGSM uses them."""
    model = trained()
    x, y = pixels(8)

    def attacked(attack: str, seed: int) -> Tensor:
        return build(attack)(model, x, y, rng=streams(8, seed))

    assert torch.equal(attacked("pgd", 0), attacked("pgd", 0))
    assert share_equal(attacked("pgd", 0), attacked("pgd", 1)) < 0.5
    assert torch.equal(attacked("fgsm", 0), attacked("fgsm", 1))


def test_the_surveys_settings() -> None:
    """Fails if FGSM or PGD has another budget than the survey's, whose numbers test_budgets.py checks."""
    assert ATTACKS["pgd"].budget is pgd_budget
    assert ATTACKS["fgsm"].budget is fgsm_budget
