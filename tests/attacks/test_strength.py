"""The strength of each attack: it misleads a network, and with a larger budget on no fewer images."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from advmia.attacks import ATTACKS
from advmia.losses import cross_entropy
from tests.support.attacks import TRAITS, build, slow_marked, success
from tests.support.networks import pixels, right, streams, trained

pytestmark = pytest.mark.usefixtures("few_queries")


@pytest.mark.parametrize("attack", slow_marked(TRAITS))
def test_attack_misleads_a_network(attack: str) -> None:
    """Fails if an attack descends what it should ascend."""
    model = trained()
    x, y = pixels(64)
    x_adv = build(attack)(model, x, y, rng=streams(64))
    assert success(model, x_adv, y) >= success(model, x, y) + 10


@pytest.mark.parametrize("attack", slow_marked(TRAITS))
def test_more_steps_lose_no_image(attack: str) -> None:
    """Fails if an attack loses a success, because it returns the last point or another later one.

    FGSM takes one step, whatever the budget. PGD and CW return the last point, and the checkpoints of APGD depend on
    the number of steps. With more steps they mislead on as many images as before, but not on the same.
    """
    traits = TRAITS[attack]
    model = trained()
    x, y = pixels(48)
    misled = [
        ~right(model, build(attack, steps=steps)(model, x, y, rng=streams(48)), y)
        for steps in (0, traits.steps // 2, traits.steps, 2 * traits.steps)
    ]
    for fewer, more in pairwise(misled):
        assert more.sum() >= fewer.sum()
        assert not traits.grows or not (fewer & ~more).any()
    assert misled[0].sum() < misled[-1].sum() or attack == "fgsm"


@pytest.mark.parametrize("attack", slow_marked(name for name in TRAITS if ATTACKS[name].bounded))
def test_a_larger_eps_misleads_on_no_fewer_images(attack: str) -> None:
    """Fails if the success does not grow with eps. FAB-T's search is the same for every eps."""
    model = trained()
    x, y = pixels(48)
    misled = [
        ~right(model, build(attack, eps=grey_eps / 255)(model, x, y, rng=streams(48)), y)
        for grey_eps in (0.5, 2, 4, 7, 10)
    ]
    for smaller, larger in pairwise(misled):
        assert larger.sum() >= smaller.sum()
        assert not TRAITS[attack].all_or_nothing or not (smaller & ~larger).any()
    assert misled[0].sum() < misled[-1].sum()


def test_autoattack_succeeds_where_its_parts_do() -> None:
    """Fails if an image is attacked again after a success, or gets the x_adv of an attack that failed on it.

    APGD-CE comes first, with the same random numbers as alone, and FAB-T draws none.
    """
    model = trained()
    x, y = pixels(48)
    together = ~right(model, build("aa")(model, x, y, rng=streams(48)), y)
    for attack in ("apgd-ce", "fab-t"):
        alone = ~right(model, build(attack, steps=2)(model, x, y, rng=streams(48)), y)
        assert alone.any() and not (alone & ~together).any()


def test_pgd_is_stronger_than_fgsm_and_more_eps_than_less() -> None:
    """Fails if steps do not start from the last point, or the standard budgets are mixed up."""
    model = trained(4)
    x, y = pixels(64, classes=4)

    def loss(attack: str, grey_eps: float) -> float:
        budget = ATTACKS[attack].budget(grey_eps)
        x_adv = ATTACKS[attack].build(budget, cross_entropy)(model, x, y, rng=streams(64))
        with torch.no_grad():
            return float(cross_entropy(model(x_adv), y).mean())

    losses = [loss("pgd", grey_eps) for grey_eps in (1, 2, 4, 8)]
    assert losses == sorted(losses)
    assert losses[-1] > loss("fgsm", 8)
