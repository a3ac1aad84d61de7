"""Several processes of one run, one for each device: started here or by torchrun, and what they tell each other.

Each process works on its share of every batch (training) or of the list (evaluation). The first writes all files and
says all there is to say; the others are silent, unless something goes wrong with them alone."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from advmia.errors import UserError
from advmia.runtime.signals import Stopped, forward_signals, pending_signal
from advmia.runtime.terminal import say

Item = TypeVar("Item")
# One share of an evaluation may take hours longer than another; that a process has died is noticed otherwise.
_PATIENCE = timedelta(days=30)
_GRACE = 30.0  # seconds between a signal and the end of a process that does not heed it
_PAUSE = 3.0  # seconds that one process gives another to say first what befell both
_PARENT_DIED = 1  # prctl's PR_SET_PDEATHSIG


def rank() -> int:
    """This process' number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes work on this run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the process that writes."""
    return rank() == 0


def pick_device(gpus: list[str] | None) -> torch.device:
    """This process' device, of those that `--gpu` names; None takes the GPU of its number, or the CPU without CUDA."""
    devices = pick_devices(gpus)
    place, here = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if dist.is_initialized() and devices != [torch.device("cpu")]:
        if gpus is None:
            devices = pick_devices(list(map(str, range(here))))
        if len(devices) != here:
            raise UserError(f"--gpu names {len(devices)} devices for the {here} processes on this machine: name {here}")
    else:
        place = 0
    if devices[place].type == "cuda":
        torch.cuda.set_device(devices[place])  # where the processes' exchange takes place too
    return devices[place]


def pick_devices(gpus: list[str] | None) -> list[torch.device]:
    """The devices that `--gpu` names: CUDA ids, or "cpu". None takes the first GPU, or the CPU where there is none."""
    if gpus is None:
        return [torch.device("cuda:0" if torch.cuda.is_available() else "cpu")]
    if set(gpus) == {"cpu"}:
        return [torch.device("cpu")] * len(gpus)
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for gpu in gpus:
        if not gpu.isdecimal():
            raise UserError(f"--gpu {' '.join(gpus)}: expected CUDA device ids such as 0 or 0 1, or cpu")
        if available == 0:
            raise UserError(f"--gpu {gpu}: this machine has no CUDA device; use --gpu cpu")
        if int(gpu) >= available:
            raise UserError(f"--gpu {gpu}: this machine's CUDA devices are 0 to {available - 1}")
    if len(set(gpus)) < len(gpus):
        raise UserError(f"--gpu {' '.join(gpus)}: a device is named twice")
    return [torch.device(f"cuda:{gpu}") for gpu in gpus]


def broadcast(item: Item) -> Item:
    """What the first process has given; all must ask at once."""
    if world_size() == 1:
        return item
    items: list[Any] = [item if is_main() else None]
    dist.broadcast_object_list(items, src=0, device=torch.device("cpu"))
    return items[0]


def all_gather(item: Item) -> list[Item]:
    """What each process has given, in their order; all must ask at once."""
    if world_size() == 1:
        return [item]
    items: list[Any] = [None] * world_size()
    dist.all_gather_object(items, item)
    return items


def all_reduce(values: Tensor) -> Tensor:
    """The sum over the processes, of a tensor on the CPU; all must ask at once."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


@torch.no_grad()
def broadcast_buffers(model: nn.Module) -> None:
    """Gives the model the first process' buffers, e.g. the running statistics; all must ask at once."""
    if world_size() > 1:
        for buffer in model.buffers():
            of_first = buffer.clone()
            dist.broadcast(of_first, src=0)
            buffer.copy_(of_first)  # which is noticed by those who keep a copy of the model; broadcast is not


@contextmanager
def local_main_first() -> Iterator[None]:
    """Inside, each machine's first process is done before its others begin; all must come here."""
    is_one = int(os.environ.get("LOCAL_RANK", 0)) == 0
    if not is_one:
        all_reduce(torch.zeros(1))
    yield
    if is_one:
        all_reduce(torch.zeros(1))


@contextmanager
def process_group() -> Iterator[None]:
    """Inside, this process is one of those that `spawn` or torchrun has started, if they have."""
    if "RANK" not in os.environ:
        yield
        return
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # torchrun sees to its own
        with suppress(AttributeError, OSError):  # Linux alone
            ctypes.CDLL(None).prctl(_PARENT_DIED, signal.SIGTERM)
    cuda = torch.cuda.is_available()
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=_PATIENCE)
    if not is_main():
        sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - until the process ends
    try:
        yield
    except Stopped:
        raise
    except BaseException:
        # Of what befalls one process the others see a broken connection: the one it befell comes first.
        if world_size() > 1 and not pending_signal() and not (is_main() and isinstance(sys.exc_info()[1], UserError)):
            time.sleep(_PAUSE)
        if pending_signal():  # so were the others, who have gone
            raise Stopped(pending_signal()) from None
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        raise
    dist.destroy_process_group()


def needs_spawn(gpus: list[str] | None) -> bool:
    """Whether this is a run on several devices that has not been started on each."""
    return gpus is not None and len(gpus) > 1 and "RANK" not in os.environ


def spawn(gpus: list[str]) -> int:
    """Runs this command once for each device and waits; returns the exit status. One that dies ends the others."""
    devices = pick_devices(gpus)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(len(devices)),
        "LOCAL_WORLD_SIZE": str(len(devices)),
    }
    if devices[0].type == "cpu":  # threads of several processes would wait for each other
        shared.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // len(devices), 1)))
    children = [
        subprocess.Popen(
            [sys.executable, *sys.argv],
            env=shared | {"RANK": str(place), "LOCAL_RANK": str(place)},
            start_new_session=True,  # Ctrl-C comes to this process, which hands it on
        )
        for place in range(len(devices))
    ]
    with forward_signals(lambda signal_number: _send(children, signal_number)) as handed_on:
        return _wait(children, handed_on)


def _send(children: list[subprocess.Popen[bytes]], signal_number: int) -> None:
    for child in children:
        if child.poll() is None:
            child.send_signal(signal_number)


def _wait(children: list[subprocess.Popen[bytes]], handed_on: list[int]) -> int:
    """The status of the first that fails, or 0. `handed_on`: the signals that were."""
    failed: subprocess.Popen[bytes] | None = None
    while failed is None and any(child.poll() is None for child in children):
        time.sleep(0.05)
        failed = next((child for child in children if child.poll()), None)
    if failed is None:
        return 0
    deadline = time.monotonic() + (_GRACE if handed_on else 0)  # asked to stop, the first may still be saving
    while any(child.poll() is None for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    _send(children, signal.SIGKILL)
    status = failed.returncode
    if handed_on:
        return children[0].wait() if children[0].wait() > 0 else 128 + handed_on[0]
    if status < 0:
        place, cause = children.index(failed), signal.Signals(-status).name
        say(
            f"{Path(sys.argv[0]).name}: error: process {place} of {len(children)} (from 0) was killed by {cause}, and"
            " the others were ended with it; a training goes on with --resume, a test with the same command"
        )
        return 1
    return status
