"""Whether a step of a training fits into the memory, found out before the first epoch: on a GPU by trying one."""

from __future__ import annotations

import torch

from advmia.errors import UserError
from advmia.runtime import distributed
from advmia.runtime.terminal import say
from advmia.training.loop import Training, loss_gradient
from advmia.training.memory import advice, averages_of, estimate, shortage
from advmia.training.perturbation import kept_buffers
from advmia.training.progress import Position


def check_memory(training: Training, size: int, what: str) -> None:
    """Says if a step on images of `size` pixels does not fit into the memory. `what`: the training, for the message.

    On a GPU a step is tried, and `UserError` raised if it does not fit. On a CPU, which may swap, a warning says what
    the estimate finds, as with several processes: of these the others would wait for one whose memory is full.
    """
    if training.loader.device.type != "cuda" or distributed.world_size() > 1:
        line = shortage(training, size) if distributed.is_main() else ""
        if line:
            say(f"warning: {what}: {line}")
    elif lacks_memory(training):
        batch_size, found = training.loader.batch_size, estimate(training, size)
        fitting = batch_size // 2 if found is None else min(found.fitting, batch_size // 2)
        raise UserError(
            f"{what}: the GPU's memory is too small for a step with --bs {batch_size}:"
            f" {advice(training, size, fitting)}"
        )


def lacks_memory(training: Training) -> bool:
    """Computes the gradient of a first update on a GPU, and returns whether its memory is too small for it.

    Leaves everything as it was: weights, running statistics, random numbers. The optimizer makes no step; tensors of
    the size of its averages are there meanwhile.
    """
    model, device = training.model.train(), training.loader.device
    averages = averages_of(training.optimizer)
    try:
        with torch.random.fork_rng(devices=[device]), kept_buffers(model):
            held = [torch.empty_like(weight) for weight in model.parameters() for _ in range(averages)]
            batch = next(iter(training.loader.epoch(1)))
            loss_gradient(training, batch, Position(training.epochs))  # a perturbation is active in the last epoch
            torch.cuda.synchronize(device)
            del held
    except torch.OutOfMemoryError:
        return True
    finally:
        training.optimizer.zero_grad(set_to_none=True)
    return False
