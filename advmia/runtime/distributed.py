"""The processes of one run, one for each device: ranks, collectives, and the process group.

Each process works on its share of every batch (training) or of the list (evaluation). Rank 0 is the main process: it
writes all files and prints all lines. The others print only errors that they alone have. A collective is a function
that every process of the group must call, in the same order; `advmia.runtime.launch` starts the processes.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from advmia.errors import UserError
from advmia.runtime.signals import Stopped, end_with_parent, pending_signal

Item = TypeVar("Item")
# How long a collective waits. One share of an evaluation may take hours longer than another; processes that have died
# are noticed by other means.
_COLLECTIVE_TIMEOUT = timedelta(days=30)
_ERROR_DELAY = 3.0  # seconds by which ranks with a broken connection let the failing rank report first


def is_initialized() -> bool:
    """Returns whether this process is in a process group."""
    return dist.is_initialized()


def rank() -> int:
    """Returns this process's rank, from 0; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def local_rank() -> int:
    """Returns this process's rank among those on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", 0))


def world_size() -> int:
    """Returns the number of processes in the run; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_world_size() -> int:
    """The number of processes on this machine that work on this command."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if is_initialized() else 1


def is_main() -> bool:
    """Returns whether this is the main process (rank 0), which writes the files."""
    return rank() == 0


def broadcast(item: Item) -> Item:
    """Returns rank 0's `item` in every process (collective). Those of the other ranks are ignored."""
    if world_size() == 1:
        return item
    items: list[Any] = [item if is_main() else None]
    dist.broadcast_object_list(items, src=0, device=torch.device("cpu"))
    return items[0]


def all_gather(item: Item) -> list[Item]:
    """Returns every process's `item`, in the order of ranks (collective)."""
    if world_size() == 1:
        return [item]
    items: list[Any] = [None] * world_size()
    dist.all_gather_object(items, item)
    return items


def all_reduce(values: Tensor) -> Tensor:
    """Sums a CPU tensor over the processes, in place, and returns it (collective)."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def broadcast_buffers(model: nn.Module) -> None:
    """Broadcasts the model's buffers, such as running statistics, from rank 0 (collective)."""
    _in_one(list(model.buffers()), lambda values: dist.broadcast(values, src=0))


def broadcast_weights(model: nn.Module) -> None:
    """Broadcasts the model's parameters and buffers from rank 0 (collective)."""
    _in_one([*model.parameters(), *model.buffers()], lambda values: dist.broadcast(values, src=0))


def average_tensors(tensors: Sequence[Tensor]) -> None:
    """Replaces each tensor, in place, by its mean over the processes (collective)."""
    _in_one(tensors, lambda values: dist.all_reduce(values.div_(world_size())))


@torch.no_grad()
def _in_one(tensors: Sequence[Tensor], collective: Callable[[Tensor], object]) -> None:
    """Runs a collective, which changes its argument in place, on many tensors at once: on one of each dtype."""
    if world_size() == 1:
        return
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        group = [tensor for tensor in tensors if tensor.dtype == dtype]
        joined = torch.cat([tensor.reshape(-1) for tensor in group])
        collective(joined)
        parts = joined.split([tensor.numel() for tensor in group])
        for tensor, values in zip(group, parts, strict=True):
            # `copy_` raises the tensor's version, by which copies of a network notice the change.
            tensor.copy_(values.view(tensor.shape))


@contextmanager
def local_main_first() -> Iterator[None]:
    """Runs the block in local rank 0 of each machine first, then in its other ranks (collective)."""
    is_local_main = local_rank() == 0
    if not is_local_main:
        all_reduce(torch.zeros(1))
    yield
    if is_local_main:
        all_reduce(torch.zeros(1))


@contextmanager
def process_group() -> Iterator[None]:
    """Joins the process group when launched by `launch.spawn` or torchrun; does nothing otherwise.

    Inside, ranks other than 0 print nothing. An error in one process ends all of them and is printed once.
    """
    if "RANK" not in os.environ:
        yield
        return
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # torchrun ends its processes itself
        end_with_parent()
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=_COLLECTIVE_TIMEOUT)
    if not is_main():
        sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - until the process ends
    try:
        yield
    except Stopped:
        raise
    except BaseException as error:
        # When one rank fails, the others see only a broken connection. They wait, so that the failing rank reports
        # first. Rank 0 does not wait when it has a `UserError`, because it is the rank that reports it.
        if world_size() > 1 and not pending_signal() and not (is_main() and isinstance(error, UserError)):
            time.sleep(_ERROR_DELAY)
        if pending_signal():  # the connection broke because the other ranks got the signal too and have ended
            raise Stopped(pending_signal()) from None
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        raise
    dist.destroy_process_group()
