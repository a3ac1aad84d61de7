"""MPAdvT and MAAdvT, which draw the budget of each batch's attack, against plain implementations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from advmia.attacks.common import Objective
from advmia.budgets import Budget, training_budget
from advmia.losses import cross_entropy
from advmia.runtime.rng import SampleRng
from advmia.training.methods import MAAdvT, MPAdvT
from tests.support.formulas import plain_ascent, plain_ce, plain_mart
from tests.support.networks import StubRng, share_equal
from tests.training.stage import BUDGET, EPS, IMAGES, Stage


@pytest.fixture(autouse=True)
def attacks_run_on_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets attacks run on the network itself: these tests record its passes. test_inference.py tests the copy."""
    monkeypatch.setattr("advmia.training.methods.inference_copy", lambda model, x, **_: model)


@pytest.mark.parametrize(
    ("coin", "eps_draw", "steps_draw", "eps", "steps"), [(0.5, 0.0, 0.0, 0.25, 1), (0.99, 0.6, 0.4, 0.7, 4)], ids=str
)
def test_mpadvt(coin: float, eps_draw: float, steps_draw: float, eps: float, steps: int) -> None:
    """Fails if eps or the number of steps is drawn from another range, or the loss is not that of PGD examples only."""
    noise = torch.rand(IMAGES, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    rng = StubRng(noise, [coin, eps_draw, steps_draw])
    stage = Stage(MPAdvT(cross_entropy, training_budget(8, "mpadvt")), rng=rng)
    x, y = stage.x, stage.y
    start = (x + eps * EPS * (2 * noise - 1)).clamp(0, 1)
    x_adv = plain_ascent(stage.original, x, start, lambda z: plain_ce(z, y).sum(), eps * EPS, steps, 1 / 255)
    assert rng.draws == ["uniform"] and rng.shared == [] and len(stage.in_eval) == steps
    assert share_equal(stage.in_train[0], x_adv) > 0.995
    stage.assert_loss_is(plain_ce(stage.logits()[0], y).sum() / IMAGES)


def test_mpadvt_on_a_clean_batch() -> None:
    """Fails if a batch that the coin leaves clean is attacked all the same."""
    stage = Stage(MPAdvT(cross_entropy, BUDGET), rng=StubRng(torch.zeros(1), [0.49]))
    assert stage.in_eval == [] and torch.equal(stage.in_train[0], stage.x)
    stage.assert_loss_is(plain_ce(stage.logits()[0], stage.y).sum() / IMAGES)


def test_what_mpadvt_draws() -> None:
    """Fails if a draw has another range or is not uniform, or the draws of a batch depend on each other."""
    budgets: list[Budget | None] = []

    def attack(budget: Budget, objective: Objective) -> Callable[..., Tensor]:
        budgets.append(budget)
        return lambda model, x, y, rng: x

    method = MPAdvT(cross_entropy, training_budget(10.2, "mpadvt"), attack)
    x, y = torch.zeros(1, 3), torch.zeros(1).long()
    for batch in range(2000):
        attacked = len(budgets)
        method(nn.Identity(), x, y, rng=SampleRng.of(0, samples=[0], batch=batch))
        budgets += [None] * (len(budgets) == attacked)
    drawn = [budget for budget in budgets if budget is not None]
    assert 0.46 < len(drawn) / 2000 < 0.54
    assert [budget is None for budget in budgets[1:]] != [budget is None for budget in budgets[:-1]]
    eps, steps = torch.tensor([budget.eps for budget in drawn]), torch.tensor([budget.steps for budget in drawn])
    assert 0.01 <= eps.min() < 0.0105 and 0.0395 < eps.max() < 0.04  # the range of the authors' code
    quartiles = torch.histc(eps, 4, 0.01, 0.04) / len(drawn)
    shares = torch.bincount(steps, minlength=10) / len(drawn)
    assert (quartiles - 1 / 4).abs().max() < 0.05
    assert len(shares) == 10 and shares[0] == 0 and (shares[1:] - 1 / 9).abs().max() < 0.04
    assert abs(torch.corrcoef(torch.stack([eps, steps]))[0, 1]) < 0.1
    assert {budget.step_size for budget in drawn} == {1 / 255}


@pytest.mark.parametrize(("draw", "steps"), [(0.0, 1), (0.5, 5), (0.999, 9)])
def test_maadvt(draw: float, steps: int) -> None:
    """Fails if it is not MART after the steps that were drawn, of which there are 1 to 9 of 0.007 at eps 4/255."""
    noise = torch.randn(IMAGES, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    rng = StubRng(noise, [draw])
    stage = Stage(MAAdvT(training_budget(4, "maadvt"), 6.0), rng=rng)
    x, y = stage.x, stage.y
    start = (x + 0.001 * noise).clamp(0, 1)
    x_adv = plain_ascent(stage.original, x, start, lambda z: plain_ce(z, y).sum(), 4 / 255, steps, 0.007)
    assert rng.draws == ["normal"] and rng.shared == [] and len(stage.in_eval) == steps
    assert share_equal(stage.in_train[1], x_adv) > 0.995
    logits, logits_adv = stage.logits()
    stage.assert_loss_is(plain_mart(logits, logits_adv, y, 6.0))
