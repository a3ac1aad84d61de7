"""Compares a sweep of several steps at a time with the same sweep one step after another, on a CPU.

    python -m benchmarks.sweeps --jobs 2

A sweep trains networks with each method, robust ones at two eps. One after another, a training has all cores; several
at a time, the cores are shared out. Both sweeps are run in turn, each into a new folder.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from advmia.data.phantoms import make_phantoms
from benchmarks import report

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    args = _arguments()
    seconds: dict[int, list[float]] = {1: [], args.jobs: []}
    with tempfile.TemporaryDirectory() as name:
        make_phantoms(Path(name) / "data", ["mel2017"], count=args.images, size=40)
        flags = [word for flag in ("models", "methods", "bs", "epoch") for word in _words(flag, getattr(args, flag))]
        flags += ["--imgSize", str(args.size), "--dataRoot", str(Path(name) / "data")]
        _run(Path(name), 1, [*flags, "--methods", "nat"])  # fills the cache of images
        for _ in range(args.repeats):
            for jobs, taken in seconds.items():
                start = time.perf_counter()
                _run(Path(name), jobs, flags)
                taken.append(time.perf_counter() - start)
    ratios = [one / several for one, several in zip(*seconds.values(), strict=True)]
    results = {
        "jobs": args.jobs,
        "seconds": list(seconds.values()),
        "faster": median(ratios),
        "faster_min": min(ratios),
        "faster_max": max(ratios),
    }
    report.write(args, "sweeps", results)
    rows = [[f"{jobs} at a time", *(fn(taken) for fn in (median, min, max))] for jobs, taken in seconds.items()]
    report.show("the sweep", ("", "seconds", "min", "max"), rows)
    print(f"{args.jobs} at a time: {results['faster']:.2f} times as fast ({min(ratios):.2f}-{max(ratios):.2f})")


def _run(folder: Path, jobs: int, flags: list[str]) -> None:
    """Runs the sweep in a new folder, which is removed again."""
    words = ["--dataset", "melBin", "--eps", "4", "8", "--only", "train", "--gpu", "cpu", "--jobs", str(jobs), *flags]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    with tempfile.TemporaryDirectory(dir=folder) as out:
        subprocess.run(
            [sys.executable, "-m", "advmia", "sweep", *words, "--out", out],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            check=True,
        )


def _words(flag: str, value: object) -> list[str]:
    return [f"--{flag}", *map(str, value if isinstance(value, list) else [value])]


def _arguments() -> argparse.Namespace:
    parser = report.new_parser(__doc__)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="steps at a time; default: one for each core")
    parser.add_argument("--images", type=int, default=160, help="phantoms; a quarter of them validates")
    parser.add_argument("--repeats", type=int, default=3, help="how often each sweep is run")
    parser.add_argument("--models", nargs="+", default=["mv2"], help="networks")
    parser.add_argument("--methods", nargs="+", default=["nat", "pgdat", "trades", "mart"], help="training methods")
    parser.add_argument("--size", type=int, default=32, help="of the images in pixels")
    parser.add_argument("--bs", type=int, default=16, help="batch size")
    parser.add_argument("--epoch", type=int, default=2, help="epochs of each training")
    return report.parse(parser)


if __name__ == "__main__":
    main()
