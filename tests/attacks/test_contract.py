"""The contract of every attack (`advmia.attacks.common.Attack`), on several networks and in several situations.

All entries of `ATTACKS` are tested: a new attack with a builder of its own needs a line in `TRAITS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from advmia.attacks import ATTACKS
from advmia.attacks.common import Objective, stops_early
from advmia.losses import cross_entropy
from advmia.runtime.rng import SampleRng
from advmia.tasks import MULTI_LABEL, SEGMENTATION, Task
from tests.support.attacks import (
    EPS,
    OTHER_TRAITS,
    SMALL_ONLY,
    TRAITS,
    build,
    for_each_attack,
    predictions,
    traits_of,
    within_eps,
)
from tests.support.networks import (
    BORDER,
    CLASSIFIERS,
    SEGMENTERS,
    Snapshot,
    Wrapped,
    network,
    pixels,
    record_calls,
    right,
    same_tensors,
    share_equal,
    streams,
    targets,
    trained,
    unsettle,
)
from tests.support.pretended_gpu import PretendedGpu

pytestmark = pytest.mark.usefixtures("few_queries")


def test_each_attack_has_its_traits() -> None:
    """Fails if an attack has no line in `TRAITS`, or a line is left of one that was removed."""
    assert {*TRAITS, *OTHER_TRAITS} <= set(ATTACKS)
    assert {spec.build for spec in ATTACKS.values()} == {ATTACKS[name].build for name in (*TRAITS, *OTHER_TRAITS)}


def test_spec_and_attack_agree_on_early_stopping() -> None:
    """Fails if `AttackSpec.early_stopping` differs from the attribute that the evaluation reads from the attack."""
    for name, spec in ATTACKS.items():
        assert stops_early(build(name)) == spec.early_stopping, name


# --- the clauses -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One attack on a network with mixed modes, frozen parameters and gradients."""

    attack: str
    model: nn.Module
    before: Snapshot
    after: Snapshot
    x: Tensor
    x_before: Tensor
    y: Tensor
    y_before: Tensor
    x_adv: Tensor


RIGHT, WRONG = 0, 1  # indices of an image that the network, in eval mode, classifies correctly, and of a wrong one


def run_attack(attack: str, model: nn.Module) -> Run:
    x, _ = pixels(2, size=32)
    y = (predictions(model, x) + torch.tensor([0, 1])) % 3
    x_before, y_before, before = x.clone(), y.clone(), Snapshot.of(model)
    # Deep networks are slow, so steps are few; but few of SimBA's directions help.
    steps = TRAITS[attack].steps if attack == "simba" else min(TRAITS[attack].steps, 10)
    x_adv = build(attack, steps=steps)(model, x, y, rng=streams(2))
    return Run(attack, model, before, Snapshot.of(model), x, x_before, y, y_before, x_adv)


def check_output(run: Run) -> None:
    """Checks that x_adv is a detached batch of finite images in [0, 1], within the budget."""
    assert not run.x_adv.requires_grad and run.x_adv.grad_fn is None
    assert run.x_adv.shape == run.x.shape and run.x_adv.dtype == run.x.dtype
    assert run.x_adv.isfinite().all()
    assert run.x_adv.min() >= 0 and run.x_adv.max() <= 1
    assert within_eps(run.attack, run.x_adv, run.x)


def check_attacked_images(run: Run) -> None:
    """Checks that the correct image is attacked, and the misclassified one unless the attack stops early."""
    traits = TRAITS[run.attack]
    change = float((run.x_adv[RIGHT] - run.x[RIGHT]).abs().max())
    is_misled = bool(predictions(run.model, run.x_adv)[RIGHT] != run.y[RIGHT])
    if traits.all_or_nothing and not is_misled:
        assert change == 0
    else:
        # FAB-T goes only as far as it must; SimBA's steps are spread over the image.
        assert change > (EPS / 2 if ATTACKS[run.attack].bounded and not traits.all_or_nothing else 0)
    assert torch.equal(run.x_adv[WRONG], run.x[WRONG]) == ATTACKS[run.attack].early_stopping


def check_input(run: Run) -> None:
    """Checks that images and labels are unchanged, require no gradient, and share no memory with x_adv."""
    assert torch.equal(run.x, run.x_before) and torch.equal(run.y, run.y_before)
    assert not run.x.requires_grad and run.x.grad is None
    assert run.x_adv.data_ptr() != run.x.data_ptr()


