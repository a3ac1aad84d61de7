"""Compares what `python -m advmia sweep --estimate` says with what the sweep then takes.

    python -m benchmarks.estimate

Generates images, estimates a small sweep of all given methods, runs it one step after another, and prints the estimated
and the taken seconds of each step, of all trainings, of all tests and of all steps, with the ratio of the two.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from advmia.cli.tools import tools_parser
from advmia.data.phantoms import make_phantoms
from advmia.runtime import machine
from advmia.sweeps.command import grid_of
from advmia.sweeps.plan import plan_steps
from advmia.sweeps.step_times import Estimator
from advmia.sweeps.steps import Step, read_state
from benchmarks import report, timing

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    args = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        results = measure(Path(folder), args)
    columns = ("", "estimated s", "taken s", "estimated / taken")
    report.show("a sweep, estimated and run", columns, [list(row.values()) for row in results["results"]])
    print(f"estimating took {results['estimating_seconds']:.0f} s")
    report.write(args, "estimate", results)


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Estimates a sweep in the folder and runs it.

    Returns rows for each step and for sums of them, and the seconds that estimating took.
    """
    # A quarter of the phantoms are for testing.
    make_phantoms(folder / "data", ["mel2017"], count=args.images, size=max(args.size, 32))
    words = ["sweep", "--dataset", "melBin", "--model", *args.models, "--methods", *args.methods, "--eps", "8"]
    words += ["--imgSize", str(args.size), "--bs", str(args.bs), "--epoch", str(args.epochs)]
    words += ["--attacks", *args.attacks]
    words += ["--gpu", "cpu" if args.device == "cpu" else args.device.partition(":")[2] or "0"]
    words += ["--dataRoot", str(folder / "data"), "--out", str(folder / "sweep")]
    steps, start = plan_of(words), time.perf_counter()
    estimated = _estimated(steps, torch.device(args.device))
    estimating = time.perf_counter() - start
    subprocess.run([sys.executable, "-m", "advmia", *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    taken = {step.name: read_state(folder / "sweep", step).seconds for step in steps}
    groups = {step.name: [step] for step in steps}
    groups |= {f"all of {kind}": [step for step in steps if step.kind == kind] for kind in ("train", "test")}
    groups["all"] = steps
    rows = [_row(name, group, estimated, taken) for name, group in groups.items()]
    return {"results": rows, "estimating_seconds": estimating}


def plan_of(words: list[str]) -> list[Step]:
    """Returns the trainings and tests of a sweep with these words."""
    args = tools_parser("advmia").parse_args(words)
    return [step for step in plan_steps(grid_of(args, args.further), args.dataRoot) if step.kind != "tables"]


def _estimated(steps: list[Step], device: torch.device) -> dict[str, float]:
    """Returns the estimated seconds of each step by name."""
    if device.type == "cpu":
        timing.set_memory(machine.MEMORY_KEPT)  # as the commands do
    estimator = Estimator(device)
    return {step.name: estimator.time_of(step).seconds for step in steps}


def _row(name: str, steps: list[Step], estimated: dict[str, float], taken: dict[str, float]) -> dict[str, Any]:
    seconds = [sum(times[step.name] for step in steps) for times in (estimated, taken)]
    return {"name": name, "estimated": seconds[0], "taken": seconds[1], "ratio": seconds[0] / seconds[1]}


def _arguments() -> argparse.Namespace:
    parser = report.new_parser(__doc__)
    parser.add_argument("--models", nargs="+", default=["mv2"], help="networks")
    parser.add_argument("--methods", nargs="+", default=["nat", "pgdat", "trades"], help="training methods")
    parser.add_argument("--attacks", nargs="+", default=["fgsm", "pgd", "cw"], help="attacks of the tests")
    parser.add_argument("--size", type=int, default=32, help="side of the images in pixels")
    parser.add_argument("--images", type=int, default=256, help="images; a quarter of them are for testing")
    parser.add_argument("--epochs", type=int, default=4, help="epochs of each training")
    parser.add_argument("--bs", type=int, default=32, help="batch size")
    return report.parse(parser)


if __name__ == "__main__":
    main()
