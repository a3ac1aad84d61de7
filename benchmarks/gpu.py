"""Measures on a GPU what `benchmarks.counts` counted, and writes measured beside predicted.

    python -m benchmarks.gpu --groups kernels layouts --seconds 80

A row for each workload of `benchmarks.workloads`: milliseconds of a call (of a query, for Square and SimBA), one call
after the other; those that the host needs to hand out the work of a call to an idle device (if both are equal, the host
holds the GPU up, or waits for it); the peak memory; and beside them launches, times and memory as
`benchmarks/results/gpu_counts.json` has them. Out of memory is a result too. The groups `ceilings` (what the card
reaches in copies and matrix products) and `profile` (launches and kernels as torch's profiler sees them) have rows of
their own. The file is written after each row; after `--seconds`, no further row begins.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import profiler
from torch.autograd import DeviceType

from advmia.runtime.precision import Precision
from benchmarks import report, timing
from benchmarks.workloads import GROUPS, PROFILED, Workload, subject_of

COUNTS = Path(__file__).parent / "results" / "gpu_counts.json"
GIB = 2**30
SHORTEST, FEWEST_CALLS, MOST_CALLS = 0.15, 3, 100  # seconds that a workload is timed for, and calls
# What the host does to give the device work, as the profiler calls it: kernels, graphs of them, copies and fills.
_LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cudaMemcpyAsync", "cudaMemsetAsync")
_MOST_KERNELS = 15  # kernels of a profile, those that take longest

Row = dict[str, Any]


def main() -> None:
    args = _arguments()
    end, device = time.monotonic() + args.seconds, torch.device(args.device)
    if device.type == "cuda":
        device = torch.device("cuda:0") if device.index is None else device
        torch.cuda.set_device(device)
    counts, rows, names = _read_counts(), list[Row](), list(args.groups)
    for group in names:
        shown = len(rows)
        for name, counted_as, measure in _measurements(group, device, tiny=args.tiny):
            row = {"skipped": "no time was left"} if time.monotonic() > end else _result(measure, device)
            rows.append({"group": group, "name": name, **row, "counted": counts.get(counted_as, {})})
            report.write(args, "gpu", {"results": rows})  # after each, in case a time limit ends the run
        _show(group, rows[shown:], device)
    subject_of.cache_clear()


def _result(measure: Callable[[], Row], device: torch.device) -> Row:
    """Returns what was measured, or the error: one row must not end the others."""
    try:
        return measure()
    except torch.OutOfMemoryError:
        return {"failed": "out of memory"}
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
    finally:
        if device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()


def _measurements(group: str, device: torch.device, *, tiny: bool) -> list[tuple[str, str, Callable[[], Row]]]:
    """Returns what a group measures: its name, the name of its counts, and the measurement."""
    if group == "ceilings":
        return [(name, "", partial(_ceiling, name, device, tiny)) for name in ("copy", "fp32", "tf32", "bf16")]
    measure = _profiled if group == "profile" else _timed
    works: Iterable[Workload] = PROFILED if group == "profile" else GROUPS[group]
    if tiny:
        works = [work.shrunk() for work in works]
    return [(work.name, work.counted_as.name, partial(measure, work, device)) for work in works]


def _timed(work: Workload, device: torch.device) -> Row:
    """Returns the times of the work in ms, and its peak memory."""
    begin = time.perf_counter()
    run = work.build(device)
    for _ in range(FEWEST_CALLS):  # plans are made, and what is used again is recorded
        run()
    timing.wait(device)
    first = time.perf_counter() - begin
    hosts = []
    with timing.peak_memory(device) as peak:
        for _ in range(FEWEST_CALLS):
            begin = time.perf_counter()
            run()
            hosts.append(time.perf_counter() - begin)
            timing.wait(device)
            seconds = time.perf_counter() - begin
        calls = 1 if seconds > 1 else max(FEWEST_CALLS, min(MOST_CALLS, int(SHORTEST / max(seconds, 1e-6))))
        begin = time.perf_counter()
        for _ in range(calls):
            run()
        timing.wait(device)
        whole = (time.perf_counter() - begin) / calls
    found = {name: 1e3 * value / work.calls for name, value in (("ms", whole), ("host_ms", min(hosts)))}
    memory = {"peak_gib": peak[0] * timing.MIB / GIB} if peak else {}
    return {**found, "calls": calls, "first_seconds": first, **memory}


def _ceiling(name: str, device: torch.device, tiny: bool) -> Row:
    """Returns what the card reaches: TB/s of a copy, or TFLOP/s of a matrix product in this precision."""
    if name == "copy":
        source = torch.empty(2**20 if tiny else 2**28, device=device)
        target = torch.empty_like(source)
        return {"tb_per_second": 2 * source.nbytes / _seconds_of(lambda: target.copy_(source), device) / 1e12}
    side = 64 if tiny else 8192
    Precision.allow_tf32(name == "tf32")
    factor = torch.rand(side, side, device=device).to(torch.bfloat16 if name == "bf16" else torch.float32)
    return {"tflop_per_second": 2 * side**3 / _seconds_of(lambda: factor @ factor, device) / 1e12}


def _seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """Returns the shortest of five times, after two warm-ups."""
    return min([timing.seconds_of(run, device) for _ in range(7)][2:])


def _profiled(work: Workload, device: torch.device) -> Row:
    """Returns the launches and the kernels of a call, as torch's profiler sees them, and the peak memory."""
    run = work.build(device)
    for _ in range(FEWEST_CALLS):
        run()
    timing.wait(device)
    with timing.peak_memory(device) as peak, profiler.profile(activities=profiler.supported_activities()) as seen:
        run()
        timing.wait(device)
    memory = {"peak_gib": peak[0] * timing.MIB / GIB} if peak else {}
    return {**summary(seen.key_averages()), **memory}


