"""Devices, seeds, versions, and what is said to the person at the terminal."""

from __future__ import annotations

import ctypes
import platform
import random
from importlib import metadata

import numpy as np
import torch
from torch import nn

import advmia

# Settings of glibc's allocator, by <malloc.h>'s numbers for `mallopt`.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
MEMORY_KEPT = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1}  # -1: whatever the size of what is free
# Those that glibc comes to by itself in a process of large tensors: at first they follow the sizes that are freed.
MEMORY_RETURNED = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 2**25, _TRIM_THRESHOLD: 2**26}


def on_device(model: nn.Module, device: torch.device) -> nn.Module:
    """Moves the model. Channels-last weights: convolutions run faster, and pixels come in that layout."""
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def keep_freed_memory() -> None:
    """From now on what this process frees it keeps for its next tensors. Without glibc, nothing.

    By default glibc fetches memory from the system for every tensor of more than 32 MiB and returns what is free at its
    heap's end. The system clears each page that it hands out, which took a fifth of an attack on mv2. The price: what
    is free lies in pieces, which made a training's peak 6 % higher, though no higher from epoch to epoch.
    """
    set_allocator(MEMORY_KEPT)


def set_allocator(settings: dict[int, int]) -> ctypes.CDLL | None:
    """Settings such as `MEMORY_KEPT`; returns glibc, or None where the C library is another one."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return None
    for name, value in settings.items():
        library.mallopt(name, value)
    return library


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
