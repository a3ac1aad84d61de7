"""Runs the demo with several seeds, and with one and with two threads: its time, and the accuracies that it shows.

    python -m benchmarks.demo

Every run is `python -m advmia demo` in a process and a folder of its own. Runs follow one another, so that they are
timed alone. It prints a table, as docs/speed.md shows it, and says whether every run keeps to the bounds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import report

ROOT = Path(__file__).resolve().parent.parent
METHODS = ("nat", "pgdat")
EPS = 8
# What each run must show, in percent: the natural network's clean accuracy is above the first, its accuracy under
# PGD-20 below the second, and that of PGD-AT under PGD-20 above the third.
BOUNDS = (90.0, 15.0, 60.0)


def main() -> None:
    args = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        runs = [
            run_demo(Path(folder) / f"{threads}-{seed}", threads, args.device, seed)
            for threads in args.threads
            for seed in range(args.seeds)
        ]
    print(table(runs))
    failed = [run for run in runs if not keeps_bounds(run)]
    print(f"{len(runs) - len(failed)} of {len(runs)} runs keep to the bounds")
    report.write(args, "demo", {"runs": runs, "bounds": BOUNDS, "kept": len(runs) - len(failed)})


def run_demo(out: Path, threads: int, device: str, seed: int) -> dict[str, Any]:
    """Runs the demo once; returns its settings, its seconds and its accuracies."""
    gpu = ["--gpu", "cpu"] if device == "cpu" else []
    command = [sys.executable, "-m", "advmia", "demo", "--out", str(out), "--seed", str(seed), *gpu]
    start = time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    print(f"{threads} threads, seed {seed}: {seconds:.0f} s", file=sys.stderr, flush=True)
    return {"threads": threads, "seed": seed, "seconds": seconds, **accuracies(out)}


def accuracies(out: Path) -> dict[str, float]:
    """Returns the accuracies in percent of both networks, clean and under PGD-20, from the results of a demo."""
    found: dict[str, float] = {}
    for method in METHODS:
        (path,) = (out / "results").rglob(f"*_{method}_*.json")  # those of another seed than 0 lie in a folder
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        shares = {(row["attack"], row["eps"]): 100 * row["scores"]["accuracy"] for row in rows}
        found |= {f"{method} clean": shares["none", 0], f"{method} attacked": shares["pgd", EPS]}
    return found


def keeps_bounds(run: Mapping[str, Any]) -> bool:
    """Whether a run shows the contrast between the two networks that the demo is made for."""
    clean, attacked, robust = BOUNDS
    return run["nat clean"] > clean and run["nat attacked"] < attacked and run["pgdat attacked"] > robust


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Returns a Markdown table with a line for each run."""
    heads = ("nat clean", "nat attacked", "pgdat clean", "pgdat attacked")
    lines = [
        "| threads | seed | seconds | nat, clean | nat, PGD-20 | PGD-AT, clean | PGD-AT, PGD-20 |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for run in runs:
        cells = [
            str(run["threads"]),
            str(run["seed"]),
            f"{run['seconds']:.0f}",
            *(f"{run[head]:.1f}" for head in heads),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = report.new_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds, from 0")
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1], help="numbers of threads")
    return report.parse(parser)


if __name__ == "__main__":
    main()
