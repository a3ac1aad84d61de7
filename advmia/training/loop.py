"""The training loop, for every task and method."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
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
from advmia.training.methods import Method


@dataclass(frozen=True)
class Epoch:
    """What one epoch did."""

    number: int  # from 1
    loss: float  # mean over the epoch's samples
    lr: float  # at the epoch's end
    seconds: float  # of training, without validation
    clean: Scores
    robust: Scores | None  # under the validation attack; None for natural training


@dataclass
class Position:
    """How far a training has got: after every step that is done, and no other, it can be saved and taken up there."""

    epoch: int = 1  # under way
    steps: int = 0  # of it that are done
    loss: float = 0.0  # summed over their images
    seconds: float = 0.0  # that they took

    def next_epoch(self) -> None:
        self.epoch, self.steps, self.loss, self.seconds = self.epoch + 1, 0, 0.0, 0.0

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        vars(self).update(state_dict)


class LossOf(nn.Module):
    """The method's mean loss of a network, as the module that `shared` wraps: (x, y, rng) -> scalar."""

    def __init__(self, model: nn.Module, method: Method) -> None:
        super().__init__()
        self.model = model
        self._method = (method,)  # in a tuple, for it may hold a helper, which is no part of what is trained

    def forward(self, x: Tensor, y: Tensor, rng: SampleRng) -> Tensor:
        return self._method[0](self.model, x, y, rng=rng)


def shared(loss: LossOf, device: torch.device) -> nn.Module:
    """The same, its gradients averaged over the processes of this run, where there are several.

    Each batch norm sees its process' share of the batch, and at the start of a step all take over the first process'
    running statistics, as the reference's DataParallel does.
    """
    if distributed.world_size() == 1:
        return loss
    return DistributedDataParallel(loss, device_ids=[device] if device.type == "cuda" else None)


def fit(
    model: nn.Module,
    method: Method,
    loader: TrainingLoader,
    optimizer: Optimizer,
    schedule: LRScheduler,
    *,
    epochs: int,
    validate: Callable[[], tuple[Scores, Scores | None]],
    precision: Precision = FP32,
    note: Callable[[], str] = str,
    position: Position | None = None,
    save: Callable[[], None] = lambda: None,
    save_every: float = math.inf,
) -> Iterator[Epoch]:
    """Trains epoch by epoch, validating after each: (clean, robust) scores. The caller keeps what it wants to keep.

    `note`: what the bar shows beside the loss. `position`: where to begin; it moves on as the training does. `save` is
    called after each epoch that the caller has kept, and within an epoch each `save_every` seconds.
    """
    position = position or Position()
    loss = shared(LossOf(model, method), loader.device)
    saved = time.monotonic()

    def save_now() -> None:
        nonlocal saved
        save()
        saved = time.monotonic()

    def save_if_due() -> None:
        # A step may have spoilt the weights, which its loss does not tell: the last good state stays.
        if time.monotonic() - saved >= save_every and _is_finite(model):
            save_now()

    # Asked to stop, the other processes go on to the end of the first one's step, which it then saves.
    with nullcontext() if distributed.is_main() else defer_signals():
        while position.epoch <= epochs:
            mean = train_one_epoch(
                loss,
                loader,
                optimizer,
                schedule,
                position,
                epochs=epochs,
                precision=precision,
                note=note,
                after_step=save_if_due,
            )
            distributed.broadcast_buffers(model)  # each process validates on a share of the list: all the same network
            try:
                clean, robust = validate()
            except UserError as error:
                advice = "try a lower --lr or a larger --bs; what was saved before is kept"
                raise UserError(f"after epoch {position.epoch}, {error}: {advice}") from error
            with defer_signals():  # an epoch is kept and left behind, or neither
                yield Epoch(position.epoch, mean, float(schedule.get_last_lr()[0]), position.seconds, clean, robust)
                position.next_epoch()
                save_now()


def _is_finite(model: nn.Module) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())


def train_one_epoch(
    loss: nn.Module,
    loader: TrainingLoader,
    optimizer: Optimizer,
    schedule: LRScheduler,
    position: Position,
    *,
    epochs: int,
    precision: Precision = FP32,
    note: Callable[[], str] = str,
    after_step: Callable[[], None] = lambda: None,
) -> float:
    """What is left of the epoch at `position`; returns the mean loss. Raises `UserError` when a loss is not finite.

    `loss`: `LossOf` the network, which may be `shared`. `note`: what the bar shows beside the loss.
    """
    loss.train()
    images, done = len(loader.data), position.steps * loader.batch_size

    def loss_and_note(seen: int) -> str:
        return f"loss {position.loss / seen:.4f}{note()}"

    batches = ProgressBar(
        loader.epoch(position.epoch, skip=position.steps),
        images,
        f"epoch {position.epoch}/{epochs}",
        loss_and_note,
        initial=done,
        size=lambda batch: batch.global_size,
    )
    start = time.perf_counter()
    for batch in batches:
        with defer_signals():  # a step is done, or it is not
            position.loss += _step(loss, batch, loader, optimizer, position, precision) * batch.global_size
            schedule.step()
            position.steps += 1
            now = time.perf_counter()
            position.seconds, start = position.seconds + now - start, now
            after_step()
    return position.loss / images


def _step(
    loss: nn.Module,
    batch: Batch,
    loader: TrainingLoader,
    optimizer: Optimizer,
    position: Position,
    precision: Precision,
) -> float:
    """One update; returns the mean loss over the batch, of which this process may have a share."""
    rng = SampleRng.of(loader.seed, "train", position.epoch, samples=batch.index.tolist(), device=loader.device)
    with precision.autocast(loader.device):
        own = loss(batch.x, batch.y, rng) * batch.weight
    value, is_asked = _agreed(float(own.detach()))
    if not math.isfinite(value):
        raise UserError(
            f"the loss became {value} in epoch {position.epoch}, step {position.steps + 1} of {len(loader)}: try a"
            " lower --lr or a larger --bs; what was saved before is kept"
        )
    optimizer.zero_grad(set_to_none=True)
    own.backward()
    optimizer.step()
    if is_asked:
        signals.request_stop(signal.SIGTERM)
    return value


def _agreed(loss: float) -> tuple[float, bool]:
    """The whole batch's mean loss, and whether any process was asked to stop: then all do, after this very step."""
    mine = torch.tensor([loss / distributed.world_size(), float(signals.pending_signal())], dtype=torch.float64)
    mean, asked = distributed.all_reduce(mine).tolist()
    return mean, asked > 0
