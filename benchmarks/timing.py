"""Times several callables in alternation, and measures the memory that they take."""

from __future__ import annotations

import contextlib
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from advmia.runtime import machine

MIB = 2**20
OURS = "ours"  # the names of our implementations begin with this: "ours", "ours, compiled" and so on


Clock = Callable[[], float]


def seconds_of(run: Callable[[], object], device: torch.device, clock: Clock = time.perf_counter) -> float:
    """Returns the time of one call by the clock. The device is idle when the clock starts and when it stops."""
    wait(device)
    start = clock()
    run()
    wait(device)
    return clock() - start


def wait(device: torch.device) -> None:
    """Waits until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def alternate(
    runs: Mapping[str, Callable[[], object]],
    device: torch.device,
    *,
    repeats: int,
    warmup: int = 1,
    clock: Clock = time.perf_counter,
) -> dict[str, dict[str, float]]:
    """Times each callable once in each of `repeats` rounds, every other round in reverse order.

    Times of one round are comparable even if the machine becomes slower. Returns these numbers for each callable:
    `seconds`, the median over the rounds, with `seconds_min` and `seconds_max`; `ours_faster`, its time divided by that
    of `OURS` in the same round (of the first callable, if none is called `OURS`), the median over the rounds, with
    `ours_faster_min` and `ours_faster_max`; and `peak_mib`, the most memory that it took: on CUDA that of tensors, on a
    CPU that of the process beyond what it had before (left out where the operating system does not report it).

    On a CPU, each callable runs with the memory settings that it has in practice. Ours keep the memory that they free,
    as our commands do (`advmia.runtime.machine.keep_freed_memory`). All others have glibc's defaults, as in a program
    that does not change them. Before each callable, the memory that the previous one left is returned to the system;
    then `warmup` calls are not timed, so that the timed call already has its memory. On CUDA, torch keeps memory for
    all callables, and there are untimed calls before the first round only.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    memory: dict[str, float] = {}
    if device.type == "cpu":
        set_memory(machine.MEMORY_RETURNED)
    before = _resident_mib("VmRSS") or 0.0
    for round_number in range(repeats):
        for name in list(runs) if round_number % 2 == 0 else list(runs)[::-1]:
            if device.type == "cpu":
                set_memory(machine.MEMORY_KEPT if name.startswith(OURS) else machine.MEMORY_RETURNED)
            for _ in range(warmup if round_number == 0 or device.type == "cpu" else 0):
                runs[name]()
            with peak_memory(device) as peak:
                seconds[name].append(seconds_of(runs[name], device, clock))
            if peak:
                memory[name] = max(memory.get(name, 0.0), peak[0] - (before if device.type == "cpu" else 0.0))
    ours = seconds.get(OURS, next(iter(seconds.values())))
    return {
        name: {
            **spread("seconds", times),
            **spread("ours_faster", [its_time / our_time for its_time, our_time in zip(times, ours, strict=True)]),
            **({"peak_mib": memory[name]} if name in memory else {}),
        }
        for name, times in seconds.items()
    }


def spread(name: str, values: Sequence[float]) -> dict[str, float]:
    """Returns the median as `name`, the minimum as `<name>_min` and the maximum as `<name>_max`."""
    return {name: statistics.median(values), f"{name}_min": min(values), f"{name}_max": max(values)}


def set_memory(settings: dict[int, int]) -> None:
    """Applies settings to glibc's allocator and returns free memory to the system. Does nothing without glibc."""
    libc = machine.set_allocator(settings)
    if libc is not None:
        libc.malloc_trim(0)


@contextmanager
def peak_memory(device: torch.device) -> Iterator[list[float]]:
    """Measures the most memory in MiB inside the `with` block: on CUDA that of tensors, on a CPU that of the process.

    Yields a list that receives the number at the end. It stays empty where the operating system does not report it.
    """
    peak: list[float] = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets VmHWM (man 5 proc)
    yield peak
    if device.type == "cuda":
        peak.append(torch.cuda.max_memory_allocated(device) / MIB)
    elif (resident := _resident_mib("VmHWM")) is not None:
        peak.append(resident)


def _resident_mib(name: str) -> float | None:
    """Returns the memory of this process in MiB: now (`VmRSS`) or at most (`VmHWM`). None where it is not reported."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    match = re.search(rf"^{name}:\s+(\d+) kB", status, re.M)
    return int(match[1]) / 1024 if match else None