def check_model(run: Run) -> None:
    """Checks that values, gradients, frozen parameters and modes, of which there were all kinds, are as before."""
    assert same_tensors(run.after.values, run.before.values)
    assert same_tensors(run.after.gradients, run.before.gradients)
    assert run.after.requires_grad == run.before.requires_grad
    assert run.after.modes == run.before.modes
    assert {gradient is None for gradient in run.before.gradients.values()} == {True, False}
    assert set(run.before.requires_grad.values()) == set(run.before.modes.values()) == {True, False}
    assert any(name.endswith("num_batches_tracked") for name in run.before.values)


@pytest.mark.parametrize(
    ("attack", "name"),
    [
        pytest.param(attack, name, marks=() if name.startswith("small") else pytest.mark.slow)
        for attack in TRAITS
        for name in CLASSIFIERS
        if name.startswith("small") or attack not in SMALL_ONLY
    ],
)
def test_contract(attack: str, name: str) -> None:
    """Fails if an attack breaks a clause of the contract, which the checks above list, on a single-label network."""
    run = run_attack(attack, unsettle(network(name)))
    for check in (check_output, check_attacked_images, check_input, check_model):
        check(run)


@pytest.mark.parametrize(
    ("task", "attack", "objective", "name"),
    [
        pytest.param(
            *(task, attack, objective, name),
            id=f"{task.name}-{attack}-{name}",
            marks=() if name.startswith("small") else pytest.mark.slow,
        )
        for task, names in ((MULTI_LABEL, ("small", "chexnet-normalized")), (SEGMENTATION, SEGMENTERS))
        for attack, objective in task.attacks.items()
        for name in names
        if name.startswith("small") or attack not in SMALL_ONLY
    ],
)
def test_contract_with_the_other_tasks(task: Task, attack: str, objective: Objective, name: str) -> None:
    """Fails if a clause of the contract breaks with findings or masks, or if a small network's loss does not rise.

    Deep networks are untrained, and rounding hides whether their loss rises. CosPGD's weights fall as its loss rises.
    """
    model = unsettle(network(name))
    x, _ = pixels(2, size=32)
    y = targets(task, 2, 32, classes=3)
    before, x_before, y_before = Snapshot.of(model), x.clone(), y.clone()
    x_adv = build(attack, objective=objective)(model, x, y, rng=streams(2))
    rising = task.objective if attack == "cospgd" else objective
    before.assert_same(model)
    assert torch.equal(x, x_before) and torch.equal(y, y_before)
    assert not x_adv.requires_grad
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    assert within_eps(attack, x_adv, x)
    model.eval()
    with torch.no_grad():
        assert not name.startswith("small") or (rising(model(x_adv), y) > rising(model(x), y)).all()


# --- situations -------------------------------------------------------------------------------------------------------


@for_each_attack
def test_eps_0_is_the_identity(attack: str) -> None:
    """Fails if a random start or a step is taken at eps 0."""
    x, y = pixels(3)
    for name in ("small", "res18-normalized"):
        x_adv = build(attack, eps=0.0)(network(name), x, y, rng=streams(3))
        assert torch.equal(x_adv, x)
        assert x_adv.data_ptr() != x.data_ptr()


@for_each_attack
def test_network_is_attacked_in_eval_mode_and_frozen(attack: str) -> None:
    """Fails if the attack runs with dropout and batch statistics, or computes gradients of the parameters."""
    model = unsettle(network("small"))
    calls = record_calls(model)
    x, y = pixels(2)
    build(attack)(model, x, y, rng=streams(2))
    assert calls
    assert all(call.training == frozenset() for call in calls)
    assert all(call.learning == frozenset() for call in calls)


@for_each_attack
def test_network_is_restored_if_it_fails(attack: str) -> None:
    """Fails if an error in the first or the last pass leaves the network frozen or in eval mode."""
    model = network("small")
    x, _ = pixels(4)
    y = predictions(model, x)
    calls = record_calls(model)
    build(attack)(model, x, y, rng=streams(4))
    for allowed in (0, len(calls) - 1):
        calls.clear()

        def fail(logits: Tensor, allowed: int = allowed) -> Tensor:
            if len(calls) > allowed:
                raise RuntimeError("out of memory")
            return logits

        failing = unsettle(Wrapped(model, fail))
        before = Snapshot.of(failing)
        with pytest.raises(RuntimeError, match="out of memory"):
            build(attack)(failing, x, y, rng=streams(4))
        before.assert_same(failing)


