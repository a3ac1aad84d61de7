"""Random restarts: today's start first, the worst start image by image, and the contract of an attack."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import advmia
from advmia.attacks import ATTACKS
from advmia.attacks.common import EvaluationAttack, Objective
from advmia.attacks.restarts import Restarts, with_restarts
from advmia.budgets import Budget
from advmia.losses import cross_entropy
from advmia.tasks import MULTI_LABEL, SEGMENTATION, SINGLE_LABEL, Task
from tests.support.attacks import EPS, SLACK
from tests.support.networks import Snapshot, Wrapped, network, pixels, right, streams, targets, trained, unsettle

# A budget with which the start decides whether an image is fooled.
BUDGET = Budget(128 / 255, 2, 2 / 255)
CASES = [
    pytest.param(task, name, id=f"{task.name}-{name}")
    for task in (SINGLE_LABEL, MULTI_LABEL, SEGMENTATION)
    for name in task.attacks
    if ATTACKS[name].restartable
]


def case(task: Task, name: str) -> tuple[nn.Module, Tensor, Tensor, EvaluationAttack, Objective]:
    """Returns a network, images, targets, and an attack with its loss."""
    x, y = pixels(24)
    if task is SINGLE_LABEL:
        model = trained()
    else:
        model = network("small" if task is MULTI_LABEL else "small-segmenter").eval()
        y = targets(task, 24, 16, classes=3)
    objective = task.attacks[name]
    return model, x, y, ATTACKS[name].build(BUDGET, objective), objective


@pytest.mark.parametrize(("task", "name"), CASES)
def test_the_worst_start_is_kept(task: Task, name: str) -> None:
    """Fails if start 0 draws other numbers than the attack itself, two starts draw the same, or an image does not have
    the first start that fools it (findings and masks: the start with the highest loss)."""
    model, x, y, attack, objective = case(task, name)
    rng = streams(24)
    starts = [attack(model, x, y, rng=streams(24))]
    starts += [attack(model, x, y, rng=rng.restart(number)) for number in (1, 2)]
    assert not torch.equal(starts[1], starts[0]) and not torch.equal(starts[1], starts[2])
    with torch.no_grad():
        if task is SINGLE_LABEL:
            worth = torch.stack([~right(model, x_adv, y) for x_adv in starts]).float()
        else:
            worth = torch.stack([objective(model(x_adv), y) for x_adv in starts])
    expected = worth.argmax(dim=0)  # of equal ones the first
    assert 0 < int((expected > 0).sum()) < 24, "some images should have a further start, and some not"
    restarts = Restarts(attack, objective, 3)
    x_adv = restarts(model, x, y, rng=streams(24))
    assert torch.equal(restarts.notes["start"], expected)
    assert torch.equal(x_adv, torch.stack(starts)[expected, torch.arange(24)])
    assert restarts.losses(3) == attack.losses(3)
    assert with_restarts(attack, objective, 1) is attack


def test_restarts_do_not_depend_on_the_batch() -> None:
    """Fails if an image's result depends on which other images are fooled."""
    model, x, y, attack, objective = case(SINGLE_LABEL, "pgd")
    together = Restarts(attack, objective, 3)(model, x, y, rng=streams(24))
    for index in (0, 7, 23):
        one = torch.tensor([index])
        alone = Restarts(attack, objective, 3)(model, x[one], y[one], rng=streams(24).take(one))
        torch.testing.assert_close(alone[0], together[index], rtol=0, atol=SLACK)


def test_fooled_images_are_not_attacked_again() -> None:
    """Fails if a further start attacks an image that is fooled already."""
    model, x, y, attack, objective = case(SINGLE_LABEL, "pgd")
    left: list[int] = []

    class Counting:
        def losses(self, classes: int) -> tuple[str, ...]:
            return ()

        def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: object) -> Tensor:
            left.append(len(x))
            return attack(model, x, y, rng=rng)  # type: ignore[arg-type]

    Restarts(Counting(), objective, 3)(model, x, y, rng=streams(24))
    first = attack(model, x, y, rng=streams(24))
    assert left[:2] == [24, int(right(model, first, y).sum())] and left[2] < left[1]


def test_contract() -> None:
    """Fails if restarts change the network, its mode or the images, leave eps, or draw anything at eps 0; also if the
    network stays frozen after an error between two starts."""
    x, _ = pixels(4)
    model = unsettle(network("small"))
    y, x_before, before = torch.arange(4) % 3, x.clone(), Snapshot.of(model)
    for grey_eps in (8, 0):
        attack = ATTACKS["pgd"].build(Budget.grey(grey_eps, 2, 2), cross_entropy)
        x_adv = Restarts(attack, cross_entropy, 3)(model, x, y, rng=streams(4))
        before.assert_same(model)
        assert torch.equal(x, x_before) and not x_adv.requires_grad and x_adv.data_ptr() != x.data_ptr()
        assert x_adv.min() >= 0 and x_adv.max() <= 1 and (x_adv - x).abs().max() <= grey_eps / 255 + SLACK
    calls = 0

    def fail(logits: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise RuntimeError("out of memory")
        return logits

    failing = unsettle(Wrapped(network("small"), fail))
    before = Snapshot.of(failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        attack = ATTACKS["pgd"].build(Budget(EPS, 2, EPS), cross_entropy)
        Restarts(attack, cross_entropy, 3)(failing, x, y, rng=streams(4))
    before.assert_same(failing)


def test_from_python() -> None:
    """Fails if `restarts` of advmia.attacks.pgd and cw are ignored, or one start is another than without them."""
    model = trained()
    x, y = pixels(24)
    for attack in (advmia.attacks.pgd, advmia.attacks.cw):
        more: tuple[dict[str, int], ...] = ({}, {"restarts": 1}, {"restarts": 4})
        plain, one, many = (attack(128 / 255, 2, 2 / 255, **restarts)(model, x, y) for restarts in more)
        assert torch.equal(plain, one)
        assert (right(model, many, y) <= right(model, plain, y)).all() and not torch.equal(plain, many)


def test_the_registry_says_which_attacks_start_at_random() -> None:
    """Fails if --restarts would run an attack that has no random start several times, or PGD or CW once."""
    for name, spec in ATTACKS.items():
        attack = spec.build(spec.budget(8.0), next(iter(spec.objectives.values())))
        # CosPGD's loss falls again where pixels are very wrong, so that it does not say which start is worse.
        assert spec.restartable == (getattr(attack, "random_start", False) and name != "cospgd"), name
