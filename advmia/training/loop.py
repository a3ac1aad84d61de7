"""The training loop, for every task and method.

`fit` trains epoch by epoch. A `Position` says how far the training has got. Together with the network, the average of
its weights, the optimizer, the schedule and the random generators, it is all that the rest of a training depends on.
`fit` saves this state after every epoch and, with a `Saver` of a shorter interval, within an epoch. No signal stops the
process within an update, or between keeping an epoch and saving the state. So a stopped or killed training continues
from its last saved state to the same weights (see `advmia.checkpoints.resume`).
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from advmia.data.loading import Batch, TrainingLoader
from advmia.errors import UserError
from advmia.metrics import Scores
from advmia.runtime import distributed, signals
from advmia.runtime.precision import FP32, Precision
from advmia.runtime.progress import ProgressBar
from advmia.runtime.rng import SampleRng
from advmia.runtime.signals import defer_signals
from advmia.training.averaging import WeightAverage
from advmia.training.methods import Method
from advmia.training.perturbation import WeightPerturbation, kept_buffers

_ADVICE = "try a lower --lr or a larger --bs; what was saved before is kept"


@dataclass(frozen=True)
class Epoch:
    """What one epoch of training gave."""

    number: int  # from 1
    loss: float  # mean over the epoch's samples
    lr: float  # at the epoch's end
    seconds: float  # of training, without validation
    clean: Scores | None  # None where the network was not validated after this epoch
    robust: Scores | None  # under the validation attack; None for natural training too
    validation_seconds: float = 0.0
    warning: str = ""  # what makes the clean scores worthless: `advmia.evaluation.guessing.BaseRate.fault`
    one_class: bool = False  # whether the network predicts the same for all clean images


@dataclass
class Position:
    """How far a training has got. It changes only at the end of an update, so that it can be saved after any."""

    epoch: int = 1  # the epoch under way
    steps: int = 0  # updates finished in this epoch
    loss: float = 0.0  # sum over the images of these updates
    seconds: float = 0.0  # that these updates took

    def next_epoch(self) -> None:
        """Moves to the start of the next epoch."""
        self.epoch, self.steps, self.loss, self.seconds = self.epoch + 1, 0, 0.0, 0.0

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        vars(self).update(state_dict)


class LossOf(nn.Module):
    """The mean loss of a method on a network, as a module: DDP wraps modules only.

    Maps (x, y, rng) to the loss, a scalar, and the examples that it is of; or takes these examples as `x_adv`.
    """

    def __init__(self, model: nn.Module, method: Method) -> None:
        super().__init__()
        self.model = model
        self._method = method  # no module, so that DDP sees the parameters of `model` only, not those of HAT's helper

    def forward(self, x: Tensor, y: Tensor, rng: SampleRng, x_adv: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if x_adv is None:
            x_adv = self._method.examples(self.model, x, y, rng=rng)
        return self._method.loss(self.model, x, x_adv, y), x_adv


def data_parallel(loss: LossOf, device: torch.device) -> nn.Module:
    """Wraps the loss in DDP when there are several processes (collective): gradients are averaged over the ranks.

    Each batch norm sees its rank's share of the batch. At the start of a step all ranks take over rank 0's running
    statistics, as DataParallel does in the published code.
    """
    if distributed.world_size() == 1:
        return loss
    return DistributedDataParallel(loss, device_ids=[device] if device.type == "cuda" else None)


@dataclass(frozen=True)
class Training:
    """A network, all that its updates need, and when it is validated."""

    model: nn.Module
    method: Method
    loader: TrainingLoader
    optimizer: Optimizer
    schedule: LRScheduler  # stepped after every update
    epochs: int  # in all
    precision: Precision = FP32
    perturbation: WeightPerturbation | None = None  # None: the gradient is taken at the weights themselves
    average: WeightAverage | None = None  # takes in the weights after every update
    validate_every: int = 1  # N: validated after every N-th epoch and after the last one

    @property
    def validated_model(self) -> nn.Module:
        """The network that is validated and kept: the average of the weights where there is one, else the network."""
        return self.average.model if self.average else self.model

    @cached_property
    def loss(self) -> nn.Module:
        """The method's loss as a module, in DDP when there are several processes (its first use is collective)."""
        return data_parallel(LossOf(self.model, self.method), self.loader.device)


class Saver:
    """Saves the state of a training: at once, or when `interval` seconds have passed since it was last saved."""

    def __init__(self, save: Callable[[], None] = lambda: None, interval: float = math.inf) -> None:
        self._save, self._interval = save, interval
        self._saved = time.monotonic()

    def save(self) -> None:
        self._save()
        self._saved = time.monotonic()

    def save_if_due(self, model: nn.Module) -> None:
        """Saves when it is time, unless a weight is no longer finite: the last good state is kept then."""
        if time.monotonic() - self._saved >= self._interval and _is_finite(model):
            self.save()


def validated_epochs(epochs: int, every: int) -> list[int]:
    """Returns the numbers of the epochs after which the network is validated: every N-th, and always the last.

    Raises `UserError` where `every`, which is N, is no whole number of at least 1.
    """
    if not isinstance(every, int) or every < 1:
        raise UserError(f"validation after every {every} epochs: expected a whole number of at least 1")
    return sorted({*range(every, epochs + 1, every), epochs})