@pytest.mark.parametrize("attack", [name for name, traits in TRAITS.items() if not traits.own_losses])
def test_network_is_restored_if_the_objective_fails(attack: str) -> None:
    """Fails if an error between the forward and the backward pass leaves the network frozen or in eval mode."""

    def fail(logits: Tensor, y: Tensor) -> Tensor:
        raise RuntimeError("out of memory")

    model = unsettle(network("small"))
    before = Snapshot.of(model)
    x, _ = pixels(2)
    with pytest.raises(RuntimeError, match="out of memory"):
        build(attack, objective=fail)(model, x, predictions(model, x), rng=streams(2))
    before.assert_same(model)


@for_each_attack
def test_objective_is_ascended(attack: str) -> None:
    """Fails if an attack ignores the objective that it should ascend, or uses it although it has losses of its own.

    With an objective that is 0 everywhere, an attack with losses of its own gives the same images, any other does not.
    """
    model = trained()
    x, y = pixels(8)
    expected = build(attack)(model, x, y, rng=streams(8))
    flat = build(attack, objective=lambda logits, y: 0 * cross_entropy(logits, y))(model, x, y, rng=streams(8))
    assert torch.equal(flat, expected) == traits_of(attack).own_losses


@for_each_attack
def test_gradients_outside_do_not_matter(attack: str) -> None:
    """Fails if the attack depends on the caller's gradient mode, or its graph reaches an input that requires one."""
    model = trained()
    x, y = pixels(4)
    expected = build(attack)(model, x, y, rng=streams(4))
    with torch.no_grad():
        x_adv = build(attack)(model, x, y, rng=streams(4))
        assert not torch.is_grad_enabled()
    assert torch.equal(x_adv, expected)
    leaf = x.clone().requires_grad_(True)
    x_adv = build(attack)(model, leaf, y, rng=streams(4))
    assert torch.is_grad_enabled()
    assert torch.equal(x_adv, expected)
    assert not x_adv.requires_grad and leaf.grad is None and leaf.requires_grad


@for_each_attack
def test_black_pixels_can_be_perturbed(attack: str) -> None:
    """Fails for a change of variable that is flat at 0, like CW's tanh: a fundus photograph has a black border."""
    model = trained()
    x, y = pixels(8)
    is_right = right(model, x, y)
    x_adv = build(attack)(model, x, y, rng=streams(8))
    black = x == 0
    assert black[:, :, :BORDER].all() and is_right.any()
    assert (x_adv[black] > 0).any()


def test_attacks_leave_the_global_generator_alone() -> None:
    """Fails if noise comes from torch.rand: initial weights and dropout would then depend on the attack."""
    model, (x, y) = trained(), pixels(2)
    before = torch.get_rng_state()
    for attack in TRAITS:
        build(attack)(model, x, y, rng=streams(2))
    assert torch.equal(torch.get_rng_state(), before)


# --- on a GPU --------------------------------------------------------------------------------------------------------


@pytest.fixture
def deterministic() -> Iterator[None]:
    earlier = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    yield
    torch.backends.cudnn.deterministic = earlier


@pytest.mark.gpu
@for_each_attack
@pytest.mark.parametrize("name", ["small-normalized", "res18-normalized", "chexnet-normalized"])
def test_contract_on_a_gpu(attack: str, name: str, deterministic: None, gpu: torch.device) -> None:
    """Fails if a clause of the contract breaks on a GPU, with the random streams on the device."""
    if PretendedGpu.active is not None and name != "small-normalized":
        pytest.skip("takes minutes on the pretended GPU, where deep networks round as on the CPU")
    model = unsettle(network(name).to(gpu))
    before = Snapshot.of(model)
    x = pixels(4, size=32)[0].to(gpu)
    y = predictions(model, x)

    def attacked() -> Tensor:
        return build(attack)(model, x, y, rng=SampleRng.of(0, samples=range(4), device=gpu))

    x_adv = attacked()
    assert x_adv.device == x.device and not x_adv.requires_grad
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    assert within_eps(attack, x_adv, x)
    assert TRAITS[attack].all_or_nothing or not torch.equal(x_adv, x)
    assert share_equal(attacked(), x_adv) > 0.99
    before.assert_same(model)