def summary(rows: Iterable[Any]) -> Row:
    """Returns what a profile says of the device, from its `key_averages`.

    `launches` is how often the host gave it work, `kernels` how many pieces of work it did: a graph has many. `ms` is
    the sum of their times, and `longest` are the kernels that took longest, each with its number and its ms.
    """
    rows = list(rows)
    kernels = [row for row in rows if row.device_type == DeviceType.CUDA]
    kernels.sort(key=lambda row: -row.self_device_time_total)
    return {
        "launches": sum(row.count for row in rows if row.key.startswith(_LAUNCHES)),
        "kernels": sum(row.count for row in kernels),
        "ms": sum(row.self_device_time_total for row in kernels) / 1e3,
        "longest": [[row.key[:120], row.count, row.self_device_time_total / 1e3] for row in kernels[:_MOST_KERNELS]],
    }


def _read_counts() -> dict[str, Row]:
    """Returns the counts by the name of the workload; none where they are missing."""
    try:
        results: dict[str, Row] = json.loads(COUNTS.read_text(encoding="utf-8"))["results"]
    except FileNotFoundError:
        return {}
    return results


def _show(group: str, rows: list[Row], device: torch.device) -> None:
    """Prints measured beside counted."""
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    table = []
    for row in rows:
        counted = row.get("counted", {})
        predicted = [1e3 * seconds for name, seconds in counted.get("seconds", {}).items() if name in card]
        rate = row.get("tb_per_second", row.get("tflop_per_second"))
        table.append(
            [
                *(row["name"], row.get("ms", rate), row.get("host_ms"), predicted[0] if predicted else None),
                *(row.get("launches"), counted.get("launches"), row.get("peak_gib"), counted.get("peak_gib")),
                row.get("failed", row.get("skipped", "")),
            ]
        )
    columns = ("", "ms", "host ms", "predicted", "launches", "counted", "peak GiB", "counted", "")
    report.show(f"{group} (ceilings: TB/s, TFLOP/s)" if group == "ceilings" else group, columns, table)


def _arguments() -> argparse.Namespace:
    parser = report.new_parser(__doc__)
    groups = ["ceilings", *GROUPS, "profile"]
    parser.add_argument("--groups", nargs="+", default=groups, choices=groups, help="what to measure, in this order")
    parser.add_argument("--seconds", type=float, default=480, help="after this time no further row begins")
    parser.add_argument("--tiny", action="store_true", help="a few small images, to try this program out")
    return report.parse(parser)


if __name__ == "__main__":
    main()
