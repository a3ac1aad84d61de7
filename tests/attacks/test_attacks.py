"""The contract of every attack on several networks, and the parts that gradient attacks are made of.

Whatever `ATTACKS` holds is tested: a new attack needs one line in `TRAITS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advmia.attacks import ATTACKS
from advmia.attacks.common import (
    Attack,
    Objective,
    ascend,
    frozen_eval,
    input_gradient,
    normal_start,
    project,
    stops_early,
    uniform_start,
)
from advmia.attacks.gradient import SignAscent, fgsm, pgd
from advmia.budgets import Budget, fgsm_budget, pgd_budget
from advmia.data.loading import EvaluationLoader
from advmia.evaluation.loop import EvaluationOptions, evaluate
from advmia.losses import cross_entropy
from advmia.runtime.rng import SampleRng
from advmia.tasks import MULTI_LABEL, SEGMENTATION, SINGLE_LABEL, Task
from tests.support.networks import (
    BORDER,
    CLASSIFIERS,
    CPU,
    SEGMENTERS,
    LinearNet,
    Snapshot,
    StubRng,
    Wrapped,
    image_data,
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

EPS = 8 / 255
SLACK = 1e-6  # for rounding


@dataclass(frozen=True)
class Traits:
    """What the contract leaves open, and an affordable budget."""

    steps: int = 3  # or queries: 60 are what it takes to fool a third of the images
    eps: float = EPS
    bounded: bool = True  # stays within eps; else eps is the size of a step
    stops: bool = False  # leaves images alone that are misclassified to begin with, and stops at a fooling point
    own_losses: bool = False  # ascends losses of its own, whatever objective is given
    all_or_nothing: bool = False  # returns x itself where no fooling point is found
    scale_blind: bool = False  # logits x 1e4 hide nothing
    grows: bool = False  # a larger budget goes the smaller one's way first, so that it fools the same images and more
    slow: bool = False  # one image takes hundreds of passes


TRAITS = {
    "fgsm": Traits(),
    "pgd": Traits(),
    "cw": Traits(scale_blind=True),
    "apgd-ce": Traits(stops=True),
    "apgd-t": Traits(stops=True, own_losses=True, scale_blind=True),
    "fab-t": Traits(stops=True, own_losses=True, all_or_nothing=True, scale_blind=True, grows=True),
    "square": Traits(steps=60, stops=True, own_losses=True, scale_blind=True, grows=True, slow=True),
    "aa": Traits(steps=2, stops=True, scale_blind=True, slow=True),
    # A step is spread over the whole image: only large ones show in some dozens of directions.
    "simba": Traits(steps=60, eps=1.0, bounded=False, stops=True, own_losses=True, grows=True, slow=True),
    "apgd": Traits(),
}
# Attacks that share a builder differ in the objective alone: one of them stands for all, with single labels. The others
# are tested with their tasks.


def made(name: str, eps: float = EPS, objective: Objective | None = None, steps: int | None = None) -> Attack:
    """The attack with few steps up the task's objective; `eps` other than 8/255 and 0 for bounded attacks only."""
    traits = traits_of(name)
    if eps == EPS:
        eps = traits.eps
    objective = objective or SINGLE_LABEL.attacks.get(name, cross_entropy)
    return ATTACKS[name].build(Budget(eps, traits.steps if steps is None else steps, step_size=eps / 4), objective)


def traits_of(name: str) -> Traits:
    """Those of the attack, or of the one that shares its builder."""
    return next(traits for known, traits in TRAITS.items() if ATTACKS[known].build is ATTACKS[name].build)


def within_eps(name: str, x_adv: Tensor, x: Tensor) -> bool:
    """True for SimBA, whose docstring exempts it."""
    return not traits_of(name).bounded or bool((x_adv - x).abs().max() <= EPS + SLACK)


