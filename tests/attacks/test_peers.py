"""FGSM, PGD and TRADES' ascent against torchattacks and foolbox; and where the peers are wrong, that ours is not.

The peers are for tests only (requirements-test.txt).
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from advmia.attacks.gradient import fgsm, pgd
from advmia.budgets import Budget
from advmia.errors import UserError
from advmia.losses import cross_entropy
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
grey_eps = pytest.mark.parametrize("eps", [1, 4, 8])
layouts = pytest.mark.parametrize(
    "layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels-last"]
)


def foolbox_example(attack: object, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """What a foolbox attack makes, misled or not."""
    raw, _, _ = attack(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=eps)
    return raw


def assert_some_are_misled(model: nn.Module, x_adv: Tensor, x: Tensor, y: Tensor) -> None:
    """Two attacks that do nothing agree as well."""
    assert not torch.equal(x_adv, x)
    with torch.no_grad():
        assert cross_entropy(model(x_adv), y).mean() > cross_entropy(model(x), y).mean()


# --- agreement -------------------------------------------------------------------------------------------------------


@classes
@grey_eps
@layouts
def test_fgsm_is_that_of_the_peers(classes: int, eps: int, layout: torch.memory_format) -> None:
    """Fails if a gradient, its sign, the step or a clamp differs in one bit."""
    model = trained(classes)
    x, y = pixels(IMAGES, classes=classes, memory_format=layout)
    budget = Budget.grey(eps, 1, eps)
    x_adv = fgsm(budget, cross_entropy)(model, x, y, rng=streams(IMAGES))
    assert_some_are_misled(model, x_adv, x, y)
    assert torch.equal(x_adv, torchattacks.FGSM(model, eps=budget.eps)(x, y))
    assert torch.equal(x_adv, foolbox_example(foolbox.attacks.LinfFastGradientAttack(), model, x, y, budget.eps))


@classes
@grey_eps
@layouts
@pytest.mark.parametrize("steps", [1, 10])
def test_pgd_without_random_start_is_that_of_the_peers(
    classes: int, eps: int, layout: torch.memory_format, steps: int
) -> None:
    """As above, over several steps: fails too when the projection is about another point than x."""
    model = trained(classes)
    x, y = pixels(IMAGES, classes=classes, memory_format=layout)
    budget = Budget.grey(eps, steps, max(0.5, eps / 4))
    x_adv = pgd(budget, cross_entropy, random_start=False)(model, x, y, rng=streams(IMAGES))
    assert_some_are_misled(model, x_adv, x, y)
    settings = {"steps": steps, "random_start": False}
    theirs = torchattacks.PGD(model, eps=budget.eps, alpha=budget.step_size, **settings)(x, y)
    assert torch.equal(x_adv, theirs)
    attack = foolbox.attacks.LinfProjectedGradientDescentAttack(abs_stepsize=budget.step_size, **settings)
    assert torch.equal(x_adv, foolbox_example(attack, model, x, y, budget.eps))


@pytest.mark.parametrize("name", ["res18-normalized", "mv2"])
def test_deep_networks(name: str) -> None:
    """Fails if freezing the parameters changes which arithmetic is done."""
    model = network(name).eval()
    x, y = pixels(4)
    budget = Budget.grey(8, 3, 2)
    x_adv = pgd(budget, cross_entropy, random_start=False)(model, x, y, rng=streams(4))
    theirs = torchattacks.PGD(model, eps=budget.eps, alpha=budget.step_size, steps=3, random_start=False)(x, y)
    assert share_equal(x_adv, theirs) > 0.999  # MKL-DNN may choose another algorithm where weights need no gradient


@classes
@grey_eps
def test_pgd_from_the_same_random_start(classes: int, eps: int) -> None:
    """Fails if the random start has another range than +-eps, or is not clamped to the pixels' range.

    With one noise the two starts differ by a rounding error, which may turn the sign of a vanishing gradient.
    """
    model = trained(classes)
    x, y = pixels(IMAGES, classes=classes)
    budget = Budget.grey(eps, 10, max(0.5, eps / 4))
    torch.manual_seed(5)
    noise = torch.empty_like(x).uniform_(-budget.eps, budget.eps)
    rng = StubRng((noise + budget.eps) / (2 * budget.eps))
    x_adv = pgd(budget, cross_entropy)(model, x, y, rng=rng)
    torch.manual_seed(5)
    theirs = torchattacks.PGD(model, eps=budget.eps, alpha=budget.step_size, steps=10, random_start=True)(x, y)
    assert rng.asked == ["uniform"]
    assert share_equal(x_adv, theirs) > 0.998

    start = pgd(Budget(budget.eps, 0, 0.0), cross_entropy)(model, x, y, rng=rng)
    torch.manual_seed(5)
    their_start = torchattacks.PGD(model, eps=budget.eps, steps=0, random_start=True)(x, y)
    torch.testing.assert_close(start, their_start, rtol=0, atol=1e-6)


@classes
@grey_eps
def test_the_ascent_of_trades_and_hat(classes: int, eps: int) -> None:
    """Fails if the divergence is the wrong way round, or the start's noise is not 0.001 times normal."""
    model = trained(classes)
    x, y = pixels(IMAGES, classes=classes)
    budget = Budget.grey(eps, 10, max(0.5, eps / 4))
    torch.manual_seed(5)
    rng = StubRng(torch.randn_like(x))
    x_adv = divergence_ascent(model, x, budget, rng)
    torch.manual_seed(5)
    theirs = torchattacks.TPGD(model, eps=budget.eps, alpha=budget.step_size, steps=10)(x, y)
    assert rng.asked == ["normal"]
    assert share_equal(x_adv, theirs) > 0.99


# --- faults of the peers that ours must not share --------------------------------------------------------------------


def test_batch_norm_held_in_eval() -> None:
    """torchattacks puts the whole network back into train mode: a batch norm that was held in eval then trains."""
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
    """torchattacks leaves the network in eval mode when the attack fails: the training that caught it goes on so."""

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
    """torchattacks takes eps = 8 for pixels in [0, 1] and returns an image of nothing but noise."""
    model = trained()
    x, y = pixels(4)
    assert (torchattacks.FGSM(model, eps=8)(x, y) - x).abs().max() > 0.5
    with pytest.raises(UserError, match=r"Budget\.grey"):
        Budget(8, 1, 8)


def test_the_same_images_in_other_batches() -> None:
    """torchattacks' noise is the batch's: one seed, and other examples when the same images come in other batches."""
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
