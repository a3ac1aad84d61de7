"""The training loop against one written by hand, its schedule against the formula, and the faults that end it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from advmia.budgets import Budget
from advmia.data.loading import Batch, TrainingLoader
from advmia.data.specs import Augmentation
from advmia.errors import UserError
from advmia.losses import cross_entropy
from advmia.runtime.rng import SampleRng
from advmia.tasks import SINGLE_LABEL, one_cycle, sgd
from advmia.training.loop import Epoch, Position, Saver, Training, fit, train_one_epoch
from advmia.training.methods import HAT, MART, METHODS, PGDAT, TRADES, MAAdvT, Method, MPAdvT, Natural
from tests.support.networks import CPU, SmallNet, image_data, record_calls, same_tensors, training_loader

BUDGET = Budget(8 / 255, 2, 4 / 255)


@dataclass(frozen=True)
class Stub(Method):
    """A method whose loss is a function of the batch's number in the epoch; it records its batches."""

    value: Callable[[int], float] = lambda batch: 1.0
    x: list[Tensor] = field(default_factory=list)
    noise: list[Tensor] = field(default_factory=list)
    shared: list[float] = field(default_factory=list)
    modes: list[bool] = field(default_factory=list)

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor:
        self.noise.append(rng.uniform(x))
        self.shared.append(rng.batch_uniform())
        return x

    def losses(self, model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Iterator[Tensor]:
        value = self.value(len(self.x))
        self.x.append(x)
        self.modes.append(model.training)
        yield next(model.parameters()).sum() * 0 + value


def new_model(seed: int = 0, dropout: float = 0.2) -> SmallNet:
    torch.manual_seed(seed)
    return SmallNet(3, dropout=dropout)


def new_optimizer(model: nn.Module, steps: int, lr: float = 0.05) -> tuple[Optimizer, LRScheduler]:
    optimizer = sgd(model.parameters(), lr, 1e-3)
    return optimizer, one_cycle(optimizer, lr, steps)


def train(model: nn.Module, method: Method, loader: TrainingLoader, *, epochs: int = 1) -> list[float]:
    optimizer, schedule = new_optimizer(model, max(epochs * (len(loader.data) // loader.batch_size + 1), 5))
    training = Training(model, method, loader, optimizer, schedule, epochs)
    return [train_one_epoch(training, Position(number)) for number in range(1, epochs + 1)]


# --- the schedule ----------------------------------------------------------------------------------------------------


def expected_cycle(step: int, steps: int, lr: float) -> tuple[float, float]:
    """Returns learning rate and momentum at a step: half a cosine up over a quarter of the steps, then one down."""

    def between(start: float, end: float, share: float) -> float:
        return end + (start - end) / 2 * (1 + math.cos(math.pi * share))

    top = 0.25 * steps - 1 or 4e-9
    if step <= top:
        return between(lr / 25, lr, step / top), between(0.95, 0.85, step / top)
    share = (step - top) / (steps - 1 - top)
    return between(lr, lr / 25 / 1e4, share), between(0.85, 0.95, share)


@pytest.mark.parametrize(
    "steps",
    [2, 3, 4, 5, 8, 40, 101],  # 4: torch would divide by 0.25 * 4 - 1
)
@pytest.mark.parametrize("lr", [0.01, 0.1])
def test_one_cycle(steps: int, lr: float) -> None:
    """Fails if the rise is not a quarter of the steps, the momentum is not cycled, or a default of torch changes."""
    model = nn.Linear(1, 1)
    optimizer = sgd(model.parameters(), lr, 1e-3)
    schedule = one_cycle(optimizer, lr, steps)
    for step in range(steps):
        group = optimizer.param_groups[0]
        assert (group["lr"], group["momentum"]) == pytest.approx(expected_cycle(step, steps, lr), rel=1e-9)
        optimizer.step()
        schedule.step()


def test_sgd() -> None:
    """Fails if momentum is not 0.9 (until the schedule cycles it), or weight decay or Nesterov are set otherwise."""
    (group,) = sgd(nn.Linear(1, 1).parameters(), 0.01, 1e-3).param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"], group["nesterov"]) == (0.01, 0.9, 1e-3, False)
    assert SINGLE_LABEL.optimizer is sgd and SINGLE_LABEL.schedule is one_cycle


@pytest.mark.parametrize(("count", "batch_size"), [(10, 4), (12, 4), (3, 8)])
def test_schedule_is_long_enough(count: int, batch_size: int) -> None:
    """Fails if an epoch takes more than floor(N / bs) + 1 steps: torch would raise an error in the last epoch."""
    epochs = 3
    loader = training_loader(image_data(count), batch_size)
    model = new_model()
    optimizer, schedule = new_optimizer(model, epochs * (count // batch_size + 1))
    training = Training(model, Stub(), loader, optimizer, schedule, epochs)
    for number in range(1, epochs + 1):
        train_one_epoch(training, Position(number))
    assert schedule.last_epoch == epochs * math.ceil(count / batch_size)


# --- one epoch -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [Natural(cross_entropy), MPAdvT(cross_entropy, BUDGET), TRADES(BUDGET, 6.0), MART(BUDGET, 6.0)],
    ids=lambda method: type(method).__name__,
)
def test_an_epoch_is_the_plain_loop(method: Method) -> None:
    """Fails if a gradient is kept for the next batch, the schedule steps at another time, or a batch is left out."""
    loader = training_loader(image_data(22), 8)
    model, plain = new_model(), new_model()
    optimizer, schedule = new_optimizer(model, 6)
    torch.manual_seed(1)  # dropout
    loss = train_one_epoch(Training(model, method, loader, optimizer, schedule, epochs=2), Position())

    optimizer, schedule = new_optimizer(plain, 6)
    torch.manual_seed(1)
    total, sizes = 0.0, []
    plain.train()
    for number, batch in enumerate(loader.epoch(1)):
        streams = SampleRng.of(loader.seed, "train", 1, samples=batch.index.tolist(), batch=number)
        value = method(plain, batch.x, batch.y, rng=streams)
        plain.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
        total += value.item() * len(batch.x)
        sizes.append(len(batch.x))
    assert sizes == [8, 8, 6]
    assert loss == pytest.approx(total / 22, rel=1e-6)
    assert same_tensors(model.state_dict(), plain.state_dict())
    assert not same_tensors(model.state_dict(), new_model().state_dict())


@pytest.mark.parametrize(("count", "losses", "mean"), [(10, (1, 2, 6), 2.4), (8, (1, 3), 2.0), (1, (5,), 5.0)], ids=str)
def test_the_last_short_batch_weighs_less(count: int, losses: tuple[int, ...], mean: float) -> None:
    """Fails if the means of batches are averaged: (1 + 2 + 6) / 3 is not (4 * 1 + 4 * 2 + 2 * 6) / 10."""
    method = Stub(value=lambda batch: float(losses[batch]))
    (loss,) = train(new_model(), method, training_loader(image_data(count), 4))
    assert len(method.x) == len(losses)
    assert loss == pytest.approx(mean)


def test_gradients_are_not_kept_between_batches() -> None:
    """Fails if gradients from before the epoch enter its first update."""
    loader = training_loader(image_data(8), 8)
    model, stained = new_model(dropout=0.0), new_model(dropout=0.0)
    for parameter in stained.parameters():
        parameter.grad = torch.full_like(parameter, 100.0)
    train(model, Natural(cross_entropy), loader)
    train(stained, Natural(cross_entropy), loader)
    assert same_tensors(model.state_dict(), stained.state_dict())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("faulty_batch", [0, 2])
def test_a_loss_that_is_not_finite_ends_the_training(value: float, faulty_batch: int) -> None:
    """Fails if a training goes on with NaN weights, or the error does not state the step and what to do."""
    method = Stub(value=lambda batch: value if batch == faulty_batch else 1.0)
    with pytest.raises(UserError, match=r"epoch 1\b.*--lr") as caught:
        train(new_model(), method, training_loader(image_data(10), 4))
    assert str(value) in str(caught.value) and "\n" not in str(caught.value)


def test_training_that_diverges_ends() -> None:
    """Fails if the training of a real network goes on although its learning rate, far too high, made the loss NaN."""
    model = new_model()
    loader = training_loader(image_data(16), 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e20)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    with pytest.raises(UserError, match=r"nan|inf"):
        for number in (1, 2, 3):
            training = Training(model, Natural(cross_entropy), loader, optimizer, schedule, epochs=3)
            train_one_epoch(training, Position(number))


def test_training_learns() -> None:
    """Fails if the optimizer ascends, or the labels do not belong to the images."""
    losses = train(new_model(dropout=0.0), Natural(cross_entropy), training_loader(image_data(96), 16), epochs=12)
    assert losses[0] > 1.0
    assert losses[-1] < 0.75 * losses[0]


# --- randomness ------------------------------------------------------------------------------------------------------


def trained_weights(method: Method, *, seed: int, weights_seed: int = 0) -> dict[str, Tensor]:
    model = new_model(weights_seed)
    train(model, method, training_loader(image_data(20), 8, seed), epochs=2)
    return model.state_dict()


def test_training_repeats_to_the_bit() -> None:
    """Fails if noise, order, augmentation or dropout depend on anything but the seeds."""
    methods: dict[str, Method] = {
        "nat": Natural(cross_entropy),
        "pgdat": PGDAT(cross_entropy, BUDGET),
        "trades": TRADES(BUDGET, 6.0),
        "mart": MART(BUDGET, 6.0),
        "hat": HAT(BUDGET, 6.0, new_model(7)),
        "mpadvt": MPAdvT(cross_entropy, BUDGET),
        "maadvt": MAAdvT(BUDGET, 6.0),
    }
    assert methods.keys() == METHODS.keys()
    for method in methods.values():
        first = trained_weights(method, seed=0)
        assert same_tensors(trained_weights(method, seed=0), first)
        assert not same_tensors(trained_weights(method, seed=1), first)


def test_noise_is_new_in_each_epoch_and_for_each_image() -> None:
    """Fails if each epoch starts its attacks at the same points, or the images of a batch share their noise."""
    method = Stub()
    loader = training_loader(image_data(6), 6)
    train(new_model(), method, loader, epochs=2)
    noise = torch.cat(method.noise)
    assert len(noise) == 12
    assert all(not torch.equal(noise[i], noise[j]) for i in range(12) for j in range(i))

    other = Stub()
    train(new_model(), other, training_loader(image_data(6), 6, seed=1))
    assert not torch.equal(other.noise[0], method.noise[0])


def test_noise_does_not_depend_on_the_batch_size() -> None:
    """Fails if noise is drawn for the batch: the same training on two GPUs would differ."""
    one_batch, two_batches = Stub(), Stub()
    train(new_model(), one_batch, training_loader(image_data(6), 6))
    train(new_model(), two_batches, training_loader(image_data(6), 4))
    assert torch.equal(torch.cat(two_batches.x), one_batch.x[0])
    assert torch.equal(torch.cat(two_batches.noise), one_batch.noise[0])


def test_each_step_draws_anew_for_its_batch() -> None:
    """Fails if steps or epochs share a draw, or it depends on the batch size or on where a training resumes."""
    stubs = {size: Stub() for size in (4, 3)}
    for size, stub in stubs.items():
        train(new_model(), stub, training_loader(image_data(10), size), epochs=2)
    four, three = (stub.shared for stub in stubs.values())
    assert len(set(four)) == len(four) == 6
    assert four[:3] == three[:3] and four[3:] == three[4:7]
    resumed, model = Stub(), new_model()
    loader = training_loader(image_data(10), 4)
    train_one_epoch(Training(model, resumed, loader, *new_optimizer(model, 9), epochs=2), Position(epoch=2, steps=1))
    assert resumed.shared == four[4:]


# --- fit -------------------------------------------------------------------------------------------------------------


def fitted(
    model: nn.Module,
    method: Method,
    validate: Callable[[], tuple[dict, dict | None]],
    epochs: int = 3,
    every: int = 1,
    **options: Any,
) -> Iterator[Epoch]:
    loader = training_loader(image_data(10), 4)
    optimizer, schedule = new_optimizer(model, epochs * 3)
    return fit(Training(model, method, loader, optimizer, schedule, epochs, validate_every=every), validate, **options)


def test_fit_validates_after_every_epoch() -> None:
    """Fails if an epoch is validated before it is trained, or gets the scores of another."""
    method = Stub(value=float)
    validated: list[int] = []

    def validate() -> tuple[dict[str, float], dict[str, float] | None]:
        validated.append(len(method.x))
        return {"accuracy": len(validated) / 10}, {"accuracy": len(validated) / 20}

    epochs = list(fitted(new_model(), method, validate))
    assert validated == [3, 6, 9]
    assert [epoch.number for epoch in epochs] == [1, 2, 3]
    assert [epoch.clean["accuracy"] for epoch in epochs if epoch.clean] == [0.1, 0.2, 0.3]
    assert [epoch.robust["accuracy"] for epoch in epochs if epoch.robust] == [0.05, 0.1, 0.15]
    assert [epoch.loss for epoch in epochs] == pytest.approx([0.8, 3.8, 6.8])  # (4a + 4(a+1) + 2(a+2)) / 10
    assert all(epoch.seconds > 0 for epoch in epochs)
    assert [epoch.lr for epoch in epochs] == pytest.approx(
        [expected_cycle(3, 9, 0.05)[0], expected_cycle(6, 9, 0.05)[0], epochs[2].lr]
    )


@pytest.mark.parametrize(("every", "validated"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (5, [5]), (9, [5])])
def test_fit_validates_after_every_nth_epoch_and_the_last(every: int, validated: list[int]) -> None:
    """Fails if another epoch is validated, or one that is not has the scores of another."""
    method = Stub()
    epochs = list(fitted(new_model(), method, lambda: ({"batches": len(method.x)}, {}), 5, every=every))
    assert [epoch.number for epoch in epochs] == [1, 2, 3, 4, 5]
    assert {epoch.number: epoch.clean for epoch in epochs if epoch.clean} == {n: {"batches": 3 * n} for n in validated}
    assert [epoch.number for epoch in epochs if epoch.validation_seconds > 0 and epoch.robust == {}] == validated


@pytest.mark.parametrize("every", [0, -1, 1.5])
def test_fit_refuses_another_interval(every: Any) -> None:
    """Fails if a number of epochs that is no number from Python ends in a traceback or in no validation."""
    with pytest.raises(UserError, match=rf"after every {every} epochs: expected a whole number of at least 1"):
        next(fitted(new_model(), Stub(), lambda: ({}, None), every=every))


def test_fit_saves_no_spoiled_weights_without_a_validation() -> None:
    """Fails if weights that are not finite replace the last good state, as no validation finds them."""
    saved: list[int] = []
    model, position = new_model(), Position()
    saver = Saver(lambda: saved.append(position.epoch))
    epochs = fitted(model, Stub(), lambda: ({}, None), 3, every=3, position=position, saver=saver)
    next(epochs)
    next(epochs)
    assert saved == [2]
    nn.init.constant_(next(model.parameters()), math.nan)
    with pytest.raises(UserError, match="the loss became nan in epoch 3, step 1"):
        next(epochs)
    assert saved == [2]


def test_fit_trains_in_train_mode_whatever_validation_leaves() -> None:
    """Fails if train() is called only before the first epoch."""
    model, method = new_model(), Stub()

    def validate() -> tuple[dict[str, float], None]:
        model.eval()
        return {}, None

    epochs = list(fitted(model.eval(), method, validate))
    assert method.modes == [True] * 9
    assert [epoch.robust for epoch in epochs] == [None] * 3


def test_fit_stops_where_its_caller_stops() -> None:
    """Fails if all epochs are trained before the first is yielded: a kill would lose them."""
    method = Stub()
    epochs = fitted(new_model(), method, lambda: ({}, None))
    assert method.x == []
    next(epochs)
    assert len(method.x) == 3


def test_fit_shuffles_anew_in_every_epoch() -> None:
    """Fails if two epochs come in the same order."""
    method = Stub()
    list(fitted(new_model(), method, lambda: ({}, None), epochs=2))
    first, second = torch.cat(method.x[:3]), torch.cat(method.x[3:])
    assert not torch.equal(first, second)


def test_the_network_sees_each_image_once_an_epoch() -> None:
    """Fails if the last small batch is dropped, or an image comes twice (shuffled order, no augmentation)."""
    data = image_data(10)
    loader = TrainingLoader(data, 4, CPU, "shuffled", Augmentation(), 0)
    model = new_model()
    calls = record_calls(model)
    train(model, Natural(cross_entropy), loader)
    seen = sorted(int((image * 255).round().sum()) for call in calls for image in call.x)
    assert seen == sorted(int(image.sum(dtype="int64")) for image in data.images)


@pytest.mark.gpu
def test_an_epoch_on_a_gpu(gpu: torch.device) -> None:
    """Fails if the loss is far from that on the CPU, where no noise is drawn."""
    losses = []
    for device in (CPU, gpu):
        loader = TrainingLoader(image_data(22), 8, device, "weighted", Augmentation(horizontal_flip=0.5), 0)
        model = copy.deepcopy(new_model(dropout=0.0)).to(device)
        losses.append(train(model, Natural(cross_entropy), loader, epochs=2))
        batch = next(iter(loader.epoch(1)))
        assert isinstance(batch, Batch) and batch.x.device == next(model.parameters()).device
        assert math.isfinite(train(model, PGDAT(cross_entropy, BUDGET), loader)[0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
