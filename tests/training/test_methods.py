"""Losses and training methods against plain implementations, written here from the papers' formulas."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from advmia.attacks.common import Objective
from advmia.budgets import Budget, training_budget
from advmia.data.specs import DATASETS
from advmia.losses import (
    binary_cross_entropy,
    cross_entropy,
    kl_divergence,
    pixel_cross_entropy,
    soft_dice,
)
from advmia.runtime.rng import SampleRng
from advmia.tasks import MULTI_LABEL, SEGMENTATION, Task
from advmia.training.methods import HAT, MART, METHODS, PGDAT, TRADES, Method, MethodSettings, Natural, default_beta
from tests.support.networks import (
    Call,
    SmallNet,
    Snapshot,
    StubRng,
    network,
    pixels,
    record_calls,
    same_tensors,
    share_equal,
    streams,
    targets,
    trained,
)


@pytest.fixture(autouse=True)
def attacks_run_on_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests follow single passes; that attacks run on a faithful copy instead is tested in test_inference."""
    monkeypatch.setattr("advmia.training.methods.inference_copy", lambda model, x: model)


IMAGES = 20
EPS, STEPS, STEP = 8 / 255, 3, 2 / 255
BUDGET = Budget(EPS, STEPS, STEP)

# --- the formulas, plainly -------------------------------------------------------------------------------------------


def plain_ce(logits: Tensor, y: Tensor) -> Tensor:
    """-log p_y of each sample."""
    p = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
    return torch.stack([-p[i, label].log() for i, label in enumerate(y.tolist())])


def plain_kl(reference_logits: Tensor, logits: Tensor) -> Tensor:
    """KL(p || q) = sum p log(p / q) of each sample, p by the reference."""
    p = reference_logits.exp() / reference_logits.exp().sum(dim=1, keepdim=True)
    q = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
    return (p * (p / q).log()).sum(dim=1)


def plain_trades(logits: Tensor, logits_adv: Tensor, y: Tensor, beta: float) -> Tensor:
    """Zhang et al. 2019: CE(f(x), y) + beta KL(f(x) || f(x')), both averaged over the batch."""
    return plain_ce(logits, y).sum() / len(y) + beta * plain_kl(logits, logits_adv).sum() / len(y)


def plain_mart(logits: Tensor, logits_adv: Tensor, y: Tensor, beta: float) -> Tensor:
    """Wang et al. 2020: BCE(p(x'), y) + beta KL(p(x) || p(x')) (1 - p_y(x)), with the published code's small terms."""
    losses = []
    for i, label in enumerate(y.tolist()):
        p, p_adv = logits[i].softmax(dim=0), logits_adv[i].softmax(dim=0)
        wrong = max(p_adv[k] for k in range(len(p_adv)) if k != label)
        boosted = -p_adv[label].log() - (1.0001 - wrong + 1e-12).log()
        divergence = sum(p[k] * (p[k].log() - (p_adv[k] + 1e-12).log()) for k in range(len(p)))
        losses.append(boosted + beta * divergence * (1.0000001 - p[label]))
    return torch.stack(losses).mean()


def plain_hat(
    logits: Tensor, logits_adv: Tensor, logits_help: Tensor, y: Tensor, y_help: Tensor, beta: float, gamma: float
) -> Tensor:
    """Rade and Moosavi-Dezfooli 2022: TRADES' loss + gamma CE(f(x + h (x' - x)), helper's label)."""
    return plain_trades(logits, logits_adv, y, beta) + gamma * plain_ce(logits_help, y_help).sum() / len(y)


def plain_ascent(
    model: nn.Module, x: Tensor, start: Tensor, loss: Callable[[Tensor], Tensor], eps: float, steps: int, step: float
) -> Tensor:
    """Sign steps on a network in eval mode, projected to eps and to [0, 1] after each; all in float64."""
    model = copy.deepcopy(model).eval().double()
    x, x_adv = x.double(), start.double()
    for _ in range(steps):
        x_adv = x_adv.detach().requires_grad_(True)
        loss(model(x_adv)).backward()
        assert x_adv.grad is not None
        x_adv = x_adv.detach() + step * torch.sign(x_adv.grad)
        x_adv = torch.minimum(torch.maximum(x_adv, x - eps), x + eps).clamp(0, 1)
    return x_adv.detach().float()


def plain_bce(logits: Tensor, y: Tensor) -> Tensor:
    """-(y log p + (1 - y) log(1 - p)), averaged over the labels of each sample."""
    p = 1 / (1 + (-logits).exp())
    return -(y * p.log() + (1 - y) * (1 - p).log()).sum(dim=1) / logits.shape[1]


