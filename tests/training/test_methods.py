"""The training methods against plain implementations of the papers' formulas (`tests.support.formulas`)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import count

import pytest
import torch
from torch import Tensor, nn

from advmia.attacks.common import Objective
from advmia.budgets import Budget, training_budget
from advmia.data.datasets import DATASETS
from advmia.losses import cross_entropy, kl_divergence, pixel_cross_entropy
from advmia.runtime.rng import SampleRng
from advmia.tasks import MULTI_LABEL, SEGMENTATION, Task
from advmia.training.gradients import backward
from advmia.training.methods import (
    HAT,
    MART,
    MASK_ATTACKS,
    METHODS,
    PGDAT,
    TRADES,
    MAAdvT,
    Method,
    MethodSettings,
    MPAdvT,
    Natural,
    default_beta,
)
from tests.support.formulas import (
    plain_ascent,
    plain_bce,
    plain_ce,
    plain_hat,
    plain_kl,
    plain_label_kl,
    plain_mart,
    plain_pixel_ce,
    plain_pixel_kl,
    plain_trades,
)
from tests.support.networks import (
    SmallNet,
    Snapshot,
    StubRng,
    network,
    pixels,
    record_calls,
    same_tensors,
    share_equal,
    streams,
    trained,
)
from tests.training.stage import BUDGET, EPS, IMAGES, STEP, STEPS, Stage, whole_batches


@pytest.fixture(autouse=True)
def attacks_run_on_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets attacks run on the network itself: these tests record its passes. test_inference.py tests the copy."""
    monkeypatch.setattr("advmia.training.methods.inference_copy", lambda model, x, **_: model)


def helper(classes: int = 3) -> nn.Module:
    """Returns an untrained network in train mode, whose classes often contradict the labels."""
    torch.manual_seed(1)
    return SmallNet(classes)


def every_method(classes: int = 3, budget: Budget = BUDGET) -> dict[str, Method]:
    return {
        "nat": Natural(cross_entropy),
        "pgdat": PGDAT(cross_entropy, budget),
        "trades": TRADES(budget, 6.0),
        "mart": MART(budget, 6.0),
        "hat": HAT(budget, 6.0, helper(classes)),
        "mpadvt": MPAdvT(cross_entropy, budget),
        "maadvt": MAAdvT(budget, 6.0),
    }


methods = pytest.mark.parametrize("name", METHODS)
classes_ = pytest.mark.parametrize("classes", [2, 3, 4])


def test_natural() -> None:
    """Fails if the loss is a sum, or another than that of the objective."""
    stage = Stage(Natural(cross_entropy))
    assert stage.in_eval == []
    stage.assert_loss_is(plain_ce(stage.logits()[0], stage.y).sum() / IMAGES)
    twice = Stage(Natural(lambda logits, y: 2 * cross_entropy(logits, y)))
    torch.testing.assert_close(twice.loss, 2 * stage.loss)