@pytest.fixture(autouse=True, scope="module")
def few_queries() -> Iterator[None]:
    """AutoAttack's Square makes 10 queries for each step of the others, not 50."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("advmia.attacks.auto_attack.QUERIES_PER_STEP", 10)
        yield


def is_steady(name: str) -> bool:
    """Whether rounding moves few pixels of x_adv, for no comparison decides its way; others are held to success."""
    return isinstance(made(name), SignAscent)


def success(model: nn.Module, x_adv: Tensor, y: Tensor) -> int:
    return int((~right(model, x_adv, y)).sum())


def test_each_attack_has_its_traits() -> None:
    """Fails if an attack is added without a line in `TRAITS`, or a line is left of one that is gone."""
    assert set(TRAITS) <= set(ATTACKS)
    assert {spec.build for spec in ATTACKS.values()} == {ATTACKS[name].build for name in TRAITS}


def test_spec_and_attack_agree_on_early_stopping() -> None:
    """Fails if `AttackSpec.early_stopping` differs from the attribute that the evaluation reads from the attack."""
    for name, spec in ATTACKS.items():
        assert stops_early(made(name)) == spec.early_stopping, name


# --- the contract ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One attack on one network that was amid work."""

    attack: str
    model: nn.Module
    before: Snapshot
    after: Snapshot
    x: Tensor
    x_before: Tensor
    y: Tensor
    y_before: Tensor
    x_adv: Tensor