def plain_pixel_ce(logits: Tensor, y: Tensor) -> Tensor:
    """The cross-entropy of every pixel, averaged over each image."""
    return torch.stack([plain_ce(one.flatten(1).T, mask.flatten()).mean() for one, mask in zip(logits, y, strict=True)])


def plain_soft_dice(logits: Tensor, y: Tensor) -> Tensor:
    """1 - mean over classes of (2 sum p t + 1) / (sum p + sum t + 1), of each image."""
    losses = []
    for one, mask in zip(logits, y, strict=True):
        p = one.exp() / one.exp().sum(dim=0)
        shares = [(2 * p[k][mask == k].sum() + 1) / (p[k].sum() + (mask == k).sum() + 1) for k in range(len(p))]
        losses.append(1 - sum(shares) / len(p))
    return torch.stack(losses)


# --- losses ----------------------------------------------------------------------------------------------------------


def random_logits(classes: int, seed: int, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(IMAGES, classes, generator=generator, dtype=torch.float64)


def labels(classes: int) -> Tensor:
    return torch.arange(IMAGES) % classes


@pytest.mark.parametrize("classes", [2, 3, 4, 7])
def test_cross_entropy(classes: int) -> None:
    """Fails when samples are averaged, or another class's probability is taken."""
    logits = random_logits(classes, 0).requires_grad_(True)
    y = labels(classes)
    loss, expected = cross_entropy(logits, y), plain_ce(logits, y)
    assert loss.shape == (IMAGES,)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    weights = torch.linspace(1, 2, IMAGES, dtype=torch.float64)
    gradients = [torch.autograd.grad((weights * value).sum(), logits)[0] for value in (loss, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 3, 4, 7])
def test_kl_divergence(classes: int) -> None:
    """Fails when the arguments are the other way round, or one of the two carries no gradient."""
    logits = random_logits(classes, 0).requires_grad_(True)
    reference = random_logits(classes, 1).requires_grad_(True)
    loss, expected = kl_divergence(logits, reference), plain_kl(reference, logits)
    assert loss.shape == (IMAGES,)
    assert not torch.allclose(expected, plain_kl(logits, reference), rtol=0.01)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    weights = torch.linspace(1, 2, IMAGES, dtype=torch.float64)
    gradients = [torch.autograd.grad((weights * value).sum(), (logits, reference)) for value in (loss, expected)]
    for ours, theirs in zip(*gradients, strict=True):
        assert theirs.abs().max() > 0.1
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("loss", "plain", "task"),
    [
        (binary_cross_entropy, plain_bce, MULTI_LABEL),
        (pixel_cross_entropy, plain_pixel_ce, SEGMENTATION),
        (soft_dice, plain_soft_dice, SEGMENTATION),
    ],
    ids=["binary", "pixels", "soft dice"],
)
@pytest.mark.parametrize("classes", [2, 3])
def test_losses_of_the_other_tasks(loss: Objective, plain: Objective, task: Task, classes: int) -> None:
    """Fails when a loss is taken over the batch, or over the wrong axis; the last image has one class only."""
    generator = torch.Generator().manual_seed(0)
    shape = (5, classes) if task is MULTI_LABEL else (5, classes, 6, 7)
    logits = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    logits.requires_grad_(True)
    y = targets(task, 5, 7, classes)
    if task is SEGMENTATION:
        y = y[:, :6]
        y[-1] = 0
    ours, theirs = loss(logits, y), plain(logits, y)
    assert ours.shape == (5,) and ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-6)
    weights = torch.linspace(1, 2, 5, dtype=torch.float64)
    gradients = [torch.autograd.grad((weights * value).sum(), logits)[0] for value in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


def test_soft_dice_is_between_0_and_1() -> None:
    """Fails when a class that an image lacks counts as wholly missed though it is not predicted."""
    y = torch.zeros(2, 8, 8, dtype=torch.int64)
    y[0, :4] = 1
    sure = 50.0 * torch.stack([y == 0, y == 1], dim=1).double()
    torch.testing.assert_close(soft_dice(sure, y), torch.zeros(2), rtol=0, atol=1e-6)
    assert (soft_dice(-sure, y) > 0.9).all() and (soft_dice(-sure, y) < 1).all()


@pytest.mark.parametrize("loss", [cross_entropy, lambda logits, y: kl_divergence(logits, logits.flip(1))])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_scored_in_float32(loss: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype) -> None:
    """Fails when the softmax is taken in half precision, whose probabilities have two or three digits."""
    logits, y = random_logits(4, 0).to(dtype), labels(4)
    assert loss(logits, y).dtype == torch.float32
    assert torch.equal(loss(logits, y), loss(logits.float(), y))
    assert not torch.equal(loss(logits, y), loss(random_logits(4, 0).float(), y))


@pytest.mark.parametrize("scale", [1e3, 1e5])
def test_losses_of_extreme_logits_are_finite(scale: float) -> None:
    """Fails when a probability is taken first and its logarithm then: log 0."""
    logits = random_logits(3, 0, scale).float().requires_grad_(True)
    reference = random_logits(3, 1, scale).float().requires_grad_(True)
    total = cross_entropy(logits, labels(3)).sum() + kl_divergence(logits, reference).sum()
    assert total.isfinite()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(total, (logits, reference)))


