"""FGSM, PGD and TRADES' ascent against torchattacks and foolbox, whose faults ours must not have."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advmia.attacks.gradient import fgsm, pgd
from advmia.attacks.momentum import dimifgsm, mifgsm
from advmia.budgets import Budget, momentum_budget
from advmia.errors import UserError
from advmia.losses import cross_entropy, kl_divergence
from advmia.runtime.rng import SampleRng
from advmia.training.methods import divergence_ascent
from tests.support.networks import (
    Snapshot,
    StubRng,
    Wrapped,
    network,
    pixels,
    right,
    share_equal,
    streams,
    trained,
    unsettle,
)

torchattacks = pytest.importorskip("torchattacks")
foolbox = pytest.importorskip("foolbox")

IMAGES = 16

classes = pytest.mark.parametrize("classes", [2, 3, 4])
GREY_EPS = (1, 4, 8)
LAYOUTS = (torch.contiguous_format, torch.channels_last)


def foolbox_example(attack: Any, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Returns a foolbox attack's images, also those that do not mislead the network."""
    raw, _, _ = attack(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=eps)
    return raw


def assert_loss_rises(model: nn.Module, x_adv: Tensor, x: Tensor, y: Tensor) -> None:
    """Checks that the attack has an effect: two attacks that do nothing agree as well."""
    assert not torch.equal(x_adv, x)
    with torch.no_grad():
        assert cross_entropy(model(x_adv), y).mean() > cross_entropy(model(x), y).mean()


# --- agreement -------------------------------------------------------------------------------------------------------


@classes
def test_fgsm_is_that_of_the_peers(classes: int) -> None:
    """Fails if a gradient, its sign, the step or a clamp differs in one bit."""
    model = trained(classes)
    for layout, grey_eps in itertools.product(LAYOUTS, GREY_EPS):
        x, y = pixels(IMAGES, classes=classes, memory_format=layout)
        budget = Budget.grey(grey_eps, 1, grey_eps)
        x_adv = fgsm(budget, cross_entropy)(model, x, y, rng=streams(IMAGES))
        assert_loss_rises(model, x_adv, x, y)
        assert torch.equal(x_adv, torchattacks.FGSM(model, eps=budget.eps)(x, y))
        assert torch.equal(x_adv, foolbox_example(foolbox.attacks.LinfFastGradientAttack(), model, x, y, budget.eps))


@classes
def test_pgd_without_random_start_is_that_of_the_peers(classes: int) -> None:
    """Fails if one of several steps differs in one bit, or the projection is not around x."""
    model = trained(classes)
    for layout, grey_eps, steps in itertools.product(LAYOUTS, GREY_EPS, (1, 10)):
        x, y = pixels(IMAGES, classes=classes, memory_format=layout)
        budget = Budget.grey(grey_eps, steps, max(0.5, grey_eps / 4))
        x_adv = pgd(budget, cross_entropy, random_start=False)(model, x, y, rng=streams(IMAGES))
        assert_loss_rises(model, x_adv, x, y)
        settings = {"steps": steps, "random_start": False}
        x_theirs = torchattacks.PGD(model, eps=budget.eps, alpha=budget.step_size, **settings)(x, y)
        assert torch.equal(x_adv, x_theirs)
        attack = foolbox.attacks.LinfProjectedGradientDescentAttack(abs_stepsize=budget.step_size, **settings)
        assert torch.equal(x_adv, foolbox_example(attack, model, x, y, budget.eps))


@pytest.mark.parametrize("name", ["res18-normalized", "mv2"])
def test_deep_networks(name: str) -> None:
    """Fails if freezing the parameters changes the arithmetic by more than rounding."""
    model = network(name).eval()
    x, y = pixels(4)
    budget = Budget.grey(8, 3, 2)
    x_adv = pgd(budget, cross_entropy, random_start=False)(model, x, y, rng=streams(4))
    theirs = torchattacks.PGD(model, eps=budget.eps, alpha=budget.step_size, steps=3, random_start=False)(x, y)
    assert share_equal(x_adv, theirs) > 0.999  # MKL-DNN may choose another algorithm where weights need no gradient


