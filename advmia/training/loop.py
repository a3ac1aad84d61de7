"""The training loop, for every task and method.

`fit` trains epoch by epoch. A `Position` says how far the training has got. Together with the network, the average of
its weights, the optimizer, the schedule and the random generators, it is all that the rest of a training depends on.
`fit` saves this state after every epoch and, with a `Saver` of a shorter interval, within an epoch. No signal stops the
process within an update, or between keeping an epoch and saving the state. So a stopped or killed training continues
from its last saved state to the same weights (see `advmia.checkpoints.resume`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from advmia.data.loading import Batch, TrainingLoader
from advmia.errors import UserError
from advmia.metrics import Scores
from advmia.runtime import distributed
from advmia.runtime.precision import FP32, Precision
from advmia.runtime.progress import ProgressBar
from advmia.runtime.rng import SampleRng
from advmia.runtime.signals import Stopped, defer_signals
from advmia.training.averaging import WeightAverage
from advmia.training.gradients import average_gradients, backward
from advmia.training.methods import Method
from advmia.training.perturbation import WeightPerturbation, kept_buffers
from advmia.training.progress import ADVICE, LossReader, Position
from advmia.training.recomputation import Recomputation


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
    recomputation: Recomputation | None = None  # of activations; None: all are kept for the gradient

    @property
    def validated_model(self) -> nn.Module:
        """The network that is validated and kept: the average of the weights where there is one, else the network."""
        return self.average.model if self.average else self.model

    @contextmanager
    def loss_context(self) -> Iterator[None]:
        """Makes passes of the network in the block those of its loss: in this precision, with what is recomputed."""
        recomputing = self.recomputation.applied() if self.recomputation else nullcontext()
        with self.precision.autocast(self.loader.device), recomputing:
            yield


class Saver:
    """Saves the state of a training: at once, or when `interval` seconds have passed since it was last saved."""

    def __init__(self, save: Callable[[], None] = lambda: None, interval: float = math.inf) -> None:
        self._save, self._interval = save, interval
        self._saved = time.monotonic()

    def save(self) -> None:
        self._save()
        self._saved = time.monotonic()

    def is_due(self) -> bool:
        return time.monotonic() - self._saved >= self._interval

    def save_if_finite(self, model: nn.Module) -> None:
        """Saves unless a weight is no longer finite: the last good state is kept then."""
        if _is_finite(model):
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
    distributed.broadcast_weights(model)
    # After a signal, the other ranks go on to the end of the main process' step, which it then saves.
    with nullcontext() if distributed.is_main() else defer_signals():
        while position.epoch <= training.epochs:
            mean = train_one_epoch(training, position, note=note, saver=saver)
            epoch = Epoch(position.epoch, mean, float(schedule.get_last_lr()[0]), position.seconds, None, None)
            if epoch.number in validated:
                epoch = _with_scores(epoch, training.validated_model, validate)
            with defer_signals():  # no signal between keeping the epoch and saving the state after it
                yield epoch
                position.next_epoch()
                if epoch.clean is not None:  # a validation would have found what is not finite
                    saver.save()
                else:
                    saver.save_if_finite(model)


def _with_scores(epoch: Epoch, model: nn.Module, validate: Callable[[], tuple[Scores, Scores | None]]) -> Epoch:
    """Returns the epoch with the scores that `validate` gives, and the time that they took (collective)."""
    distributed.broadcast_buffers(model)  # each rank validates a share, on the same network
    start = time.perf_counter()
    try:
        clean, robust = validate()
    except UserError as error:
        raise UserError(f"after epoch {epoch.number}, {error}: {ADVICE}") from error
    return replace(epoch, clean=clean, robust=robust, validation_seconds=time.perf_counter() - start)


def train_one_epoch(
    training: Training, position: Position, *, note: Callable[[], str] = str, saver: Saver | None = None
) -> float:
    """Trains from `position` to the end of its epoch; returns the mean loss over the whole epoch.

    `note`: text that the progress bar shows beside the loss. `saver` saves after an update when it is due, while
    signals are deferred. Raises `UserError` when a loss is not finite.
    """
    training.model.train()
    loader, saver = training.loader, saver or Saver()
    done = position.steps * loader.batch_size
    reader = LossReader(position, len(loader), done)
    batches = ProgressBar(
        loader.epoch(position.epoch, skip=position.steps),
        len(loader.data),
        f"epoch {position.epoch}/{training.epochs}",
        lambda _: f"{reader}{note()}",
        initial=done,
        size=lambda batch: batch.global_size,
    )
    start = time.perf_counter()

    def add_time() -> None:
        nonlocal start
        now = time.perf_counter()
        position.seconds, start = position.seconds + now - start, now

    try:
        for batch in batches:
            with defer_signals():  # no signal within an update
                _update(training, batch, position, reader)
                training.schedule.step()
                position.steps += 1
                add_time()
                if saver.is_due():
                    reader.read_all()  # so that no state is saved after an update by a loss that is not finite
                    saver.save_if_finite(training.model)
    except Stopped:
        reader.read_all()
        raise
    reader.read_all()
    add_time()
    return position.loss / len(loader.data)


def _update(training: Training, batch: Batch, position: Position, reader: LossReader) -> None:
    """Updates the network once, on a batch of which this rank may have a share only (collective).

    Each batch norm sees its rank's share of the batch. At the start all ranks take over rank 0's running statistics, as
    DataParallel does in the published code.
    """
    distributed.broadcast_buffers(training.model)
    reader.add(loss_gradient(training, batch, position), batch.global_size)
    training.optimizer.step()
    if training.average is not None:
        training.average.update(training.model)


def loss_gradient(training: Training, batch: Batch, position: Position) -> Tensor:
    """Sets the gradient of the network's parameters for an update, a mean over the ranks (collective).

    With a perturbation of the weights, the gradient is that at the perturbed weights. The pass that finds the
    perturbation leaves no trace in the running statistics, as in the published code, where a copy runs it.

    Returns the losses of this rank's share, without a gradient, shape (1,) or (2,): the last one is that of the
    gradient, and the one before it that at the weights themselves.
    """
    model, perturbation = training.model, training.perturbation
    if perturbation is None or not perturbation.is_active(position.epoch):
        return _gradient(training, batch, position)[0][None]
    with kept_buffers(model):
        first, x_adv = _gradient(training, batch, position)
    with perturbation.applied(model):
        second, _ = _gradient(training, batch, position, x_adv)
    return torch.stack([first, second])


def _gradient(
    training: Training, batch: Batch, position: Position, x_adv: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sets the gradient of the network's parameters, a mean over the ranks (collective).

    Returns the loss of this rank's share, a scalar without a gradient, and the examples that it is of. `x_adv`:
    examples that were made before; None to make them.
    """
    loader, method, model = training.loader, training.method, training.model
    training.optimizer.zero_grad(set_to_none=True)
    if x_adv is None:
        scope, samples = (loader.seed, "train", position.epoch), batch.index.tolist()
        rng = SampleRng.of(*scope, samples=samples, batch=position.steps, device=loader.device)
        with training.precision.autocast(loader.device):
            x_adv = method.examples(model, batch.x, batch.y, rng=rng)
    loss = backward(method.losses(model, batch.x, x_adv, batch.y), batch.weight, training.loss_context)
    average_gradients(model)
    return loss, x_adv


def _is_finite(model: nn.Module) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())
