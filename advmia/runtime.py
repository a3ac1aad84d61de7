"""Devices, seeds, versions, and what is said to the person at the terminal."""

from __future__ import annotations

import platform
import random
import sys
from importlib import metadata

import numpy as np
import torch
from torch import nn

import advmia
from advmia.errors import UserError


def say(text: str) -> None:
    """A line for the person, not for the scripts that parse standard output."""
    print(text, file=sys.stderr, flush=True)


def pick_devices(gpus: list[str] | None) -> list[torch.device]:
    """The devices that `--gpu` names: CUDA ids, or "cpu". None takes the first GPU, or the CPU where there is none."""
    if gpus is None:
        return [torch.device("cuda:0" if torch.cuda.is_available() else "cpu")]
    if gpus == ["cpu"]:
        return [torch.device("cpu")]
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for gpu in gpus:
        if not gpu.isdecimal():
            raise UserError(f"--gpu {' '.join(gpus)}: expected CUDA device ids such as 0 or 0 1, or cpu")
        if count == 0:
            raise UserError(f"--gpu {gpu}: this machine has no CUDA device; use --gpu cpu")
        if int(gpu) >= count:
            raise UserError(f"--gpu {gpu}: this machine's CUDA devices are 0 to {count - 1}")
    if len(set(gpus)) < len(gpus):
        raise UserError(f"--gpu {' '.join(gpus)}: a device is named twice")
    return [torch.device(f"cuda:{gpu}") for gpu in gpus]


def on_devices(model: nn.Module, devices: list[torch.device]) -> nn.Module:
    """The model on the first device, or its batches spread over several.

    Channels-last weights: convolutions run faster, and pixels come in that layout from the loader.
    """
    model = model.to(devices[0], memory_format=torch.channels_last)  # type: ignore[call-overload]
    return nn.DataParallel(model, device_ids=devices) if len(devices) > 1 else model


def seed_everything(seed: int) -> None:
    """For what draws from the global generators: the networks' initial weights and dropout."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def versions(device: torch.device) -> dict[str, str]:
    """What a result depends on beside its arguments: the packages and the device."""
    packages = ("torch", "torchvision", "numpy", "pillow")
    ours = {"advmia": advmia.__version__, "python": platform.python_version()}
    ours["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return ours | {package: metadata.version(package) for package in packages}
