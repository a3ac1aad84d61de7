"""What every benchmark shares: alternated timings, counted passes, the device's facts, JSON and tables."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from advmia.attacks.inference import Blocks
from advmia.runtime import machine
from advmia.runtime.precision import PRECISIONS

MIB = 2**20
OURS = "ours"  # among what `alternate` times; "ours, compiled" and the like are ours too


# --- time ------------------------------------------------------------------------------------------------------------


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call, from an idle device to an idle device."""
    wait(device)
    start = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - start


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def alternate(
    runs: Mapping[str, Callable[[], object]], device: torch.device, *, repeats: int, warmup: int = 1
) -> dict[str, dict[str, float]]:
    """Times the callables by turns, so that a machine that slows down slows all of them, every other round backwards.

    On a CPU each has memory as where it is used: ours, which go by names that begin with `OURS`, keep what they free as
    our commands do (`advmia.runtime.keep_freed_memory`); all others have glibc's defaults, as in a program that does
    not know of them. What one has left is given back before the next, and `warmup` calls that are not timed come before
    each one that is: else it would pay for memory that in use it would hold, or find that of another. On CUDA, whose
    memory torch keeps for all, they come once, before the first round.

    Each gets median, min and max of its seconds, the peak MiB it took (on CUDA of tensors; on a CPU of all memory
    beyond what the process had before, where the system tells), and `ours_faster`: how many times as fast as this one
    `OURS` (or, where there is none, the first) was in the same round; the median of the rounds, with min and max.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    memory: dict[str, float] = {}
    if device.type == "cpu":
        hand_out_memory(machine.MEMORY_RETURNED)
    before = _resident_mib("VmRSS") or 0.0
    for turn in range(repeats):
        for name in list(runs) if turn % 2 == 0 else list(runs)[::-1]:
            if device.type == "cpu":
                hand_out_memory(machine.MEMORY_KEPT if name.startswith(OURS) else machine.MEMORY_RETURNED)
            for _ in range(warmup if turn == 0 or device.type == "cpu" else 0):
                runs[name]()
            with peak_memory(device) as peak:
                seconds[name].append(seconds_of(runs[name], device))
            if peak:
                memory[name] = max(memory.get(name, 0.0), peak[0] - (before if device.type == "cpu" else 0.0))
    ours = seconds.get(OURS, next(iter(seconds.values())))
    return {
        name: {
            **spread("seconds", own),
            **spread("ours_faster", [theirs / each for theirs, each in zip(own, ours, strict=True)]),
            **({"peak_mib": memory[name]} if name in memory else {}),
        }
        for name, own in seconds.items()
    }


def hand_out_memory(settings: dict[int, int]) -> None:
    """Gives what is free back to the system and tells glibc's allocator how to go on from there."""
    libc = machine.set_allocator(settings)
    if libc is not None:
        libc.malloc_trim(0)


def spread(name: str, values: Sequence[float]) -> dict[str, float]:
    """Median under `name`, and the least and the most."""
    return {name: statistics.median(values), f"{name}_min": min(values), f"{name}_max": max(values)}


@contextmanager
def peak_memory(device: torch.device) -> Iterator[list[float]]:
    """A list that at the end holds the most MiB: on CUDA those of tensors, on a CPU all of the process.

    It stays empty where the system does not tell.
    """
    peak: list[float] = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM starts anew (man 5 proc)
    yield peak
    if device.type == "cuda":
        peak.append(torch.cuda.max_memory_allocated(device) / MIB)
    elif (most := _resident_mib("VmHWM")) is not None:
        peak.append(most)


def _resident_mib(name: str) -> float | None:
    """VmRSS, the memory that this process has, or VmHWM, the most it has had; None where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    found = re.search(rf"^{name}:\s+(\d+) kB", status, re.M)
    return int(found[1]) / 1024 if found else None


# --- passes ----------------------------------------------------------------------------------------------------------


@dataclass
class Passes:
    """Images that went through a network, each time they did."""

    forward: int = 0
    backward: int = 0  # gradients by the input
    by_parameters: int = 0  # gradients by the parameters

    @property
    def work(self) -> int:
        """In forward passes: a gradient by the input costs about one, by the parameters another."""
        return self.forward + self.backward + self.by_parameters

    def per_image(self, images: int) -> dict[str, float]:
        names = ("forward", "backward", "by_parameters", "work")
        return {name: getattr(self, name) / images for name in names}


@contextmanager
def counting(*networks: nn.Module) -> Iterator[Passes]:
    """Counts the passes through any of the networks, by hooks. In float32: a cast hides which gradient is asked for."""
    passes = Passes()

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].requires_grad:
            inputs[0].register_hook(lambda gradient: _add(passes, "backward", len(gradient)))

    def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        count = len(inputs[0])
        passes.forward += count
        node = output.grad_fn  # of the last layer: whether its bias is given a gradient tells of all the parameters
        if node is None:
            return
        leaves = [type(source).__name__ == "AccumulateGrad" for source, _ in node.next_functions]

        def note(given: Sequence[Tensor | None], _: object) -> None:
            if any(leaf and gradient is not None for leaf, gradient in zip(leaves, given, strict=True)):
                passes.by_parameters += count

        node.register_hook(note)

    handles = [network.register_forward_pre_hook(before) for network in networks]
    handles += [network.register_forward_hook(after) for network in networks]
    try:
        yield passes
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def counting_asked() -> Iterator[Passes]:
    """Counts the images that are handed to `Blocks`: without the copies that fill a short block."""
    passes = Passes()

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(module, Blocks):
            passes.forward += len(inputs[0])
            if inputs[0].requires_grad:
                inputs[0].register_hook(lambda gradient: _add(passes, "backward", len(gradient)))

    handle = register_module_forward_pre_hook(before)
    try:
        yield passes
    finally:
        handle.remove()


def _add(passes: Passes, name: str, count: int) -> None:
    setattr(passes, name, getattr(passes, name) + count)


# --- facts, files and tables -----------------------------------------------------------------------------------------


def common_flags(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda[:N]")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser


def precision_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=PRECISIONS,
        default=[None],
        help="one table for each; default tf32 on CUDA and fp32 on a CPU, as the commands have it",
    )


def device_facts(device: torch.device) -> dict[str, Any]:
    """Date, machine and versions: what seconds depend on."""
    facts: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": str(device),
        "name": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],  # of others too, at the end: seconds on a busy machine mean little
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None,
        "versions": machine.versions(device),
    }
    return facts


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def write(args: argparse.Namespace, name: str, results: Mapping[str, Any]) -> None:
    """`--out`, if given: what was run, where, and what came out."""
    if args.out is None:
        return
    settings = {
        key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items() if key != "out"
    }
    record = {"benchmark": name, "settings": settings, "machine": device_facts(torch.device(args.device)), **results}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table; the first column to the left, numbers to the right with three significant figures."""
    cells = [list(columns), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(columns))]
    print(f"\n{title}")
    for row in cells:
        print("  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]))


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


TIMING_COLUMNS = ("", "ms", "min", "max", "ours faster", "min", "max", "peak MiB")


def timing_row(name: str, timing: Mapping[str, float]) -> list[object]:
    """For `show` under `TIMING_COLUMNS`."""
    seconds = [1000 * timing[key] for key in ("seconds", "seconds_min", "seconds_max")]
    return [
        name,
        *seconds,
        *(timing[key] for key in ("ours_faster", "ours_faster_min", "ours_faster_max")),
        timing.get("peak_mib"),
    ]