@classes_
def test_pgdat(classes: int) -> None:
    """Fails if the loss is that of the clean images, or the attack does not start uniformly within eps."""
    noise = torch.rand(IMAGES, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    rng = StubRng(noise)
    stage = Stage(PGDAT(cross_entropy, BUDGET), classes, rng)
    x, y = stage.x, stage.y
    start = (x + EPS * (2 * noise - 1)).clamp(0, 1)
    x_adv = plain_ascent(stage.original, x, start, lambda logits: plain_ce(logits, y).sum(), EPS, STEPS, STEP)
    assert rng.draws == ["uniform"] and len(stage.in_eval) == STEPS
    assert share_equal(stage.in_train[0], x_adv) > 0.995
    stage.assert_loss_is(plain_ce(stage.logits()[0], y).sum() / IMAGES)


def test_pgdat_with_the_loss_of_segpgd() -> None:
    """Fails if the weights of right and wrong pixels are swapped or constant, or training descends this loss too."""
    noise = torch.rand(IMAGES, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    method = PGDAT(pixel_cross_entropy, BUDGET, MASK_ATTACKS["segpgd"])
    stage = Stage(method, 2, StubRng(noise), task=SEGMENTATION)
    x, y, passes = stage.x, stage.y, count()

    def loss(logits: Tensor) -> Tensor:
        weight = next(passes) / (2 * STEPS)
        weights = torch.where(logits.argmax(dim=1) == y, 1 - weight, weight)
        return -(weights * logits.log_softmax(dim=1).gather(1, y[:, None])[:, 0]).sum()

    start = (x + EPS * (2 * noise - 1)).clamp(0, 1)
    x_adv = plain_ascent(stage.original, x, start, loss, EPS, STEPS, STEP)
    plain = plain_ascent(stage.original, x, start, lambda z: plain_pixel_ce(z, y).sum(), EPS, STEPS, STEP)
    assert share_equal(stage.in_train[0], x_adv) > 0.995 > 0.98 > share_equal(stage.in_train[0], plain)
    stage.assert_loss_is(plain_pixel_ce(stage.logits()[0], y).mean())


@classes_
@pytest.mark.parametrize("beta", [0.0, 1.0, 6.0])
def test_trades(classes: int, beta: float) -> None:
    """Fails if the arguments of the KL are swapped, it is summed, or its clean side has no gradient."""
    rng = StubRng(torch.randn(IMAGES, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    stage = Stage(TRADES(BUDGET, beta), classes, rng)
    assert_trades_example(stage, rng)
    logits, logits_adv = stage.logits()
    stage.assert_loss_is(plain_trades(logits, logits_adv, stage.y, beta))


@pytest.mark.parametrize(
    ("task", "plain_loss", "divergence"),
    [(MULTI_LABEL, plain_bce, plain_label_kl), (SEGMENTATION, plain_pixel_ce, plain_pixel_kl)],
    ids=["findings", "masks"],
)
def test_trades_of_findings_and_masks(task: Task, plain_loss: Objective, divergence: Objective) -> None:
    """Fails if findings share a softmax, labels or pixels are summed, or the attack ascends another divergence."""
    rng = StubRng(torch.randn(IMAGES, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    torch.manual_seed(0)
    settings = MethodSettings(task.objective, task.divergence, BUDGET, 6.0, 0, 0, None)
    stage = Stage(METHODS["trades"](settings), 3, rng, task=task)
    assert_trades_example(stage, rng, divergence)
    logits, logits_adv = stage.logits()
    stage.assert_loss_is(plain_loss(logits, stage.y).mean() + 6 * divergence(logits, logits_adv).mean())


def assert_trades_example(stage: Stage, rng: StubRng, divergence: Objective = plain_kl) -> None:
    """Checks that the loss is of x and x', and that x' ascends KL(f(x) || f(x')) from x + 0.001 times normal noise."""
    x = stage.x
    with torch.no_grad():
        clean = copy.deepcopy(stage.original).eval().double()(x.double())
    start = (x + 0.001 * rng.noise).clamp(0, 1)
    x_adv = plain_ascent(stage.original, x, start, lambda logits: divergence(clean, logits).sum(), EPS, STEPS, STEP)
    assert rng.draws == ["normal"]
    assert len(stage.in_eval) == 1 + STEPS
    torch.testing.assert_close(stage.in_eval[1], start, rtol=0, atol=1e-6)
    assert torch.equal(stage.in_train[0], x)
    assert share_equal(stage.in_train[1], x_adv) > 0.99
    assert (x_adv - x).abs().max() > STEP


@classes_
@pytest.mark.parametrize("beta", [0.0, 6.0])
def test_mart(classes: int, beta: float) -> None:
    """Fails if the true class counts as the strongest wrong one, or the weight is not 1 - p_y of the clean image."""
    rng = StubRng(torch.randn(IMAGES, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    stage = Stage(MART(BUDGET, beta), classes, rng)
    x, y = stage.x, stage.y
    start = (x + 0.001 * rng.noise).clamp(0, 1)
    x_adv = plain_ascent(stage.original, x, start, lambda logits: plain_ce(logits, y).sum(), EPS, STEPS, STEP)
    assert rng.draws == ["normal"] and len(stage.in_eval) == STEPS
    assert torch.equal(stage.in_train[0], x)
    assert share_equal(stage.in_train[1], x_adv) > 0.995
    logits, logits_adv = stage.logits()
    assert 0 < (logits_adv.argmax(dim=1) == y).sum() < IMAGES  # the strongest class is the true one for some, not all
    stage.assert_loss_is(plain_mart(logits, logits_adv, y, beta))


@classes_
@pytest.mark.parametrize(
    ("beta", "gamma", "step"), [(6.0, 1.0, 3.5), (0.0, 0.5, 2.0)], ids=["published", "other weights"]
)
def test_hat(classes: int, beta: float, gamma: float, step: float) -> None:
    """Fails if the helper labels another image than x', the third image is clamped, or a weight is missing."""
    model_helper = helper(classes)
    helper_calls = record_calls(model_helper)
    rng = StubRng(torch.randn(IMAGES, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    stage = Stage(HAT(BUDGET, beta, model_helper, gamma, step), classes, rng)
    assert_trades_example(stage, rng)
    x, x_adv, x_help = stage.in_train
    torch.testing.assert_close(x_help, x + step * (x_adv - x), rtol=0, atol=1e-6)
    assert x_help.min() < 0
    assert torch.equal(whole_batches([call.x for call in helper_calls])[-1], x_adv)
    with torch.no_grad():
        y_help = model_helper.eval()(x_adv).argmax(dim=1)
    assert (y_help != stage.y).any()
    logits, logits_adv, logits_help = stage.logits()
    stage.assert_loss_is(plain_hat((logits, logits_adv, logits_help), stage.y, y_help, beta, gamma))


def test_hat_leaves_its_helper_alone() -> None:
    """Fails if the helper learns, collects gradients or statistics, or labels with dropout."""
    model_helper = helper()
    before, calls = Snapshot.of(model_helper), record_calls(model_helper)
    Stage(HAT(BUDGET, 6.0, model_helper))
    assert calls and all(call.training == call.learning == frozenset() for call in calls)
    before.assert_same(model_helper)
    assert all(gradient is None for gradient in before.gradients.values())


def test_hat_defaults() -> None:
    """Fails if h or gamma differs from the survey's."""
    method = HAT(BUDGET, 6.0, helper())
    assert (method.hat_step, method.gamma) == (3.5, 1.0)


@methods
def test_attack_is_in_eval_mode_and_the_update_in_train_mode(name: str) -> None:
    """Fails if examples are made with batch statistics, as in the survey's trainChex, or the update uses none."""
    stage = Stage(every_method()[name])
    passes = {"trades": 2, "mart": 2, "hat": 3, "maadvt": 2}.get(name, 1)
    modules = {name for name, _ in stage.model.named_modules()}
    parameters = {name for name, _ in stage.model.named_parameters()}
    assert len(stage.in_train) == passes
    for call in stage.calls:
        attacking = not call.training
        assert call.training == (set() if attacking else modules)
        assert call.learning == (set() if attacking else parameters)
    # The attack comes first: only the update's passes change the statistics.
    assert all("" in call.training for call in stage.calls[-passes:])


def _summed_gradient(model: nn.Module) -> float:
    gradients = [value.grad for value in model.parameters() if value.grad is not None]
    return sum(float(gradient.double().abs().sum()) for gradient in gradients)


@methods
def test_the_gradient_of_each_term_comes_before_the_next_term(name: str) -> None:
    """Fails if a term needs more passes than the method says, by which its memory is estimated, if the gradient is not
    that of the sum of the terms, or if a term makes a pass before the gradient of the term before."""
    method, (x, y) = every_method()[name], pixels(IMAGES)
    whole, by_terms = (trained().train() for _ in range(2))
    for model in (whole, by_terms):
        model.dropout.p = 0.0
    loss = method(whole, x, y, rng=streams(IMAGES))
    loss.backward()
    calls, passes = record_calls(by_terms), list[int]()
    x_adv = method.examples(by_terms, x, y, rng=streams(IMAGES))

    def counted() -> Iterator[Tensor]:
        calls.clear()
        for term in method.losses(by_terms, x, x_adv, y):
            passes.append(len(calls))
            before = _summed_gradient(by_terms)
            calls.clear()
            yield term
            assert _summed_gradient(by_terms) != before

    torch.testing.assert_close(backward(counted(), 0.5), 0.5 * loss.detach())
    assert max(passes) == getattr(method, "passes", 1) and sum(passes) == (3 if name == "hat" else max(passes))
    for value, other in zip(whole.parameters(), by_terms.parameters(), strict=True):
        assert value.grad is not None and other.grad is not None
        if len(passes) == 1:
            assert torch.equal(0.5 * value.grad, other.grad)
        torch.testing.assert_close(0.5 * value.grad, other.grad, rtol=1e-4, atol=1e-5 * float(value.grad.abs().max()))


@methods
def test_batch_statistics_move_once_a_pass_of_the_update(name: str) -> None:
    """Fails if the attack's passes change the running statistics that the network is evaluated with."""
    stage = Stage(every_method()[name])
    stage.logits()  # the same passes on the original
    assert stage.model.bn1.num_batches_tracked == stage.original.bn1.num_batches_tracked
    torch.testing.assert_close(stage.model.bn1.running_mean, stage.original.bn1.running_mean)
    torch.testing.assert_close(stage.model.bn2.running_var, stage.original.bn2.running_var)


@methods
def test_gradients_that_were_there_are_added_to(name: str) -> None:
    """Fails if a method clears or skips gradients: they could not be accumulated over batches."""
    method = every_method()[name]
    model, (x, y) = trained().train(), pixels(IMAGES)
    model.bn1.momentum = model.bn2.momentum = 0.0  # so that both times the attack is the same
    method(model, x, y, rng=streams(IMAGES)).backward()
    once = {key: value.grad.clone() for key, value in model.named_parameters() if value.grad is not None}
    assert len(once) == len(list(model.parameters()))
    method(model, x, y, rng=streams(IMAGES)).backward()
    for key, value in model.named_parameters():
        torch.testing.assert_close(
            value.grad, 2 * once[key], rtol=1e-3, atol=1e-4 * float(once[key].abs().max()) + 1e-6
        )


@methods
def test_frozen_layers_stay_frozen(name: str) -> None:
    """Fails if after the attack all parameters learn: fine-tuning a head would train the rest as well."""
    model, (x, y) = trained().train(), pixels(4)
    model.conv1.requires_grad_(False)
    every_method()[name](model, x, y, rng=streams(4)).backward()
    assert model.conv1.weight.grad is None and not model.conv1.weight.requires_grad
    assert model.linear.weight.grad is not None


@methods
def test_eps_0_attacks_nothing(name: str) -> None:
    """Fails if the start's noise is added at eps 0."""
    stage = Stage(every_method(budget=training_budget(0))[name], dropout=0.0)
    assert all(torch.equal(x, stage.x) for x in stage.in_train)
    ce = plain_ce(stage.logits()[0], stage.y).mean()
    if name in ("nat", "pgdat", "trades", "mpadvt"):
        torch.testing.assert_close(stage.loss.double(), ce, rtol=1e-5, atol=1e-5)


@methods
def test_equal_streams_give_equal_losses(name: str) -> None:
    """Fails if a method draws from the global generator, or ignores its streams."""
    method, (x, y) = every_method()[name], pixels(IMAGES)

    def loss(*scope: object) -> Tensor:
        model = trained().train()
        model.dropout.p = 0.0
        return method(model, x, y, rng=streams(IMAGES, *scope)).detach()

    state = torch.get_rng_state()
    assert torch.equal(loss(0), loss(0))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(loss(0), loss(1)) == (name == "nat")


@methods
@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_overconfident_networks_have_finite_gradients(name: str, scale: float) -> None:
    """Fails if a method divides by a probability that underflows to 0: one such image would end the training in NaN."""
    model, (x, y) = trained().train(), pixels(IMAGES)
    with torch.no_grad():
        model.get_parameter("linear.weight").mul_(scale)
    loss = every_method()[name](model, x, y, rng=streams(IMAGES))
    loss.backward()
    assert loss.isfinite()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in model.parameters())


@methods
def test_last_batch_of_one_image(name: str) -> None:
    """Fails if an axis of size 1 is squeezed away, as in MART's published code."""
    model, (x, y) = trained().train(), pixels(1)
    loss = every_method()[name](model, x, y, rng=streams(1))
    assert loss.shape == () and loss.isfinite()


@methods
def test_deep_network(name: str) -> None:
    """Fails if a method works on the small network only."""
    model, (x, y) = network("res18-normalized"), pixels(2)
    before = Snapshot.of(model)
    every_method()[name](model, x, y, rng=streams(2)).backward()
    after = Snapshot.of(model)
    assert after.modes == before.modes and after.requires_grad == before.requires_grad
    assert all(gradient is not None for gradient in after.gradients.values())
    weights = {key: before.values[key] for key in before.gradients}
    assert same_tensors({key: after.values[key] for key in weights}, weights)


# --- building --------------------------------------------------------------------------------------------------------


def test_methods_are_built_from_the_settings() -> None:
    """Fails if a setting reaches the wrong field: all are numbers."""
    model_helper = helper()
    settings = MethodSettings(cross_entropy, kl_divergence, BUDGET, 2.0, 3.0, 4.0, model_helper)
    assert {name: build(settings) for name, build in METHODS.items()} == {
        "nat": Natural(objective=cross_entropy),
        "pgdat": PGDAT(objective=cross_entropy, budget=BUDGET),
        "trades": TRADES(budget=BUDGET, beta=2.0, objective=cross_entropy, divergence=kl_divergence),
        "mart": MART(budget=BUDGET, beta=2.0),
        "hat": HAT(budget=BUDGET, beta=2.0, helper=model_helper, gamma=3.0, hat_step=4.0),
        "mpadvt": MPAdvT(objective=cross_entropy, budget=BUDGET),
        "maadvt": MAAdvT(budget=BUDGET, beta=2.0),
    }


@pytest.mark.parametrize("dataset", DATASETS)
def test_default_beta(dataset: str) -> None:
    """Fails if a beta differs from the survey's or, of MAAdvT, its authors'."""
    trades = 12 if dataset == "mesidorBin" else 6
    hat = {"mesidorBin": 12, "mesidorMulti": 3}.get(dataset, 6)
    maadvt = 8 if dataset.startswith("mesidor") else 6
    expected = {"nat": 0, "pgdat": 0, "trades": trades, "mart": 6, "hat": hat, "mpadvt": 0, "maadvt": maadvt}
    assert {name: default_beta(name, dataset) for name in METHODS} == expected


@pytest.mark.parametrize(("eps", "step_size"), [(0, 0.5), (1, 0.5), (2, 0.5), (4, 1), (8, 2)])
def test_training_budget(eps: int, step_size: float) -> None:
    """Fails if the attack in training differs from the survey's: 10 steps, of a size that depends on eps."""
    assert training_budget(eps) == training_budget(eps, "hat") == Budget(eps / 255, 10, step_size / 255)


@pytest.mark.gpu
@methods
def test_methods_on_a_gpu(name: str, gpu: torch.device) -> None:
    """Fails if on a GPU a method's loss does not repeat, or a gradient is not finite."""
    method = every_method()[name]
    if isinstance(method, HAT):
        method.helper.to(gpu)
    model = trained().to(gpu).train()
    model.dropout.p = 0.0
    x, y = (tensor.to(gpu) for tensor in pixels(IMAGES))
    losses = [
        method(each, x, y, rng=SampleRng.of(0, samples=range(IMAGES), device=gpu))
        for each in (copy.deepcopy(model), model)  # a call moves the running statistics, which the attack depends on
    ]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-3)
    losses[1].backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in model.parameters())
