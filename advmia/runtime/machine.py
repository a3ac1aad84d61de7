"""Settings of the machine that a run computes on: memory layout, allocator, global random seeds, and versions."""

from __future__ import annotations

import ctypes
import platform
import random
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from torch import nn

import advmia

# Of a container, in both versions of cgroups: the file with its limit, and the file and line with what it has used.
# Cached files do not count as used, since they make room.
_CGROUP = Path("/sys/fs/cgroup")
_CGROUP_FILES = (
    ("memory.max", ("memory.stat", "anon")),
    ("memory/memory.limit_in_bytes", ("memory/memory.stat", "rss")),
)
_NO_LIMIT = 2**60  # version 1 writes a number as large as possible
# Parameters of glibc's allocator, with the numbers that <malloc.h> gives them for `mallopt`.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
MEMORY_KEPT = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1}  # -1: free memory is never returned, however much there is
# The values that glibc itself arrives at in a process with large tensors. Its thresholds grow with the sizes freed.
MEMORY_RETURNED = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 2**25, _TRIM_THRESHOLD: 2**26}


_LAYOUT = "advmia_memory_format"  # the attribute of a network that does not run in channels-last layout


def on_device(model: nn.Module, device: torch.device) -> nn.Module:
    """Moves the model to the device, with channels-last weights unless `keep_plain_layout` was called for it.

    Convolutions run faster in that layout, and the loaders' images have it too.
    """
    return model.to(device, memory_format=memory_format_of(model))  # type: ignore[call-overload]


def keep_plain_layout(model: nn.Module) -> None:
    """Gives the model, and copies that are made of it, contiguous weights from the next `on_device` on."""
    setattr(model, _LAYOUT, torch.contiguous_format)


def memory_format_of(model: nn.Module) -> torch.memory_format:
    """Returns the layout in which the model's weights are."""
    return getattr(model, _LAYOUT, torch.channels_last)


def keep_freed_memory() -> None:
    """Makes this process keep the memory that it frees, for its next tensors. Does nothing without glibc.

    By default, glibc takes memory from the system for every tensor of more than 32 MiB and returns it when the tensor
    is freed. The system clears each page that it hands out, which took a fifth of an attack's time on mv2. The price is
    fragmentation: the peak memory of a training rose by 6 %, but does not grow from epoch to epoch.
    """
    set_allocator(MEMORY_KEPT)


def set_allocator(settings: dict[int, int]) -> ctypes.CDLL | None:
    """Applies settings such as `MEMORY_KEPT`. Returns glibc, or None if the C library is another one."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return None
    for name, value in settings.items():
        library.mallopt(name, value)
    return library


def free_memory(device: torch.device) -> int | None:
    """Returns the bytes that this process can still get on a device, None if unknown.

    On a CPU that is what Linux calls available, within the limit of the container (cgroup), if there is one.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    available = _numbers(Path("/proc/meminfo")).get("MemAvailable:")
    known = [available * 1024] if available is not None else []
    for limit, used in _CGROUP_FILES:
        most = _numbers(_CGROUP / limit).get("", 0)
        if 0 < most < _NO_LIMIT:
            known.append(max(most - _numbers(_CGROUP / used[0]).get(used[1], 0), 0))
    return min(known, default=None)


def _numbers(path: Path) -> dict[str, int]:
    """Returns the numbers of a file whose lines are `name number`, `name number kB` or `number` (its name is "").

    A missing file has none, and lines of another form are left out.
    """
    try:
        lines = [line.removesuffix(" kB").rsplit(maxsplit=1) for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {"".join(words[:-1]): int(words[-1]) for words in lines if words and words[-1].isdecimal()}


def seed_everything(seed: int) -> None:
    """Seeds the global generators of Python, NumPy and torch, from which initial weights and dropout are drawn."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def versions(device: torch.device) -> dict[str, str]:
    """Returns what a result depends on besides its arguments: versions of the packages, and the device's name."""
    packages = ("torch", "torchvision", "numpy", "pillow")
    ours = {"advmia": advmia.__version__, "python": platform.python_version()}
    ours["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return ours | {package: metadata.version(package) for package in packages}
