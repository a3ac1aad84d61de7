"""How far a training has got, and the loss of its updates."""

from __future__ import annotations

import math
import signal
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from advmia.errors import UserError
from advmia.runtime import distributed, signals

ADVICE = "try a lower --lr or a larger --bs; what was saved before is kept"


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


class LossReader:
    """Reads the losses of an epoch's updates: checks that they are finite, and adds them to a training's position.

    The host would have to wait for a loss on a GPU, which would then run out of work. There, the loss of an update is
    read when the next update has been launched, and by `read_all`, which must be called before the position is saved
    and at the end of the epoch. On a CPU, a loss is read at once.
    """

    def __init__(self, position: Position, steps: int, images: int = 0) -> None:
        """`steps`: of the epoch. `images`: how many images the position's loss is of so far."""
        self.images = images  # whose losses the position has
        self._position, self._steps = position, steps
        self._pending: deque[_Loss] = deque()

    def add(self, losses: Tensor, images: int) -> None:
        """Takes the losses of the update under way, on a batch of so many images in all ranks (collective).

        losses: this rank's, shape (n,). All must be finite in all ranks; the last one is added to the position's.
        Raises `UserError` when one that is read is not finite.
        """
        self._pending.append(_Loss(losses, images, self._position.steps + 1))
        while len(self._pending) > self._lag(losses):
            self._read()

    def read_all(self) -> None:
        """Reads what has not been read yet. Collective where several processes train on GPUs.

        Raises `UserError` when a loss is not finite.
        """
        while self._pending:
            self._read()

    def __str__(self) -> str:
        """Returns the mean loss so far for the progress bar, such as "loss 0.5123"."""
        return f"loss {self._position.loss / self.images:.4f}" if self.images else "loss -"

    def _lag(self, losses: Tensor) -> int:
        """Returns how many updates later such losses are read."""
        return 1 if losses.is_cuda else 0

    def _read(self) -> None:
        loss = self._pending.popleft()
        means, stop_requested = _reduce(loss.values())
        for mean in means:
            if not math.isfinite(mean):
                step = f"epoch {self._position.epoch}, step {loss.step} of {self._steps}"
                raise UserError(f"the loss became {mean} in {step}: {ADVICE}")
        self._position.loss += means[-1] * loss.images
        self.images += loss.images
        if stop_requested:
            signals.request_stop(signal.SIGTERM)


class _Loss:
    """The losses of an update, on their way to the host."""

    def __init__(self, losses: Tensor, images: int, step: int) -> None:
        self.images, self.step = images, step
        self._values = losses.to("cpu", non_blocking=True)  # from a GPU into pinned memory
        self._copied = torch.cuda.Event() if losses.is_cuda else None
        if self._copied is not None:
            self._copied.record()

    def values(self) -> list[float]:
        """Returns the losses; waits for this copy only, and not for what was launched after it."""
        if self._copied is not None:
            self._copied.synchronize()
        return [float(value) for value in self._values]


def _reduce(losses: list[float]) -> tuple[list[float], bool]:
    """Returns the mean losses over the ranks, and whether any rank has a pending signal: then all stop after this step.

    Collective.
    """
    shares = [loss / distributed.world_size() for loss in losses]
    values = torch.tensor([*shares, float(signals.pending_signal())], dtype=torch.float64)
    *means, pending = distributed.all_reduce(values).tolist()
    return means, pending > 0
