"""The devices that `--gpu` names, which of them this process uses, and copies to them."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from advmia.errors import UserError
from advmia.runtime import distributed


def pick_device(gpus: list[str] | None) -> torch.device:
    """Returns this process's device: the one at its local rank among those that `--gpu` names.

    `gpus` None means the GPU with the number of the local rank, or the CPU if there is no GPU. Makes a GPU the current
    CUDA device, which collectives use. Raises `UserError` if the processes on this machine are not as many as the
    named devices.
    """
    devices = pick_devices(gpus)
    local_rank, local_world_size = distributed.local_rank(), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if distributed.is_initialized() and devices != [torch.device("cpu")]:
        if gpus is None:
            devices = pick_devices(list(map(str, range(local_world_size))))
        if len(devices) != local_world_size:
            raise UserError(
                f"--gpu names {len(devices)} devices, but {local_world_size} processes run on this machine: name"
                f" {local_world_size}"
            )
        device = devices[local_rank]
    else:
        device = devices[0]
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def pick_devices(gpus: list[str] | None) -> list[torch.device]:
    """Returns the devices that `--gpu` names: CUDA ids, or "cpu" once or several times.

    `gpus` None means the first GPU, or the CPU if there is no GPU. Raises `UserError` for ids that this machine does
    not have and for a GPU that is named twice.
    """
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


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copies a tensor of the CPU to a device.

    To a GPU it goes from pinned memory: only then does the copy run beside the computation, and the host go on at once.
    """
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