def test_divergence_from_itself_is_0() -> None:
    """Fails when the two arguments are not treated by one formula; its gradient is 0 too, hence TRADES' noisy start."""
    logits = random_logits(3, 0).float().requires_grad_(True)
    loss = kl_divergence(logits, logits.detach())
    torch.testing.assert_close(loss, torch.zeros(IMAGES), rtol=0, atol=1e-6)
    assert torch.autograd.grad(loss.sum(), logits)[0].abs().max() < 1e-6


# --- methods ---------------------------------------------------------------------------------------------------------


def split(calls: list[Call]) -> tuple[list[Tensor], list[Tensor]]:
    """What a network was given in train mode (by the loss) and in eval mode (by the attack)."""
    return [call.x for call in calls if "" in call.training], [call.x for call in calls if "" not in call.training]


def whole_batches(blocks: list[Tensor]) -> list[Tensor]:
    """The batches that were passed in blocks of sixteen."""
    count = -(-IMAGES // 16)
    return [torch.cat(blocks[start : start + count]) for start in range(0, len(blocks), count)]


def _with_name(name: str, text: str) -> str:
    return f"{name}: {text}"


class Stage:
    """A network in training, a method applied to it once, and what the network was given."""

    def __init__(self, method: Method, classes: int = 3, rng: SampleRng | None = None, dropout: float = 0.2) -> None:
        self.model = trained(classes).train()
        self.model.dropout.p = dropout
        self.x, self.y = pixels(IMAGES, classes=classes, seed=2)
        self.original = copy.deepcopy(self.model)
        calls = record_calls(self.model)
        torch.manual_seed(0)  # dropout
        self.loss = method(self.model, self.x, self.y, rng=rng or streams(IMAGES))
        self.loss.backward()
        self.calls = calls
        self.in_train, blocks = split(calls)
        self.in_eval = whole_batches(blocks)

    def logits(self) -> list[Tensor]:
        """Of the original network on what the loss was taken of, in the same order and with the same dropout."""
        torch.manual_seed(0)
        return [self.original(x).double() for x in self.in_train]

    def assert_loss_is(self, expected: Tensor) -> None:
        """In value, and in the gradient of every parameter."""
        assert self.loss.shape == ()
        torch.testing.assert_close(self.loss.double(), expected, rtol=1e-5, atol=1e-6)
        expected.backward()
        gradients = {name: value.grad for name, value in self.original.named_parameters()}
        scale = max(float(gradient.abs().max()) for gradient in gradients.values() if gradient is not None)
        for name, value in self.model.named_parameters():
            torch.testing.assert_close(
                value.grad, gradients[name], rtol=1e-3, atol=1e-4 * scale, msg=partial(_with_name, name)
            )


def helper(classes: int = 3) -> nn.Module:
    """An untrained network, in train mode: it often contradicts the labels."""
    torch.manual_seed(1)
    return SmallNet(classes)


def every_method(classes: int = 3, budget: Budget = BUDGET) -> dict[str, Method]:
    return {
        "nat": Natural(cross_entropy),
        "pgdat": PGDAT(cross_entropy, budget),
        "trades": TRADES(budget, 6.0),
        "mart": MART(budget, 6.0),
        "hat": HAT(budget, 6.0, helper(classes)),
    }


methods = pytest.mark.parametrize("name", METHODS)
classes_ = pytest.mark.parametrize("classes", [2, 3, 4])


def test_natural() -> None:
    """Fails when the loss is a sum, or of another task than the objective given."""
    stage = Stage(Natural(cross_entropy))
    assert stage.in_eval == []
    stage.assert_loss_is(plain_ce(stage.logits()[0], stage.y).sum() / IMAGES)
    twice = Stage(Natural(lambda logits, y: 2 * cross_entropy(logits, y)))
    torch.testing.assert_close(twice.loss, 2 * stage.loss)


@classes_
def test_pgdat(classes: int) -> None:
    """Fails when the loss is of the clean images, or the attack starts elsewhere than uniformly within eps."""
    noise = torch.rand(IMAGES, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    rng = StubRng(noise)
    stage = Stage(PGDAT(cross_entropy, BUDGET), classes, rng)
    x, y = stage.x, stage.y
    start = (x + EPS * (2 * noise - 1)).clamp(0, 1)
    x_adv = plain_ascent(stage.original, x, start, lambda logits: plain_ce(logits, y).sum(), EPS, STEPS, STEP)
    assert rng.asked == ["uniform"] and len(stage.in_eval) == STEPS
    assert share_equal(stage.in_train[0], x_adv) > 0.995
    stage.assert_loss_is(plain_ce(stage.logits()[0], y).sum() / IMAGES)


@classes_
@pytest.mark.parametrize("beta", [0.0, 1.0, 6.0])
def test_trades(classes: int, beta: float) -> None:
    """Fails when the divergence is the other way round, is summed, or its clean side carries no gradient."""
    rng = StubRng(torch.randn(IMAGES, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    stage = Stage(TRADES(BUDGET, beta), classes, rng)
    assert_trades_example(stage, rng)
    logits, logits_adv = stage.logits()
    stage.assert_loss_is(plain_trades(logits, logits_adv, stage.y, beta))


def assert_trades_example(stage: Stage, rng: StubRng) -> None:
    """The loss is of x and x', and x' ascends KL(f(x) || f(x')) from x + 0.001 times normal noise."""
    x = stage.x
    with torch.no_grad():
        clean = copy.deepcopy(stage.original).eval().double()(x.double())
    start = (x + 0.001 * rng.noise).clamp(0, 1)
    x_adv = plain_ascent(stage.original, x, start, lambda logits: plain_kl(clean, logits).sum(), EPS, STEPS, STEP)
    assert rng.asked == ["normal"]
    assert len(stage.in_eval) == 1 + STEPS
    torch.testing.assert_close(stage.in_eval[1], start, rtol=0, atol=1e-6)
    assert torch.equal(stage.in_train[0], x)
    assert share_equal(stage.in_train[1], x_adv) > 0.99
    assert (x_adv - x).abs().max() > STEP


@classes_
@pytest.mark.parametrize("beta", [0.0, 6.0])
def test_mart(classes: int, beta: float) -> None:
    """Fails when the true class counts as the strongest wrong one, or the weight is not 1 - p_y of the clean image."""
    rng = StubRng(torch.randn(IMAGES, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    stage = Stage(MART(BUDGET, beta), classes, rng)
    x, y = stage.x, stage.y
    start = (x + 0.001 * rng.noise).clamp(0, 1)
    x_adv = plain_ascent(stage.original, x, start, lambda logits: plain_ce(logits, y).sum(), EPS, STEPS, STEP)
    assert rng.asked == ["normal"] and len(stage.in_eval) == STEPS
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
    """Fails when the helper labels another image than x', the third image is clamped, or a weight is missing."""
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
    stage.assert_loss_is(plain_hat(logits, logits_adv, logits_help, stage.y, y_help, beta, gamma))


def test_hat_leaves_its_helper_alone() -> None:
    """Fails when the helper learns, gathers gradients or statistics, or labels with dropout."""
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
    """Fails when examples are made with batch statistics (as the survey's trainChex), or the update has none."""
    stage = Stage(every_method()[name])
    passes = {"nat": 1, "pgdat": 1, "trades": 2, "mart": 2, "hat": 3}[name]
    modules = {name for name, _ in stage.model.named_modules()}
    parameters = {name for name, _ in stage.model.named_parameters()}
    assert len(stage.in_train) == passes
    for call in stage.calls:
        attacking = not call.training
        assert call.training == (set() if attacking else modules)
        assert call.learning == (set() if attacking else parameters)
    # The attack comes first, so that every statistic that the update's passes move is theirs.
    assert all("" in call.training for call in stage.calls[-passes:])


@methods
def test_batch_statistics_move_once_a_pass_of_the_update(name: str) -> None:
    """Fails when the attack's passes move the running statistics that the network is evaluated with."""
    stage = Stage(every_method()[name])
    stage.logits()  # the same passes on the original
    assert stage.model.bn1.num_batches_tracked == stage.original.bn1.num_batches_tracked
    torch.testing.assert_close(stage.model.bn1.running_mean, stage.original.bn1.running_mean)
    torch.testing.assert_close(stage.model.bn2.running_var, stage.original.bn2.running_var)


@methods
def test_gradients_that_were_there_are_added_to(name: str) -> None:
    """Fails when a method clears or skips gradients: accumulating over batches would be impossible."""
    method = every_method()[name]
    model, (x, y) = trained().train(), pixels(IMAGES)
    model.bn1.momentum = model.bn2.momentum = 0.0  # so that both are attacked alike
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
    """Fails when the attack's freezing ends with all parameters learning: fine-tuning a head would train the rest."""
    model, (x, y) = trained().train(), pixels(4)
    model.conv1.requires_grad_(False)
    every_method()[name](model, x, y, rng=streams(4)).backward()
    assert model.conv1.weight.grad is None and not model.conv1.weight.requires_grad
    assert model.linear.weight.grad is not None


@methods
def test_eps_0_attacks_nothing(name: str) -> None:
    """Fails when the start's noise is added at eps 0: the loss would be of images that were never in the data."""
    stage = Stage(every_method(budget=training_budget(0))[name], dropout=0.0)
    assert all(torch.equal(x, stage.x) for x in stage.in_train)
    ce = plain_ce(stage.logits()[0], stage.y).mean()
    if name in ("nat", "pgdat", "trades"):
        torch.testing.assert_close(stage.loss.double(), ce, rtol=1e-5, atol=1e-5)


@methods
def test_equal_streams_give_equal_losses(name: str) -> None:
    """Fails when a method draws from the global generator, or ignores its streams."""
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
    """Fails when a probability that underflows to 0 is divided by: one such image would end the training in NaN."""
    model, (x, y) = trained().train(), pixels(IMAGES)
    with torch.no_grad():
        model.linear.weight.mul_(scale)
    loss = every_method()[name](model, x, y, rng=streams(IMAGES))
    loss.backward()
    assert loss.isfinite()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in model.parameters())


@methods
def test_last_batch_of_one_image(name: str) -> None:
    """Fails when an axis of size 1 is squeezed away, as in MART's published code."""
    model, (x, y) = trained().train(), pixels(1)
    loss = every_method()[name](model, x, y, rng=streams(1))
    assert loss.shape == () and loss.isfinite()


@methods
def test_deep_network(name: str) -> None:
    """Fails when a method works on the small network alone."""
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
    """Fails when a setting reaches the wrong field: all are numbers."""
    model_helper = helper()
    settings = MethodSettings(cross_entropy, BUDGET, beta=2.0, gamma=3.0, hat_step=4.0, helper=model_helper)
    assert {name: build(settings) for name, build in METHODS.items()} == {
        "nat": Natural(objective=cross_entropy),
        "pgdat": PGDAT(objective=cross_entropy, budget=BUDGET),
        "trades": TRADES(budget=BUDGET, beta=2.0),
        "mart": MART(budget=BUDGET, beta=2.0),
        "hat": HAT(budget=BUDGET, beta=2.0, helper=model_helper, gamma=3.0, hat_step=4.0),
    }


@pytest.mark.parametrize("dataset", DATASETS)
def test_default_beta(dataset: str) -> None:
    """Fails if a beta differs from the survey's."""
    trades = 12 if dataset == "mesidorBin" else 6
    hat = {"mesidorBin": 12, "mesidorMulti": 3}.get(dataset, 6)
    expected = {"nat": 0, "pgdat": 0, "trades": trades, "mart": 6, "hat": hat}
    assert {name: default_beta(name, dataset) for name in METHODS} == expected


@pytest.mark.parametrize(("eps", "step_size"), [(0, 0.5), (1, 0.5), (2, 0.5), (4, 1), (8, 2)])
def test_training_budget(eps: int, step_size: float) -> None:
    """Fails if the attack in training differs from the survey's: 10 steps, of a size that depends on eps."""
    assert training_budget(eps) == Budget(eps / 255, 10, step_size / 255)


@pytest.mark.gpu
@methods
def test_methods_on_a_gpu(name: str) -> None:
    """Loss and gradients as on the CPU, where x' is the same; here, that they are finite and repeatable."""
    device = torch.device("cuda:0")
    method = every_method()[name]
    if isinstance(method, HAT):
        method.helper.to(device)
    model = trained().to(device).train()
    model.dropout.p = 0.0
    x, y = (tensor.to(device) for tensor in pixels(IMAGES))
    losses = [method(model, x, y, rng=SampleRng.of(0, samples=range(IMAGES), device=device)) for _ in range(2)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-3)
    losses[0].backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in model.parameters())
