"""Counts on the pretended GPU what `benchmarks.gpu` measures on a real one: the predictions that it is compared with.

    python -m benchmarks.counts

For each workload of `benchmarks.workloads`: launches, bytes that operators read and write, FLOP of convolutions and
matrix products, points where the host waits, and the peak memory (without CUDA graphs, whose memory is not pretended
well). From these follows a time for some cards: that of the device, where each operator takes as long as its bytes at
`MEMORY_SHARE` of the memory's rate or its FLOP at `PEAK_SHARE` of the peak, or that of the host, at `LAUNCH_SECONDS` a
launch; the longer of the two. Nothing is measured. It needs torch 2.9 or later, and no GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from unittest import mock

from torch.fx.experimental import _config

from advmia.attacks.inference import Captured
from benchmarks import report
from benchmarks.workloads import Workload, counted, subject_of
from tests.support.gpu_records import Launch
from tests.support.pretended_gpu import DEVICE, PretendedGpu, why_not

PEAK_SHARE, MEMORY_SHARE = 0.5, 0.8  # of what a card's data sheet says, that operators reach
LAUNCH_SECONDS = 5e-6
GIB = 2**30


@dataclass(frozen=True)
class Card:
    """What the data sheet of a GPU says of dense matrix products, in TFLOP/s, and of its memory, in TB/s."""

    fp32: float
    tf32: float
    bf16: float
    memory: float

    def seconds(self, launches: Iterable[Launch], precision: str) -> float:
        """Returns how long the device needs for the launches, one after the other."""
        flops, rate = PEAK_SHARE * getattr(self, precision) * 1e12, MEMORY_SHARE * self.memory * 1e12
        return sum(max(launch.flop / flops, launch.bytes / rate) for launch in launches)


CARDS = {
    "A100": Card(19.5, 156, 312, 1.555),
    "H100": Card(67, 495, 989, 3.35),
    "H200": Card(67, 495, 989, 4.8),
}


def main() -> None:
    args = _arguments()
    reason = why_not()
    if reason:
        raise SystemExit(reason)
    results, table = {}, []
    works = [work.shrunk() if args.tiny else work for work in counted()]
    # No image is fooled: all that an attack asks about are left.
    everything = mock.patch.object(_config, "meta_nonzero_assume_all_nonzero", True)
    with PretendedGpu(shapes_only=True, total=2**50) as gpu, everything:
        for work in works:
            row = results[work.name] = count(work, gpu)
            times = [1e3 * row["seconds"][card] for card in CARDS]
            table.append([work.name, row["launches"], row["waits"], row["bytes"] / 1e9, row["flop"] / 1e9])
            table[-1] += [row["peak_gib"], *times]
            report.write(args, "counts", {"results": results})
        subject_of.cache_clear()
    columns = ("", "launches", "waits", "GB", "GFLOP", "peak GiB", *(f"{card} ms" for card in CARDS))
    report.show("a call, counted, with predicted times; nothing is measured", columns, table)


def count(work: Workload, gpu: PretendedGpu) -> dict[str, Any]:
    """Returns what one call of the work needs; of work that makes several queries, what one of them needs."""
    with mock.patch.object(Captured, "forward", lambda captured, x: captured.network(x)):
        alone, peak, waits = _recorded(work, gpu, warm_up=1)
    launches = alone
    if work.has_graphs:
        launches, _, waits = _recorded(work, gpu, warm_up=2)  # what is met for the second time is recorded
    host = LAUNCH_SECONDS * len(launches)
    seconds = {name: max(card.seconds(alone, work.precision), host) for name, card in CARDS.items()}
    return {
        "launches": len(launches) / work.calls,
        "launches_without_graphs": len(alone) / work.calls,
        "waits": waits / work.calls,
        "bytes": sum(launch.bytes for launch in alone) / work.calls,
        "flop": sum(launch.flop for launch in alone) / work.calls,
        "peak_gib": peak / GIB,
        "seconds": {name: value / work.calls for name, value in seconds.items()},
    }


def _recorded(work: Workload, gpu: PretendedGpu, warm_up: int) -> tuple[list[Launch], int, int]:
    """Returns the launches of a call after `warm_up` others, its peak memory in bytes and how often the host waits."""
    run = work.build(DEVICE)
    for _ in range(warm_up):
        run()
    gpu.clear()
    run()
    return list(gpu.launches), gpu.memory.peak, len(gpu.waits)


def _arguments() -> argparse.Namespace:
    parser = report.new_parser(__doc__)
    parser.add_argument("--tiny", action="store_true", help="a few small images, to try this program out")
    args = report.parse(parser)
    args.device = "cpu"  # what computes here
    return args


if __name__ == "__main__":
    main()
