"""Adversarial weight perturbation and the average of weights, against plain implementations of an update."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import ConstantLR

from advmia.budgets import Budget
from advmia.data.loading import Batch, TrainingLoader
from advmia.data.specs import Augmentation
from advmia.data.tensors import as_data
from advmia.errors import UserError
from advmia.losses import binary_cross_entropy, cross_entropy, pixel_cross_entropy
from advmia.runtime.precision import Precision
from advmia.runtime.rng import SampleRng
from advmia.tasks import MULTI_LABEL, SEGMENTATION, SINGLE_LABEL, Task
from advmia.training.averaging import WeightAverage
from advmia.training.loop import Position, Saver, Training, train_one_epoch
from advmia.training.memory import step_memory
from advmia.training.methods import PGDAT, TRADES, Method
from advmia.training.perturbation import WeightPerturbation
from tests.support.formulas import plain_ce, plain_trades
from tests.support.networks import CPU, SmallNet, SmallSegmenter, pixels, same_tensors, targets

BUDGET = Budget(8 / 255, 2, 4 / 255)
GAMMA, DECAY, LR = 0.02, 0.4, 0.1
IMAGES, SIZE, CLASSES = 6, 8, 3


@dataclass(frozen=True)
class Case:
    """A method for a task, and its loss of a network, images, examples and targets, written from the formula."""

    task: Task
    method: Method
    loss: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]

    def training(self, images: int = IMAGES, epochs: int = 1) -> Training:
        """Returns a training of a new network, always the same, in batches of six images."""
        torch.manual_seed(0)
        model: nn.Module = SmallSegmenter(CLASSES) if self.task is SEGMENTATION else SmallNet(CLASSES)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        x, y = pixels(images, size=SIZE)[0], targets(self.task, images, SIZE, CLASSES)
        data = as_data(x, y, name="noise", classes=CLASSES)
        loader = TrainingLoader(data, IMAGES, CPU, "shuffled", Augmentation(), 0)
        optimizer = SGD(model.parameters(), LR, momentum=0.9, weight_decay=0.0)
        return Training(model, self.method, loader, optimizer, ConstantLR(optimizer, 1.0), epochs)


def plain_bce(p: Tensor, y: Tensor) -> Tensor:
    return -(y * p.log() + (1 - y) * (1 - p).log())


CASES = {
    "pgdat for labels": Case(
        SINGLE_LABEL, PGDAT(cross_entropy, BUDGET), lambda f, x, x_adv, y: plain_ce(f(x_adv), y).mean()
    ),
    "trades for labels": Case(
        SINGLE_LABEL, TRADES(BUDGET, 6.0), lambda f, x, x_adv, y: plain_trades(f(x), f(x_adv), y, 6.0)
    ),
    "pgdat for findings": Case(
        MULTI_LABEL,
        PGDAT(binary_cross_entropy, BUDGET),
        lambda f, x, x_adv, y: plain_bce(f(x_adv).sigmoid(), y).mean(),
    ),
    "pgdat for masks": Case(
        SEGMENTATION, PGDAT(pixel_cross_entropy, BUDGET), lambda f, x, x_adv, y: F.cross_entropy(f(x_adv), y)
    ),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))


def examples_of(training: Training, batch: Batch, model: nn.Module, epoch: int = 1) -> Tensor:
    streams = SampleRng.of(0, "train", epoch, samples=batch.index.tolist())
    return training.method.examples(model, batch.x, batch.y, rng=streams)


# --- adversarial weight perturbation ---------------------------------------------------------------------------------


def plain_perturbed_update(model: nn.Module, loss: Callable[[nn.Module], Tensor]) -> float:
    """Updates a network in float64 as the published code does; returns its loss at the perturbed weights.

    A proxy, which is a copy, takes an optimizer's step up the loss. The network moves by the difference, rescaled to
    gamma times the norm of each weight; the optimizer steps, and the network moves back.
    """
    proxy = copy.deepcopy(model)
    climber = SGD(proxy.parameters(), lr=0.01)
    (-loss(proxy)).backward()
    climber.step()
    steps = {}
    with torch.no_grad():
        for (name, old), new in zip(model.named_parameters(), proxy.parameters(), strict=True):
            if "weight" in name and old.dim() > 1:
                steps[old] = GAMMA * old.norm() / ((new - old).norm() + 1e-20) * (new - old)
        for weight, step in steps.items():
            weight.add_(step)
    optimizer = SGD(model.parameters(), LR)
    value = loss(model)
    value.backward()
    optimizer.step()
    with torch.no_grad():
        for weight, step in steps.items():
            weight.sub_(step)
    return value.item()


@cases
def test_a_perturbed_update(case: Case) -> None:
    """Fails if the weights move by another step, down the loss or not at all, biases or batch norms move, the examples
    are made anew, or running statistics take in the pass that finds the step."""
    training = replace(case.training(), perturbation=WeightPerturbation(GAMMA))
    plain = copy.deepcopy(training.model).train()
    (batch,) = training.loader.epoch(1)
    x_adv = examples_of(training, batch, training.model.train())
    y = batch.y.double() if case.task is MULTI_LABEL else batch.y

    reported = train_one_epoch(training, Position())
    unperturbed = case.loss(copy.deepcopy(plain.double()), batch.x.double(), x_adv.double(), y).item()
    expected = plain_perturbed_update(plain, lambda f: case.loss(f, batch.x.double(), x_adv.double(), y))
    assert reported == pytest.approx(expected, rel=1e-4) and expected > 1.001 * unperturbed
    scale = max(float(value.grad.abs().max()) for value in plain.parameters() if value.grad is not None)
    for (name, value), other in zip(training.model.named_parameters(), plain.parameters(), strict=True):
        assert value.grad is not None and other.grad is not None
        torch.testing.assert_close(value.grad.double(), other.grad, rtol=1e-3, atol=1e-4 * scale, msg=name)
        torch.testing.assert_close(value.double(), other, rtol=1e-4, atol=1e-4 * LR * scale, msg=name)
    for (name, buffer), statistic in zip(training.model.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(buffer.to(statistic.dtype), statistic, rtol=1e-4, atol=1e-6, msg=name)


@dataclass(frozen=True)
class Watching(Method):
    """A method that records the weights at which its loss is computed, and its examples."""

    method: Method
    weights: list[dict[str, Tensor]] = field(default_factory=list)
    examples_seen: list[Tensor] = field(default_factory=list)
    faulty: int = -1  # the number of the call whose loss is NaN

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor:
        return self.method.examples(model, x, y, rng=rng)

    def losses(self, model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Iterator[Tensor]:
        self.weights.append({name: value.detach().clone() for name, value in model.named_parameters()})
        self.examples_seen.append(x_adv)
        for term in self.method.losses(model, x, x_adv, y):
            yield term * (float("nan") if len(self.weights) == self.faulty else 1.0)


def test_weights_come_back_to_the_bit() -> None:
    """Fails if a weight differs after an update of rate 0, or does not move by gamma of its norm within it."""
    case = CASES["trades for labels"]
    training, method = case.training(images=4 * IMAGES), Watching(case.method)
    training.model.get_parameter("conv1.weight").requires_grad_(False)  # a frozen layer has no gradient
    before = {name: value.detach().clone() for name, value in training.model.named_parameters()}
    training.optimizer.param_groups[0]["lr"] = 0.0
    training.schedule.base_lrs = [0.0]
    train_one_epoch(replace(training, method=method, perturbation=WeightPerturbation(GAMMA)), Position())
    assert same_tensors(dict(training.model.named_parameters()), before)
    assert len(method.weights) == 8
    for first, second in zip(method.weights[::2], method.weights[1::2], strict=True):
        assert same_tensors(first, before)
        for name, value in before.items():
            moved = float((second[name] - value).norm() / value.norm()) if value.dim() > 1 else 0.0
            assert moved == pytest.approx(GAMMA if name in ("conv2.weight", "linear.weight") else 0.0, rel=1e-4), name
            assert value.dim() > 1 or torch.equal(second[name], value)
    pairs = zip(method.examples_seen[::2], method.examples_seen[1::2], strict=True)
    assert all(first is second for first, second in pairs)


def test_a_loss_that_is_not_finite_at_the_perturbed_weights() -> None:
    """Fails if the training goes on, or leaves the network with perturbed weights."""
    case = CASES["pgdat for labels"]
    training = case.training()
    before = {name: value.detach().clone() for name, value in training.model.named_parameters()}
    method = Watching(case.method, faulty=2)
    with pytest.raises(UserError, match="the loss became nan in epoch 1, step 1"):
        train_one_epoch(replace(training, method=method, perturbation=WeightPerturbation(GAMMA)), Position())
    assert same_tensors(dict(training.model.named_parameters()), before)


def test_warm_up() -> None:
    """Fails if the weights move before the warm-up has ended, or not in the epoch after it."""
    case = CASES["pgdat for labels"]
    after: list[list[dict[str, Tensor]]] = []
    for perturbation in (None, WeightPerturbation(GAMMA, warm_up=1)):
        training = replace(case.training(), perturbation=perturbation)
        epochs = []
        for number in (1, 2):
            train_one_epoch(training, Position(number))
            epochs.append({name: value.detach().clone() for name, value in training.model.state_dict().items()})
        after.append(epochs)
    (plain_first, plain_second), (first, second) = after
    assert same_tensors(first, plain_first) and not same_tensors(second, plain_second)


# --- the average of the weights --------------------------------------------------------------------------------------


@cases
def test_average_of_the_weights(case: Case) -> None:
    """Fails if the average takes in the weights before an update or with another decay, or lacks running statistics."""
    training = case.training(images=5 * IMAGES)
    average = WeightAverage(training.model, DECAY)
    expected = {name: value.detach().double().clone() for name, value in training.model.state_dict().items()}
    updates = 0

    def take_in() -> None:
        nonlocal updates
        decay = min(DECAY, (1 + updates) / (10 + updates))
        for name, value in training.model.state_dict().items():
            new = value.double()
            expected[name] = decay * expected[name] + (1 - decay) * new if value.is_floating_point() else new
        updates += 1

    train_one_epoch(replace(training, average=average), Position(), saver=Saver(take_in, 0.0))
    assert updates == 5
    actual = average.model.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name].double(), value, rtol=1e-5, atol=1e-6, msg=name)
    assert not torch.allclose(actual["conv1.weight"], training.model.state_dict()["conv1.weight"], atol=1e-4)
    assert not average.model.training and not any(value.requires_grad for value in average.model.parameters())


def test_the_average_continues_from_its_state() -> None:
    """Fails if the number of updates is not saved: the next decay would be another."""
    training = CASES["pgdat for labels"].training(images=3 * IMAGES)
    first, second = (WeightAverage(training.model, 0.995) for _ in range(2))
    train_one_epoch(replace(training, average=first), Position())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for parameter in training.model.parameters():
        parameter.data += 1
    for average in (first, second):
        average.update(training.model)
    assert same_tensors(first.model.state_dict(), second.model.state_dict())


# --- both ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["trades for labels", "pgdat for masks"])
def test_bf16(case: str) -> None:
    """Fails if weights, gradients or the average are rounded to bf16, or become NaN."""
    training = CASES[case].training()
    average = WeightAverage(training.model, DECAY)
    perturbed = replace(training, perturbation=WeightPerturbation(GAMMA), average=average, precision=Precision("bf16"))
    train_one_epoch(perturbed, Position())
    for value in (*training.model.parameters(), *average.model.parameters()):
        assert value.dtype == torch.float32 and value.isfinite().all()
    weight = average.model.get_parameter("conv1.weight")
    assert not torch.equal(weight, weight.bfloat16().float())


def test_memory() -> None:
    """Fails if the estimate of a step's memory leaves out AWP's copy of the weights, or counts the average again."""
    training = CASES["pgdat for labels"].training()
    weights = sum(4 * value.numel() for value in training.model.parameters())
    both = replace(training, perturbation=WeightPerturbation(GAMMA), average=WeightAverage(training.model, DECAY))
    assert step_memory(both, SIZE).fixed == step_memory(training, SIZE).fixed + weights


def test_what_is_refused() -> None:
    """Fails if a number of which the training makes nonsense is accepted from Python."""
    for gamma in (0.0, -0.01, 1.0, float("nan")):
        with pytest.raises(UserError, match=r"\(AWP\) is .*expected one such as 0\.01"):
            WeightPerturbation(gamma)
    for decay in (0.0, 1.0, 1.5, float("nan")):
        with pytest.raises(UserError, match=r"\(EMA\) is .*expected one such as 0\.995"):
            WeightAverage(SmallNet(2), decay)
