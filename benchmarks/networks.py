"""Compares the networks: what a forward pass costs, and what folding batch norms into convolutions gains.

    python -m benchmarks.networks --models res18 wrn --size 32 --bs 8

Times are of a step of an attack (a forward pass and the gradient with respect to the input), on the copy that attacks
run on and on the same network without folding, and of an update (a forward pass in train mode, the gradient with
respect to the parameters, and the optimizer's step).
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from advmia.attacks.common import input_gradient
from advmia.attacks.inference import inference_copy, plain_kernels
from advmia.models import build_model
from advmia.runtime.precision import Precision
from advmia.tasks import SEGMENTATION, SINGLE_LABEL
from benchmarks import report, timing
from benchmarks.steps import LR, Subject

UNFOLDED = f"{timing.OURS}, not folded"


def main() -> None:
    args = _arguments()
    device, results = torch.device(args.device), []
    for size in args.size:
        for requested in args.precision:
            precision = Precision.choose(requested, device)
            results.append({"size": size, "batch_size": args.bs, **_compare(size, precision, args)})
            report.write(args, "networks", {"results": results})  # after each, in case a time limit ends the run


def _compare(size: int, precision: Precision, args: argparse.Namespace) -> dict[str, Any]:
    """Times all networks at one size in one precision and prints the tables; returns the results for the JSON file."""
    device = torch.device(args.device)
    clock = time.process_time if args.processorTime else time.perf_counter
    alternate = partial(timing.alternate, device=device, repeats=args.repeats, warmup=args.warmup, clock=clock)
    steps, updates, folding, facts = {}, {}, {}, {}
    for name in args.models:
        subject = Subject(name, size, args.bs, device)
        ours, plain = inference_copy(subject.network.eval(), subject.x), frozen(subject.network)
        steps[name], updates[name] = _attack_step(ours, subject, precision), _update(subject, precision)
        alone = copy.deepcopy(subject.network)
        plain_kernels(alone)  # so that on a GPU too folding is all that differs
        folded = inference_copy(alone, subject.x)
        runs = {
            UNFOLDED: _attack_step(plain, subject, precision),
            timing.OURS: _attack_step(folded, subject, precision),
        }
        folding[name] = alternate(runs)
        facts[name] = {
            "gflop": gflop(name, size),
            "parameters": sum(parameter.numel() for parameter in plain.parameters()),
            "batch_norms": _batch_norms(plain),
            "not_folded": _batch_norms(folded),
        }
    results = {"precision": precision.name, "networks": facts, "folding": folding}
    for what, calls in (("attack", steps), ("update", updates)):
        # `alternate` divides by the time of the first network.
        runs = {_named(name): call for name, call in calls.items()}
        results[what] = alternate(runs)
    _show(f"batches of {args.bs}, {size} pixels, {precision.name}", results)
    return results


def _show(title: str, results: dict[str, Any]) -> None:
    """Prints a line for each network. Ratios of times are medians, with their range over the rounds."""
    networks, folding = results["networks"], results["folding"]
    first = next(iter(networks.values()))
    table = []
    for name, facts in networks.items():
        gain = folding[name][UNFOLDED]
        table.append(
            [
                *(name, facts["gflop"], facts["gflop"] / first["gflop"]),
                *(_range(results[what][_named(name)]) for what in ("attack", "update")),
                f"{facts['batch_norms'] - facts['not_folded']} of {facts['batch_norms']}",
                _range(gain),
            ]
        )
    columns = ("", "GFLOP", "times", "attack's step, times", "update, times", "folded", "folding gains, times")
    report.show(title, columns, table)


def _named(network: str) -> str:
    """Returns a name by which `alternate` gives a network's runs the memory settings of our commands."""
    return f"{timing.OURS}, {network}"


def _range(row: dict[str, float]) -> str:
    median, low, high = (row[f"ours_faster{end}"] for end in ("", "_min", "_max"))
    return f"{median:.3g} ({low:.3g}-{high:.3g})"


def gflop(name: str, size: int) -> float:
    """Counts the GFLOP of one image's forward pass; a multiplication and an addition count as two."""
    with torch.device("meta"):
        network = build_model(name, 2).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, 3, size, size, device="meta"))
    return counter.get_total_flops() / 1e9


def frozen(network: nn.Module) -> nn.Module:
    """Returns a copy that differs from the one that attacks run on in its batch norms only."""
    return copy.deepcopy(network).eval().requires_grad_(False)


def _batch_norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def _attack_step(network: nn.Module, subject: Subject, precision: Precision) -> Callable[[], None]:
    """Returns a call that computes the gradient of the loss with respect to the images."""

    def run() -> None:
        with precision.autocast(subject.device):
            input_gradient(network, subject.x, subject.y, subject.task.objective)

    return run


def _update(subject: Subject, precision: Precision) -> Callable[[], None]:
    """Returns a call that trains a copy of the network for a step, on the images as they are."""
    model = subject.ours().train()
    optimizer = subject.task.optimizer(model.parameters(), LR, 1e-3)

    def run() -> None:
        with precision.autocast(subject.device):
            loss = subject.loss(model(subject.x), subject.y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return run


def _arguments() -> argparse.Namespace:
    parser = report.new_parser(__doc__)
    names = [*SINGLE_LABEL.models, *SEGMENTATION.models]
    parser.add_argument(
        "--models",
        nargs="+",
        default=["res18", "wrn"],
        choices=names,
        help="networks; others are compared with the first",
    )
    parser.add_argument("--size", nargs="+", type=int, default=[32], help="sides of the images in pixels")
    parser.add_argument("--bs", type=int, default=8, help="batch size")
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds")
    parser.add_argument(
        "--warmup", type=int, default=1, help="untimed calls: on a CPU before each timed one, on CUDA before the first"
    )
    parser.add_argument(
        "--processorTime",
        action="store_true",
        help="time by this process's use of the CPU, not by the clock: for a machine on which other programs run",
    )
    report.add_precisions(parser)
    return report.parse(parser)


if __name__ == "__main__":
    main()
