"""Counts the memory of a training step by network, size of the images, method and precision.

    python -m benchmarks.memory --out benchmarks/results/memory.json

Counted is the most that all tensors of a step take at once, on a pretended GPU without numbers
(`tests/support/pretended_gpu.py`): the network, its gradient, the optimizer's averages, and what the passes of the
attack and of the loss keep. A real GPU needs more: the work space of convolutions, CUDA itself, and what its allocator
cannot use.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import product

import torch

from advmia.budgets import Budget
from advmia.data.loading import TrainingLoader
from advmia.data.specs import Augmentation
from advmia.data.tensors import as_data
from advmia.models import MODELS, build_model
from advmia.runtime.machine import on_device
from advmia.runtime.precision import Precision
from advmia.tasks import SEGMENTATION, SINGLE_LABEL
from advmia.training.loop import Position, Training, loss_gradient
from advmia.training.methods import METHODS, MethodSettings
from advmia.training.recomputation import Recomputation
from benchmarks import report
from tests.support.pretended_gpu import DEVICE, PretendedGpu

METHODS_SHOWN = ("pgdat", "trades", "hat")  # mpadvt needs what pgdat does; others no more than these
PRECISIONS_SHOWN = ("tf32", "bf16")
_TOTAL = 2**50  # bytes of the pretended GPU: nothing fails


@dataclass(frozen=True)
class Case:
    """A training, of which a step is counted."""

    network: str
    size: int  # pixels a side
    method: str
    precision: str
    recomputed: bool  # --checkpointActivations


def main() -> None:
    args, results = _arguments(), []
    for network in args.models:
        is_mask = MODELS[network].kind == "segmentation"
        methods = [name for name in args.methods if name in (SEGMENTATION if is_mask else SINGLE_LABEL).methods]
        sizes = args.maskSize if is_mask else args.size
        for case in (Case(network, *each) for each in product(sizes, methods, PRECISIONS_SHOWN, (False, True))):
            results.append({**asdict(case), "gib": peak(case, args.bs) / 2**30})
        report.write(args, "memory", {"batch_size": args.bs, "results": results})  # so far
    for is_recomputed in (False, True):
        print(table(results, is_recomputed), end="\n\n")


def peak(case: Case, batch_size: int) -> int:
    """Returns the most bytes that are in use at once during a step, with the network."""
    gc.collect()
    with PretendedGpu(shapes_only=True, total=_TOTAL) as gpu:
        training = _training(case, batch_size)
        for weight in training.model.parameters():
            weight.grad = torch.zeros_like(weight)
        training.optimizer.step()  # makes the averages
        training.optimizer.zero_grad(set_to_none=True)
        gpu.clear()
        loss_gradient(training, next(iter(training.loader.epoch(1))), Position())
        training.optimizer.step()
        return gpu.memory.peak


def _training(case: Case, batch_size: int) -> Training:
    task = SEGMENTATION if MODELS[case.network].kind == "segmentation" else SINGLE_LABEL
    model, helper = (on_device(build_model(case.network, 2), DEVICE) for _ in range(2))
    shape = (batch_size, case.size, case.size)
    y = torch.zeros(shape if task is SEGMENTATION else shape[:1], dtype=torch.int64)
    data = as_data(torch.zeros(batch_size, 3, case.size, case.size), y, name="zeros", classes=2)
    loader = TrainingLoader(data, batch_size, DEVICE, "shuffled", Augmentation(), 0)
    budget = Budget(8 / 255, 1, 2 / 255)  # each further step of an attack needs the same memory again
    settings = MethodSettings(task.objective, task.divergence, budget, 6.0, 1.0, 3.5, helper.eval())
    optimizer = task.optimizer(model.parameters(), task.default_lr, 1e-3)
    schedule, method = task.schedule(optimizer, task.default_lr, 2), METHODS[case.method](settings)
    recomputation = Recomputation(model) if case.recomputed else None
    options = {"precision": Precision(case.precision), "recomputation": recomputation}
    return Training(model, method, loader, optimizer, schedule, 1, **options)  # type: ignore[arg-type]


def table(results: Iterable[dict[str, object]], is_recomputed: bool) -> str:
    """Returns a table in Markdown: for each network and size, GiB in tf32 and in bf16 for each method."""
    shown = [result for result in results if result["recomputed"] == is_recomputed]
    methods = list(dict.fromkeys(str(result["method"]) for result in shown))
    lines = [["network", "pixels", *methods], ["---", "---:", *(["---:"] * len(methods))]]
    for network, size in dict.fromkeys((result["network"], result["size"]) for result in shown):
        cells = []
        for method in methods:
            of = [result for result in shown if (result["network"], result["size"]) == (network, size)]
            gib = {str(result["precision"]): result["gib"] for result in of if result["method"] == method}
            cells.append(" / ".join(f"{gib[name]:.3g}" for name in PRECISIONS_SHOWN) if gib else "")
        lines.append([str(network), str(size), *cells])
    return "\n".join(_line(cells) for cells in lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")


def _arguments() -> argparse.Namespace:
    parser = report.new_parser(__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS), help="networks")
    parser.add_argument("--methods", nargs="+", default=METHODS_SHOWN, choices=list(METHODS), help="training methods")
    parser.add_argument("--size", nargs="+", type=int, default=[224, 299], help="sides of the images in pixels")
    parser.add_argument("--maskSize", nargs="+", type=int, default=[256], help="the same for networks of masks")
    parser.add_argument("--bs", type=int, default=32, help="batch size")
    return report.parse(parser)


if __name__ == "__main__":
    main()