def fit(
    training: Training,
    validate: Callable[[], tuple[Scores, Scores | None]],
    *,
    position: Position | None = None,
    saver: Saver | None = None,
    note: Callable[[], str] = str,
) -> Iterator[Epoch]:
    """Trains epoch by epoch and yields each one with its validation scores. The caller keeps what it wants to keep.

    `validate` returns the (clean, robust) scores of the network, and is called after every N-th epoch and after the
    last one. `position`: where to begin; it advances with the training. `saver` saves after each epoch that the caller
    has kept, and within an epoch when it is due. `note`: text that the progress bar shows beside the loss.

    Raises `UserError` when a loss or an output of the network is not finite, or N is no number of epochs.
    """
    position, saver = position or Position(), saver or Saver()
    model, schedule = training.model, training.schedule
    validated = validated_epochs(training.epochs, training.validate_every)
    # After a signal, the other ranks go on to the end of the main process' step, which it then saves.
    with nullcontext() if distributed.is_main() else defer_signals():
        while position.epoch <= training.epochs:
            mean = train_one_epoch(training, position, note=note, after_step=partial(saver.save_if_due, model))
            epoch = Epoch(position.epoch, mean, float(schedule.get_last_lr()[0]), position.seconds, None, None)
            if epoch.number in validated:
                epoch = _with_scores(epoch, training.validated_model, validate)
            with defer_signals():  # no signal between keeping the epoch and saving the state after it
                yield epoch
                position.next_epoch()
                if epoch.clean is not None or _is_finite(model):  # a validation would have found what is not finite
                    saver.save()


def _with_scores(epoch: Epoch, model: nn.Module, validate: Callable[[], tuple[Scores, Scores | None]]) -> Epoch:
    """Returns the epoch with the scores that `validate` gives, and the time that they took (collective)."""
    distributed.broadcast_buffers(model)  # each rank validates a share, on the same network
    start = time.perf_counter()
    try:
        clean, robust = validate()
    except UserError as error:
        raise UserError(f"after epoch {epoch.number}, {error}: {_ADVICE}") from error
    return replace(epoch, clean=clean, robust=robust, validation_seconds=time.perf_counter() - start)


def train_one_epoch(
    training: Training,
    position: Position,
    *,
    note: Callable[[], str] = str,
    after_step: Callable[[], None] = lambda: None,
) -> float:
    """Trains from `position` to the end of its epoch; returns the mean loss over the whole epoch.

    `note`: text that the progress bar shows beside the loss. `after_step` is called after each update, while signals
    are deferred. Raises `UserError` when a loss is not finite.
    """
    training.loss.train()
    loader, images = training.loader, len(training.loader.data)

    def loss_and_note(images_so_far: int) -> str:
        return f"loss {position.loss / images_so_far:.4f}{note()}"

    batches = ProgressBar(
        loader.epoch(position.epoch, skip=position.steps),
        images,
        f"epoch {position.epoch}/{training.epochs}",
        loss_and_note,
        initial=position.steps * loader.batch_size,
        size=lambda batch: batch.global_size,
    )
    start = time.perf_counter()
    for batch in batches:
        with defer_signals():  # no signal within an update
            position.loss += _update(training, batch, position) * batch.global_size
            training.schedule.step()
            position.steps += 1
            now = time.perf_counter()
            position.seconds, start = position.seconds + now - start, now
            after_step()
    return position.loss / images


def _update(training: Training, batch: Batch, position: Position) -> float:
    """Updates the network once; returns the mean loss over the batch, of which this rank may have a share only.

    With a perturbation of the weights, that loss and its gradient are those at the perturbed weights. The pass that
    finds the perturbation leaves no trace in the running statistics, as in the published code, where a copy runs it.
    """
    model, perturbation = training.model, training.perturbation
    if perturbation is None or not perturbation.is_active(position.epoch):
        mean, _ = _backward(training, batch, position)
    else:
        with kept_buffers(model):
            _, x_adv = _backward(training, batch, position)
        with perturbation.applied(model):
            mean, _ = _backward(training, batch, position, x_adv)
    training.optimizer.step()
    if training.average is not None:
        training.average.update(model)
    return mean


def _backward(
    training: Training, batch: Batch, position: Position, x_adv: Tensor | None = None
) -> tuple[float, Tensor]:
    """Sets the gradient of the network's parameters; returns the mean loss over the ranks and the examples.

    `x_adv`: examples that were made before; None to make them. Raises `UserError` when the loss is not finite.
    """
    loader = training.loader
    scope, samples = (loader.seed, "train", position.epoch), batch.index.tolist()
    rng = SampleRng.of(*scope, samples=samples, batch=position.steps, device=loader.device)
    with training.precision.autocast(loader.device):
        loss, x_adv = training.loss(batch.x, batch.y, rng, x_adv)
        loss = loss * batch.weight
    mean, stop_requested = _reduce(float(loss.detach()))
    if not math.isfinite(mean):
        step = f"epoch {position.epoch}, step {position.steps + 1} of {len(loader)}"
        raise UserError(f"the loss became {mean} in {step}: {_ADVICE}")
    training.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if stop_requested:
        signals.request_stop(signal.SIGTERM)
    return mean, x_adv


def _reduce(loss: float) -> tuple[float, bool]:
    """Returns the mean loss over the ranks, and whether any rank has a pending signal: then all stop after this step.

    Collective.
    """
    values = torch.tensor([loss / distributed.world_size(), float(signals.pending_signal())], dtype=torch.float64)
    mean, pending = distributed.all_reduce(values).tolist()
    return mean, pending > 0


def _is_finite(model: nn.Module) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())
