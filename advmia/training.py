"""The training loop, for every task and method."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from advmia.data.loading import TrainingLoader
from advmia.errors import UserError
from advmia.methods import Method
from advmia.metrics import Scores
from advmia.precision import FP32, Precision
from advmia.progress import Watched
from advmia.rng import SampleRng


@dataclass(frozen=True)
class Epoch:
    """What one epoch did."""

    number: int  # from 1
    loss: float  # mean over the epoch's samples
    lr: float  # at the epoch's end
    seconds: float  # of training, without validation
    clean: Scores
    robust: Scores | None  # under the validation attack; None for natural training


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
) -> Iterator[Epoch]:
    """Trains epoch by epoch, validating after each: (clean, robust) scores. The caller keeps what it wants to keep.

    `note`: what the bar shows beside the loss.
    """
    for number in range(1, epochs + 1):
        start = time.perf_counter()
        loss = train_one_epoch(
            model, method, loader, optimizer, schedule, number=number, epochs=epochs, precision=precision, note=note
        )
        seconds = time.perf_counter() - start
        clean, robust = validate()
        yield Epoch(number, loss, float(schedule.get_last_lr()[0]), seconds, clean, robust)


def train_one_epoch(
    model: nn.Module,
    method: Method,
    loader: TrainingLoader,
    optimizer: Optimizer,
    schedule: LRScheduler,
    *,
    number: int,
    epochs: int,
    precision: Precision = FP32,
    note: Callable[[], str] = str,
) -> float:
    """One pass over the loader's epoch `number`; returns the mean loss. Raises `UserError` when it is not finite.

    `note`: what the bar shows beside the loss.
    """
    model.train()
    total = torch.zeros((), device=loader.device)

    def loss_and_note(images: int) -> str:
        return f"loss {float(total) / images:.4f}{note()}"

    batches = Watched(loader.epoch(number), len(loader.data), f"epoch {number}/{epochs}", loss_and_note)
    for batch in batches:
        rng = SampleRng.of(loader.seed, "train", number, samples=batch.index.tolist(), device=loader.device)
        with precision.networks(loader.device):
            loss = method(model, batch.x, batch.y, rng=rng)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        total += loss.detach() * len(batch)
    mean = float(total) / len(loader.data)
    if not math.isfinite(mean):
        raise UserError(
            f"the loss became {mean} in epoch {number}: try a lower --lr; the best checkpoint so far is kept"
        )
    return mean
