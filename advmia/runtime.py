"""Devices, seeds, versions, and what is said to the person at the terminal."""

from __future__ import annotations

import platform
import random
import sys
from contextlib import suppress
from importlib import metadata

import numpy as np
import torch
from torch import nn

import advmia


def say(text: str) -> None:
    """A line for the person, not for the scripts that parse standard output. One that cannot be told stops nothing."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def on_device(model: nn.Module, device: torch.device) -> nn.Module:
    """Moves the model. Channels-last weights: convolutions run faster, and pixels come in that layout."""
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


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