@classes
def test_pgd_from_the_same_random_start(classes: int) -> None:
    """Fails if the random start has another range than +-eps, or is not clamped to [0, 1].

    With the same noise the two starts differ by rounding errors, which may change the sign of a vanishing gradient.
    """
    model = trained(classes)
    x, y = pixels(IMAGES, classes=classes)
    for grey_eps in GREY_EPS:
        budget = Budget.grey(grey_eps, 10, max(0.5, grey_eps / 4))
        torch.manual_seed(5)
        noise = torch.empty_like(x).uniform_(-budget.eps, budget.eps)
        rng = StubRng((noise + budget.eps) / (2 * budget.eps))
        x_adv = pgd(budget, cross_entropy)(model, x, y, rng=rng)
        torch.manual_seed(5)
        theirs = torchattacks.PGD(model, eps=budget.eps, alpha=budget.step_size, steps=10, random_start=True)(x, y)
        assert rng.draws == ["uniform"]
        assert share_equal(x_adv, theirs) > 0.998

        start = pgd(Budget(budget.eps, 0, 0.0), cross_entropy)(model, x, y, rng=rng)
        torch.manual_seed(5)
        their_start = torchattacks.PGD(model, eps=budget.eps, steps=0, random_start=True)(x, y)
        torch.testing.assert_close(start, their_start, rtol=0, atol=1e-6)


class SharedDraws(StubRng):
    """The draws of torchattacks' input diversity, which are the same for every image of a batch."""

    def __init__(self, draws: Sequence[tuple[float, ...]]) -> None:
        super().__init__(torch.empty(0))
        self.steps = torch.tensor(draws)

    def uniform(self, like: Tensor) -> Tensor:
        return self.steps.expand_as(like)


@classes
def test_mifgsm_is_that_of_the_peer(classes: int) -> None:
    """Fails if the momentum, its weight, the norm of a gradient or a step differs from the paper's."""
    model = trained(classes)
    for grey_eps in GREY_EPS:
        x, y = pixels(IMAGES, classes=classes)
        budget = momentum_budget(grey_eps)
        x_adv = mifgsm(budget, cross_entropy)(model, x, y, rng=streams(IMAGES))
        assert_loss_rises(model, x_adv, x, y)
        theirs = torchattacks.MIFGSM(model, eps=budget.eps, alpha=budget.step_size, steps=10)(x, y)
        assert share_equal(x_adv, theirs) > 0.9999  # the means of 768 values are rounded differently