def predictions(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad(), frozen_eval(model):
        return model(x).argmax(dim=1)


@pytest.fixture(scope="module", params=CLASSIFIERS)
def unsettled(request: pytest.FixtureRequest) -> nn.Module:
    return unsettle(network(request.param))


RIGHT, WRONG = 0, 1  # places in the batch of an image that the network, in eval mode, classifies rightly, and wrongly


@pytest.fixture(scope="module", params=TRAITS)
def run(request: pytest.FixtureRequest, unsettled: nn.Module) -> Run:
    x, _ = pixels(2, size=32)
    y = (predictions(unsettled, x) + torch.tensor([0, 1])) % 3
    x_before, y_before, before = x.clone(), y.clone(), Snapshot.of(unsettled)
    # Deep networks are slow; but few of SimBA's directions help.
    steps = TRAITS[request.param].steps if request.param == "simba" else min(TRAITS[request.param].steps, 10)
    x_adv = made(request.param, steps=steps)(unsettled, x, y, rng=streams(2))
    return Run(request.param, unsettled, before, Snapshot.of(unsettled), x, x_before, y, y_before, x_adv)


def test_output_is_a_detached_batch_of_images(run: Run) -> None:
    """Fails if the graph hangs on to x_adv, or pixels leave [0, 1], or are not finite."""
    assert not run.x_adv.requires_grad and run.x_adv.grad_fn is None
    assert run.x_adv.shape == run.x.shape and run.x_adv.dtype == run.x.dtype
    assert run.x_adv.isfinite().all()
    assert run.x_adv.min() >= 0 and run.x_adv.max() <= 1


def test_output_is_within_the_budget(run: Run) -> None:
    """Fails if the projection is left out."""
    assert within_eps(run.attack, run.x_adv, run.x)


def test_right_images_are_attacked(run: Run) -> None:
    """Fails if nothing is attacked at all, or when FAB-T returns where it looked last instead of x."""
    change = float((run.x_adv[RIGHT] - run.x[RIGHT]).abs().max())
    is_fooled = bool(predictions(run.model, run.x_adv)[RIGHT] != run.y[RIGHT])
    if TRAITS[run.attack].all_or_nothing and not is_fooled:
        assert change == 0
    else:
        # FAB-T goes only as far as it must, SimBA by steps that are spread over the image.
        assert change > (EPS / 2 if TRAITS[run.attack].bounded and not TRAITS[run.attack].all_or_nothing else 0)


def test_wrong_images_are_left_alone_by_attacks_that_stop(run: Run) -> None:
    """Fails if an attack that stops spends its budget on what is wrong already, or another attack leaves that out."""
    assert torch.equal(run.x_adv[WRONG], run.x[WRONG]) == TRAITS[run.attack].stops


def test_input_is_untouched(run: Run) -> None:
    """Fails if a start or a step is taken in place, or when the images come back requiring a gradient."""
    assert torch.equal(run.x, run.x_before) and torch.equal(run.y, run.y_before)
    assert not run.x.requires_grad and run.x.grad is None
    assert run.x_adv.data_ptr() != run.x.data_ptr()


def test_parameters_and_their_gradients_are_untouched(run: Run) -> None:
    """Fails if backward() accumulates into .grad, or zero_grad() clears what was there."""
    assert same_tensors(run.after.gradients, run.before.gradients)
    assert any(gradient is None for gradient in run.before.gradients.values())
    assert any(gradient is not None for gradient in run.before.gradients.values())


def test_frozen_parameters_stay_frozen_and_the_others_learn(run: Run) -> None:
    """Fails if the attack's freezing ends with requires_grad_(True) for all."""
    assert run.after.requires_grad == run.before.requires_grad
    assert set(run.before.requires_grad.values()) == {True, False}


def test_weights_and_running_statistics_are_untouched(run: Run) -> None:
    """Fails if a forward pass in train mode moves a batch norm's mean, variance or count."""
    assert same_tensors(run.after.values, run.before.values)
    assert any(name.endswith("num_batches_tracked") for name in run.before.values)


def test_each_module_has_its_mode_back(run: Run) -> None:
    """Fails if the mode is restored with model.train(): the batch norm that was held in eval would train."""
    assert run.after.modes == run.before.modes
    assert set(run.before.modes.values()) == {True, False}


# --- the contract, on occasions --------------------------------------------------------------------------------------

attacks = pytest.mark.parametrize("attack", TRAITS)


@attacks
@pytest.mark.parametrize("model_name", ["small", "res18-normalized"])
def test_eps_0_is_the_identity(attack: str, model_name: str) -> None:
    """Fails if a random start or a step is taken at eps 0."""
    x, y = pixels(3)
    x_adv = made(attack, eps=0.0)(network(model_name), x, y, rng=streams(3))
    assert torch.equal(x_adv, x)
    assert x_adv.data_ptr() != x.data_ptr()


@attacks
def test_network_is_attacked_in_eval_mode_and_frozen(attack: str) -> None:
    """Fails if dropout and batch statistics blur the attack on a network in training, or its parameters take part."""
    model = unsettle(network("small"))
    calls = record_calls(model)
    x, y = pixels(2)
    made(attack)(model, x, y, rng=streams(2))
    assert calls
    assert all(call.training == frozenset() for call in calls)
    assert all(call.learning == frozenset() for call in calls)


@attacks
@pytest.mark.parametrize("late", [False, True], ids=["in the first pass", "in the last pass"])
def test_network_is_restored_when_it_fails(attack: str, late: bool) -> None:
    """Fails without try/finally: after an out-of-memory error the network would train frozen, in eval mode."""
    model = network("small")
    x, _ = pixels(4)
    y = predictions(model, x)
    calls = record_calls(model)
    made(attack)(model, x, y, rng=streams(4))
    allowed = len(calls) - 1 if late else 0
    calls.clear()

    def fail(logits: Tensor) -> Tensor:
        if len(calls) > allowed:
            raise RuntimeError("out of memory")
        return logits

    failing = unsettle(Wrapped(model, fail))
    before = Snapshot.of(failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        made(attack)(failing, x, y, rng=streams(4))
    before.assert_same(failing)


@pytest.mark.parametrize("attack", [name for name, traits in TRAITS.items() if not traits.own_losses])
def test_network_is_restored_when_the_objective_fails(attack: str) -> None:
    """As above, for an error between the forward and the backward pass."""

    def fail(logits: Tensor, y: Tensor) -> Tensor:
        raise RuntimeError("out of memory")

    model = unsettle(network("small"))
    before = Snapshot.of(model)
    x, _ = pixels(2)
    with pytest.raises(RuntimeError, match="out of memory"):
        made(attack, objective=fail)(model, x, predictions(model, x), rng=streams(2))
    before.assert_same(model)


@attacks
def test_whose_loss_is_ascended(attack: str) -> None:
    """Fails if the given objective is ignored by an attack that should ascend it, or used by one that should not.

    Up a loss that is 0 everywhere, an attack with losses of its own goes its usual way, the others another.
    """
    model = trained()
    x, y = pixels(8)
    expected = made(attack)(model, x, y, rng=streams(8))
    flat = made(attack, objective=lambda logits, y: 0 * cross_entropy(logits, y))(model, x, y, rng=streams(8))
    assert torch.equal(flat, expected) == traits_of(attack).own_losses


@attacks
@pytest.mark.parametrize("grad", [torch.no_grad, torch.enable_grad])
def test_outer_gradient_mode_does_not_matter(attack: str, grad: Callable[[], torch.no_grad]) -> None:
    """Fails (with an error from autograd) when the attack does not switch gradients on itself."""
    model = trained()
    x, y = pixels(4)
    expected = made(attack)(model, x, y, rng=streams(4))
    with grad():
        x_adv = made(attack)(model, x, y, rng=streams(4))
        assert torch.is_grad_enabled() == (grad is torch.enable_grad)
    assert torch.equal(x_adv, expected)
    assert not x_adv.requires_grad


@attacks
def test_input_that_requires_a_gradient(attack: str) -> None:
    """Fails if the attack's graph reaches the caller's tensor."""
    model = trained()
    x, y = pixels(4)
    expected = made(attack)(model, x, y, rng=streams(4))
    leaf = x.clone().requires_grad_(True)
    x_adv = made(attack)(model, leaf, y, rng=streams(4))
    assert torch.equal(x_adv, expected)
    assert not x_adv.requires_grad and leaf.grad is None and leaf.requires_grad


@attacks
def test_black_pixels_can_be_perturbed(attack: str) -> None:
    """Fails for changes of variable that are flat at 0, as the tanh of CW: a fundus has a black border."""
    model = trained()
    x, y = pixels(8)
    model_right = right(model, x, y)
    x_adv = made(attack)(model, x, y, rng=streams(8))
    black = x == 0
    assert black[:, :, :BORDER].all() and model_right.any()
    assert (x_adv[black] > 0).any()


@attacks
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits(attack: str, dtype: torch.dtype) -> None:
    """Fails if logits meet a float32 tensor in place, or are scored in half precision."""
    dtypes = set()
    given = SINGLE_LABEL.attacks.get(attack, cross_entropy)

    def objective(logits: Tensor, y: Tensor) -> Tensor:
        loss = given(logits, y)
        dtypes.add(loss.dtype)
        return loss

    model = trained()
    x, y = pixels(32)
    half = Wrapped(model, lambda logits: logits.to(dtype))
    x_adv = made(attack, objective=objective)(half, x, y, rng=streams(32))
    assert x_adv.dtype == torch.float32
    assert dtypes == (set() if TRAITS[attack].own_losses else {torch.float32})
    assert within_eps(attack, x_adv, x)
    full = made(attack)(model, x, y, rng=streams(32))
    assert abs(success(model, x_adv, y) - success(model, full, y)) <= 3


# --- what must not matter --------------------------------------------------------------------------------------------


@attacks
@pytest.mark.parametrize("constant", [64.0, -1000.0])
def test_a_constant_added_to_the_logits_changes_nothing(attack: str, constant: float) -> None:
    """Fails for losses of single logits (torchattacks' CW): a softmax is blind to the constant."""
    model = trained()
    x, y = pixels(32)
    x_adv = made(attack)(model, x, y, rng=streams(32))
    shifted = made(attack)(Wrapped(model, lambda logits: logits + constant), x, y, rng=streams(32))
    assert 0 < success(model, x_adv, y) < 32
    assert abs(success(model, shifted, y) - success(model, x_adv, y)) <= 1
    if is_steady(attack):
        assert share_equal(shifted, x_adv) > 0.99


@pytest.mark.parametrize("attack", [name for name, traits in TRAITS.items() if traits.scale_blind])
@pytest.mark.parametrize("classes", [2, 3, 4])
def test_large_logits_hide_nothing(attack: str, classes: int) -> None:
    """Fails for losses that saturate: at logits x 1e4 the cross-entropy has no gradient, and PGD finds nothing."""
    model = trained(classes)
    x, y = pixels(32, classes=classes)
    loud = Wrapped(model, lambda logits: logits * 1e4)
    x_adv = made(attack)(model, x, y, rng=streams(32))
    x_loud = made(attack)(loud, x, y, rng=streams(32))
    assert within_eps(attack, x_loud, x)
    assert success(model, x, y) + 5 <= success(model, x_adv, y) <= success(model, x_loud, y)


@attacks
@pytest.mark.parametrize("order", [(1, 0), (1, 2, 0), (3, 1, 0, 2)], ids=str)
def test_the_order_of_the_classes_changes_nothing(attack: str, order: tuple[int, ...]) -> None:
    """Fails if class numbers are mixed with ranks, or the last class is left out."""
    model = trained(len(order))
    x, y = pixels(32, classes=len(order))
    permuted = Wrapped(model, lambda logits: logits[:, list(order)])
    y_permuted = torch.tensor([order.index(label) for label in y.tolist()])
    x_adv = made(attack)(model, x, y, rng=streams(32))
    x_permuted = made(attack)(permuted, x, y_permuted, rng=streams(32))
    assert 0 < success(model, x_adv, y) < 32
    assert abs(success(model, x_permuted, y) - success(model, x_adv, y)) <= 1
    if is_steady(attack):
        assert share_equal(x_permuted, x_adv) > 0.99


@attacks
def test_memory_layout_changes_nothing(attack: str) -> None:
    """Fails if noise is drawn in memory order: the loader's images are channels-last, a user's may not be."""
    model = trained()
    x, y = pixels(16)
    x_last = x.contiguous(memory_format=torch.channels_last)
    assert x.stride() != x_last.stride()
    x_adv = made(attack)(model, x, y, rng=streams(16))
    x_adv_last = made(attack)(model, x_last, y, rng=streams(16))
    assert abs(success(model, x_adv_last, y) - success(model, x_adv, y)) <= 1
    if is_steady(attack):
        assert share_equal(x_adv_last, x_adv) > 0.98


@attacks
@pytest.mark.parametrize("batch_size", [1, 7, 64])
@pytest.mark.parametrize("shuffled", [False, True], ids=["in order", "shuffled"])
def test_batch_size_and_order_change_no_outcome(attack: str, batch_size: int, shuffled: bool) -> None:
    """Fails if noise is drawn for the batch at once, or an image's attack depends on its neighbours."""
    count = 18 if TRAITS[attack].slow else 66
    in_order = tuple(range(count))
    expected, x_expected = outcomes_and_images(attack, in_order, 16)
    order = tuple(np.random.default_rng(3).permutation(count).tolist()) if shuffled else in_order
    predicted, x_adv = outcomes_and_images(attack, order, batch_size)
    assert 0 < (expected != image_data(count).samples.labels).sum() < count
    assert torch.equal(predicted, expected)
    if is_steady(attack):
        assert share_equal(x_adv, x_expected) > 0.99


@cache
def outcomes_and_images(attack: str, order: tuple[int, ...], batch_size: int) -> tuple[Tensor, Tensor]:
    """Predictions and x_adv in the list's order, from batches in another order."""
    data, parts, made_attack = image_data(len(order)), [], made(attack)

    def keeping(model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor:
        parts.append(made_attack(model, x, y, rng=rng))
        return parts[-1]

    loader = EvaluationLoader(replace(data, indices=np.array(order)), batch_size, CPU)
    evaluation = evaluate(trained(), loader, SINGLE_LABEL, keeping, options=EvaluationOptions((0, attack, EPS)))
    back = torch.from_numpy(np.argsort(order))
    return evaluation.outcomes[back], torch.cat(parts)[back]


# --- the other tasks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "attack", "objective", "name"),
    [
        pytest.param(task, attack, objective, name, id=f"{task.name}-{attack}-{name}")
        for task, names in ((MULTI_LABEL, ("small", "chexnet-normalized")), (SEGMENTATION, SEGMENTERS))
        for attack, objective in task.attacks.items()
        for name in names
    ],
)
def test_contract_with_the_other_tasks(task: Task, attack: str, objective: Objective, name: str) -> None:
    """The contract's clauses at once; and the loss rises (where rounding does not hide it: deep ones are untrained)."""
    model = unsettle(network(name))
    x, _ = pixels(2, size=32)
    y = targets(task, 2, 32, classes=3)
    before, x_before, y_before = Snapshot.of(model), x.clone(), y.clone()
    x_adv = made(attack, objective=objective)(model, x, y, rng=streams(2))
    before.assert_same(model)
    assert torch.equal(x, x_before) and torch.equal(y, y_before)
    assert not x_adv.requires_grad
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    assert within_eps(attack, x_adv, x)
    model.eval()
    with torch.no_grad():
        assert not name.startswith("small") or (objective(model(x_adv), y) > objective(model(x), y)).all()


@pytest.mark.parametrize(
    ("task", "attack", "objective"),
    [(task, name, objective) for task in (MULTI_LABEL, SEGMENTATION) for name, objective in task.attacks.items()],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_neighbours_change_no_attack(task: Task, attack: str, objective: Objective) -> None:
    """Fails if a loss is taken over the batch, as the survey's soft Dice: its denominator then holds all images."""
    model = network("small" if task is MULTI_LABEL else "small-segmenter").eval()
    x, _ = pixels(6)
    y = targets(task, 6, 16, classes=3)
    y[1:] = y[1:] if task is MULTI_LABEL else 0  # masks without a lesion beside one with
    together = made(attack, objective=objective)(model, x, y, rng=streams(6))
    alone = made(attack, objective=objective)(model, x[:1], y[:1], rng=streams(1))
    assert share_equal(together[:1], alone) > 0.99
    both = objective(model(x), y), torch.cat([objective(model(x[i : i + 1]), y[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(*both)


# --- strength --------------------------------------------------------------------------------------------------------


@attacks
def test_attack_misleads_a_network(attack: str) -> None:
    """Fails if an attack descends what it should ascend."""
    model = trained()
    x, y = pixels(64)
    x_adv = made(attack)(model, x, y, rng=streams(64))
    assert success(model, x_adv, y) >= success(model, x, y) + 10


@attacks
def test_more_steps_lose_no_image(attack: str) -> None:
    """Fails if an attack forgets what it had: the last point instead of the best, or one fooling point for the next.

    FGSM takes one step, whatever the budget. PGD and CW return the last point, and APGD spaces its checkpoints by the
    number of steps, so that more steps go another way: as many images as before, not the same.
    """
    traits = TRAITS[attack]
    model = trained()
    x, y = pixels(48)
    found = [
        ~right(model, made(attack, steps=steps)(model, x, y, rng=streams(48)), y)
        for steps in (0, traits.steps // 2, traits.steps, 2 * traits.steps)
    ]
    for fewer, more in pairwise(found):
        assert more.sum() >= fewer.sum()
        assert not traits.grows or not (fewer & ~more).any()
    assert found[0].sum() < found[-1].sum() or attack == "fgsm"


@pytest.mark.parametrize("attack", [name for name, traits in TRAITS.items() if traits.bounded])
def test_a_larger_eps_fools_no_fewer(attack: str) -> None:
    """Fails if the budget is spent otherwise than its size says. FAB-T walks the same way whatever eps is."""
    model = trained()
    x, y = pixels(48)
    found = [~right(model, made(attack, eps=eps / 255)(model, x, y, rng=streams(48)), y) for eps in (0.5, 2, 4, 7, 10)]
    for smaller, larger in pairwise(found):
        assert larger.sum() >= smaller.sum()
        assert not TRAITS[attack].all_or_nothing or not (smaller & ~larger).any()
    assert found[0].sum() < found[-1].sum()


def test_autoattack_fools_what_its_parts_fool() -> None:
    """Fails if an image that one attack fooled goes on to the next, or keeps another's x_adv.

    APGD-CE comes first, with the same random numbers as alone, and FAB-T draws none.
    """
    model = trained()
    x, y = pixels(48)
    together = ~right(model, made("aa")(model, x, y, rng=streams(48)), y)
    for attack in ("apgd-ce", "fab-t"):
        alone = ~right(model, made(attack, steps=2)(model, x, y, rng=streams(48)), y)
        assert alone.any() and not (alone & ~together).any()


def test_pgd_is_stronger_than_fgsm_and_more_eps_than_less() -> None:
    """Fails if steps are not taken from the last point, or the budgets of the table are mixed up."""
    model = trained(4)
    x, y = pixels(64, classes=4)

    def loss(attack: str, eps: float) -> float:
        budget = ATTACKS[attack].budget(eps)
        x_adv = ATTACKS[attack].build(budget, cross_entropy)(model, x, y, rng=streams(64))
        with torch.no_grad():
            return float(cross_entropy(model(x_adv), y).mean())

    losses = [loss("pgd", eps) for eps in (1, 2, 4, 8)]
    assert losses == sorted(losses)
    assert losses[-1] > loss("fgsm", 8)


@pytest.mark.parametrize("random_start", [False, True], ids=["from x", "random start"])
def test_pgd_finds_the_optimum_of_a_linear_network(random_start: bool) -> None:
    """Fails if the sign, the step, the projection or the number of steps is wrong: 4 steps of eps / 2 reach a corner.

    With two classes the loss rises along w_other - w_y everywhere, so the best x_adv is x + eps times its sign.
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
    """Fails if a step more or less is taken, or one of another size."""
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
    """Fails if FGSM has a random start (it then draws noise), or takes the budget's own step size."""
    x, y = pixels(4, classes=2)
    model = LinearNet(2, 16)
    with torch.no_grad():
        model.weight.div_(100)
    rng = StubRng(torch.ones(()))
    calls = record_calls(model)
    x_adv = fgsm(Budget(EPS, steps=20, step_size=EPS / 8), cross_entropy)(model, x, y, rng=rng)
    direction = (model.weight[1 - y] - model.weight[y]).view_as(x).sign()
    assert rng.asked == []
    assert len(calls) == 1 and torch.equal(calls[0].x, x)
    torch.testing.assert_close(x_adv, (x + EPS * direction).clamp(0, 1), rtol=0, atol=SLACK)


def test_the_seed_decides_where_pgd_starts() -> None:
    """Fails if the random start ignores the streams it is given, or when fgsm uses them."""
    model = trained()
    x, y = pixels(8)

    def attacked(attack: str, seed: int) -> Tensor:
        return made(attack)(model, x, y, rng=streams(8, seed))

    assert torch.equal(attacked("pgd", 0), attacked("pgd", 0))
    assert share_equal(attacked("pgd", 0), attacked("pgd", 1)) < 0.5
    assert torch.equal(attacked("fgsm", 0), attacked("fgsm", 1))


@pytest.mark.parametrize("eps", [1, 2, 4, 8])
def test_the_surveys_settings(eps: int) -> None:
    """The evaluation table of REFERENCE, section 5."""
    step_size = {1: 0.5, 2: 0.5, 4: 1, 8: 2}[eps]
    assert ATTACKS["pgd"].budget(eps) == pgd_budget(eps) == Budget(eps / 255, 20, step_size / 255)
    assert ATTACKS["fgsm"].budget(eps) == fgsm_budget(eps) == Budget(eps / 255, 1, eps / 255)


# --- the parts -------------------------------------------------------------------------------------------------------


def test_frozen_eval_nests() -> None:
    """Fails if the inner context restores the outer one's freezing: HAT's helper may be attacked inside another."""
    model = unsettle(network("small"))
    before = Snapshot.of(model)
    with frozen_eval(model):
        inside = Snapshot.of(model)
        assert not any(inside.requires_grad.values()) and not any(inside.modes.values())
        with frozen_eval(model):
            pass
        inside.assert_same(model)
    before.assert_same(model)


def test_input_gradient_is_of_the_sum() -> None:
    """Fails for a mean: an image's gradient would shrink with the number of images beside it."""
    model = trained().double()
    x, y = pixels(6)

    def objective(logits: Tensor, y: Tensor) -> Tensor:
        return -torch.log_softmax(logits, dim=1).gather(1, y[:, None])[:, 0]

    together = input_gradient(model, x.double(), y, objective)
    alone = torch.cat([input_gradient(model, x[i : i + 1].double(), y[i : i + 1], objective) for i in range(6)])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-15)
    assert (together.flatten(1).abs().amax(dim=1) > 0).all()


def test_input_gradient_against_finite_differences() -> None:
    """Fails if the gradient is that of another tensor, or of a network in train mode."""
    model = trained().double()
    x, y = pixels(1)
    x = x.double()
    gradient = input_gradient(model, x, y, lambda logits, _: logits[:, 0] - logits[:, 1])

    def value(x: Tensor) -> float:
        with torch.no_grad():
            logits = model(x)
        return float(logits[0, 0] - logits[0, 1])

    step = torch.zeros_like(x)
    step[0, 1, 7, 9] = 1e-6
    assert float(gradient[0, 1, 7, 9]) == pytest.approx((value(x + step) - value(x - step)) / 2e-6, rel=1e-5)


def test_ascent_of_a_sum_of_pixels() -> None:
    """Fails if the gradient is changed in place: that of a sum is one value, seen at every pixel."""
    x = torch.full((2, 3, 4, 4), 0.5)
    budget = Budget(EPS, steps=2, step_size=EPS)
    model = Wrapped(nn.Identity(), lambda x: x.sum(dim=(2, 3)))
    x_adv = ascend(model, x, torch.zeros(2), lambda logits, _: logits.sum(dim=1), budget, x.clone())
    torch.testing.assert_close(x_adv, torch.full_like(x, 0.5 + EPS))


def test_no_steps_give_the_start() -> None:
    """Fails if a step is taken in any case."""
    x = torch.rand(2, 3, 4, 4)
    start = x.clone()
    x_adv = ascend(nn.Identity(), x, torch.zeros(2), cross_entropy, Budget(EPS, 0, EPS), start)
    assert torch.equal(x_adv, start)


@pytest.mark.parametrize("eps", [0.0, 1 / 255, EPS, 0.5, 1.0])
def test_projection_is_the_nearest_image_in_the_budget(eps: float) -> None:
    """Fails if one of the two bounds is left out, or when clamping to [0, 1] comes before the budget's clamp."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 8, 8, generator=generator)
    x[0, 0] = 0
    x[0, 1] = 1
    x_adv = x + torch.randn(x.shape, generator=generator)
    before = x_adv.clone()
    projected = project(x_adv, x, eps)
    nearest = x_adv.double().clamp((x.double() - eps).clamp(min=0), (x.double() + eps).clamp(max=1))
    torch.testing.assert_close(projected.double(), nearest, rtol=0, atol=SLACK)
    assert projected.min() >= 0 and projected.max() <= 1
    assert torch.equal(x_adv, before)
    torch.testing.assert_close(project(projected, x, eps), projected, rtol=0, atol=SLACK)


def test_uniform_start_fills_the_budget_evenly() -> None:
    """Fails if noise is of one sign, smaller than eps, or not clamped to the pixels' range."""
    grey = torch.full((1, 3, 64, 64), 0.5)
    noise = uniform_start(grey, EPS, streams(1)) - grey
    assert noise.abs().max() <= EPS + SLACK
    quarters = torch.histc(noise, bins=4, min=-EPS, max=EPS) / noise.numel()
    torch.testing.assert_close(quarters, torch.full((4,), 0.25), rtol=0, atol=0.02)

    black = uniform_start(torch.zeros(1, 3, 64, 64), EPS, streams(1))
    assert black.min() == 0 and black.max() > 0.9 * EPS
    assert 0.45 < float((black == 0).double().mean()) < 0.55


@pytest.mark.parametrize(("eps", "expected"), [(EPS, 0.001), (0.0005, None), (0.0, 0.0)])
def test_normal_start_is_small_and_within_the_budget(eps: float, expected: float | None) -> None:
    """Fails if the noise has another scale than 0.001, or exceeds a smaller budget."""
    grey = torch.full((1, 3, 64, 64), 0.5)
    noise = normal_start(grey, eps, streams(1)) - grey
    assert noise.abs().max() <= eps + 1e-7
    if expected is not None:
        assert float(noise.std()) == pytest.approx(expected, rel=0.05)


def test_attacks_leave_the_global_generator_alone() -> None:
    """Fails if noise comes from torch.rand: initial weights and dropout would depend on the attack."""
    model, (x, y) = trained(), pixels(2)
    before = torch.get_rng_state()
    for attack in TRAITS:
        made(attack)(model, x, y, rng=streams(2))
    assert torch.equal(torch.get_rng_state(), before)


# --- on a GPU --------------------------------------------------------------------------------------------------------


@pytest.fixture
def deterministic() -> Iterator[None]:
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    yield
    torch.backends.cudnn.deterministic = before


@pytest.mark.gpu
@attacks
@pytest.mark.parametrize("model_name", ["small-normalized", "res18-normalized", "chexnet-normalized"])
def test_contract_on_a_gpu(attack: str, model_name: str, deterministic: None) -> None:
    """The contract's clauses at once, with the random streams on the device."""
    device = torch.device("cuda:0")
    model = unsettle(network(model_name).to(device))
    before = Snapshot.of(model)
    x = pixels(4, size=32)[0].to(device)
    y = predictions(model, x)

    def attacked() -> Tensor:
        return made(attack)(model, x, y, rng=SampleRng.of(0, samples=range(4), device=device))

    x_adv = attacked()
    assert x_adv.device == x.device and not x_adv.requires_grad
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    assert within_eps(attack, x_adv, x)
    assert TRAITS[attack].all_or_nothing or not torch.equal(x_adv, x)
    assert share_equal(attacked(), x_adv) > 0.99
    before.assert_same(model)