@classes
def test_dimifgsm_is_that_of_the_peer(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if sizes, places or the share of transformed images differ, or a gradient is not that of the transform."""
    model, drawn = trained(classes), list[float]()
    x, y = pixels(IMAGES, classes=classes)
    randint, rand = torch.randint, torch.rand

    def integer(low: int, high: int, **kwargs: Any) -> Tensor:
        value = randint(low, high, **kwargs)
        drawn.append((float(value) - low + 0.5) / (high - low))
        return value

    def chance(size: int) -> Tensor:
        value = rand(size)
        drawn.append(float(value))
        return value

    for grey_eps in GREY_EPS:
        budget = momentum_budget(grey_eps)
        torch.manual_seed(grey_eps)
        drawn.clear()
        with monkeypatch.context() as patch:
            patch.setattr(torch, "randint", integer)
            patch.setattr(torch, "rand", chance)
            attack = torchattacks.DIFGSM(model, eps=budget.eps, alpha=budget.step_size, steps=10, decay=1.0)
            theirs = attack(x, y)
        steps = [drawn[start : start + 4] for start in range(0, 40, 4)]
        draws = [(share, size, down, across) for size, down, across, share in steps]
        assert 0 < sum(share < 0.5 for share, *_ in draws) < 10
        x_adv = dimifgsm(budget, cross_entropy)(model, x, y, rng=SharedDraws(draws))
        assert_loss_rises(model, x_adv, x, y)
        assert share_equal(x_adv, theirs) > 0.999


@classes
def test_the_ascent_of_trades_and_hat(classes: int) -> None:
    """Fails if the two arguments of the divergence are swapped, or the start's noise is not 0.001 times normal."""
    model = trained(classes)
    x, y = pixels(IMAGES, classes=classes)
    for grey_eps in GREY_EPS:
        budget = Budget.grey(grey_eps, 10, max(0.5, grey_eps / 4))
        torch.manual_seed(5)
        rng = StubRng(torch.randn_like(x))
        x_adv = divergence_ascent(model, x, kl_divergence, budget, rng)
        torch.manual_seed(5)
        theirs = torchattacks.TPGD(model, eps=budget.eps, alpha=budget.step_size, steps=10)(x, y)
        assert rng.draws == ["normal"]
        assert share_equal(x_adv, theirs) > 0.99


# --- faults of the peers that ours must not share --------------------------------------------------------------------


def test_batch_norm_in_eval_mode() -> None:
    """Fails if a batch norm in eval mode is put into train mode with the rest of the network, as by torchattacks."""
    model = unsettle(network("small"))
    before = Snapshot.of(model)
    x, y = pixels(4)

    theirs = copy.deepcopy(model)
    torchattacks.PGD(theirs, eps=8 / 255, alpha=2 / 255, steps=2)(x, y)
    assert all(module.training for module in theirs.modules())

    pgd(Budget.grey(8, 2, 2), cross_entropy)(model, x, y, rng=streams(4))
    assert not all(module.training for module in model.modules())
    before.assert_same(model)


def test_failure_in_the_middle() -> None:
    """Fails if the network stays in eval mode after an attack that raises, as with torchattacks."""

    def fail(logits: Tensor) -> Tensor:
        raise RuntimeError("out of memory")

    model = Wrapped(network("small"), fail).train()
    before = Snapshot.of(model)
    x, y = pixels(2)
    theirs = copy.deepcopy(model)
    with pytest.raises(RuntimeError, match="out of memory"):
        torchattacks.FGSM(theirs, eps=8 / 255)(x, y)
    assert not theirs.training

    with pytest.raises(RuntimeError, match="out of memory"):
        fgsm(Budget.grey(8, 1, 8), cross_entropy)(model, x, y, rng=streams(2))
    before.assert_same(model)


def test_eps_in_grey_levels() -> None:
    """Fails if eps 8 is accepted for pixels in [0, 1]: torchattacks then returns nothing but noise."""
    model = trained()
    x, y = pixels(4)
    assert (torchattacks.FGSM(model, eps=8)(x, y) - x).abs().max() > 0.5
    with pytest.raises(UserError, match=r"write 8 / 255"):
        Budget(8, 1, 8)


def test_the_same_images_in_other_batches() -> None:
    """Fails if the order of the images changes their noise, as with torchattacks, which draws it for the batch."""
    model = trained()
    x, y = pixels(8)
    attack = torchattacks.PGD(model, eps=8 / 255, alpha=1 / 255, steps=2)
    shuffled = torch.arange(7, -1, -1)

    torch.manual_seed(0)
    theirs = attack(x, y)
    torch.manual_seed(0)
    assert share_equal(attack(x[shuffled], y[shuffled])[shuffled], theirs) < 0.5

    ours = pgd(Budget.grey(8, 2, 1), cross_entropy)
    expected = ours(model, x, y, rng=streams(8))
    rng = SampleRng.of(samples=shuffled.tolist())
    assert share_equal(ours(model, x[shuffled], y[shuffled], rng=rng)[shuffled], expected) > 0.99
    assert not right(model, expected, y).all()
