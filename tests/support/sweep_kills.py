"""Kills sweeps at random moments and continues them, and compares their tables with those of an undisturbed one.

    python -m tests.support.sweep_kills --kills 20

The grid has two data sets, two networks, five methods, two eps and two seeds, at tiny scale: 145 steps. It is run
without a kill, then one step at a time, two at a time, and by Slurm (if it is installed), each killed --kills times: a
step, the sweep itself, or slurmd, by SIGKILL. Tables must be equal to the byte, apart from the seconds of
trainings, and a step that had finished must not run again.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from advmia.data.phantoms import make_phantoms
from tests.support.slurm import LocalSlurm, running_slurm, why_not
from tests.support.warm import warm_python
from tests.sweeps.running import TINY, Sweeps

GRID: list[object] = ["--datasets", "melBin", "melMulti", "--models", "mv2", "res18", "--seeds", 0, 1]
GRID += ["--methods", "nat", "pgdat", "trades", "mart", "hat", "--eps", 4, 8, "--epsilons", 8, *TINY]
SECONDS = re.compile(r"\n\n[^\n]*: seconds an epoch.*?(?=\n\n\w+\[|\Z)", re.S)  # the tables of costs


class Run:
    """A sweep in one folder, started again until all its steps are finished."""

    def __init__(self, sweeps: Sweeps, out: Path, moments: random.Random) -> None:
        self.sweeps, self.out, self.moments = sweeps, out, moments
        self.kills: Counter[str] = Counter()
        self.finished: dict[str, float] = {}  # when each step that has finished was started

    def check(self) -> bool:
        """Returns whether all steps have finished. Fails if one that had finished was started again."""
        states = {path.stem: json.loads(path.read_text()) for path in (self.out / "steps").glob("*.json")}
        for name, started in self.finished.items():
            assert states[name]["started"] == started, f"{name} was repeated"
        done = {name: state["started"] for name, state in states.items() if state["state"] == "finished"}
        self.finished = {name: started for name, started in done.items() if name != "tables"}
        return len(self.finished) == 144

    def kill_a_step(self) -> None:
        """Kills a command of the sweep, or the process that watches it."""
        words = ["pgrep", "-f", f"(--saveDir|--resultDir|sweeps.job) {self.out}"]
        found = subprocess.run(words, capture_output=True, text=True, check=False)
        if found.stdout.split():
            subprocess.run(["kill", "-KILL", self.moments.choice(found.stdout.split())], check=False)
            self.kills["steps"] += 1

    def run_here(self, jobs: int, kills: int) -> None:
        while not (self.out / "plan.json").exists() or not self.check():
            process = self.sweeps.start(*GRID, "--out", self.out, "--jobs", jobs)
            while process.poll() is None and self.kills.total() < kills:
                time.sleep(self.moments.uniform(0, 12))
                if self.moments.random() < 0.5:
                    self.kill_a_step()
                elif process.poll() is None:
                    process.kill()
                    self.kills["sweeps"] += 1
            process.communicate()

    def run_by_slurm(self, slurm: LocalSlurm, kills: int) -> None:
        while not (self.out / "plan.json").exists() or not self.check():
            self._submit(kills)
            while slurm.queue():
                slurm.start_put_back()
                time.sleep(self.moments.uniform(0, 12))
                if self.kills.total() < kills:
                    self._disturb(slurm)

    def _submit(self, kills: int) -> None:
        """Submits the jobs; may be killed while it does so."""
        process = self.sweeps.start(*GRID, "--out", self.out, "--slurm", "")
        if self.kills.total() < kills and self.moments.random() < 0.5:
            try:
                process.wait(self.moments.uniform(1, 5))
            except subprocess.TimeoutExpired:
                process.kill()
                self.kills["sweeps"] += 1
        process.communicate()

    def _disturb(self, slurm: LocalSlurm) -> None:
        if self.moments.random() < 0.6:
            self.kill_a_step()
        else:
            slurm.kill("slurmd")
            time.sleep(1)
            slurm.start("slurmd")
            self.kills["slurmd"] += 1


def tables(out: Path) -> str:
    return SECONDS.sub("", (out / "tables" / "tables.md").read_text())


def compare(folder: Path, python: Path, kills: int, seed: int) -> None:
    """Runs the sweeps in `folder`, and prints a line for each. Fails if their tables differ."""
    make_phantoms(folder / "data", ["mel2017"], count=32, size=32)
    expected = ""
    context = nullcontext(None) if why_not() else running_slurm(folder / "slurm")
    with context as slurm:
        runs: dict[str, Callable[[Run], None]] = {
            "undisturbed": lambda run: run.run_here(2, 0),
            "one": lambda run: run.run_here(1, kills),
            "two": lambda run: run.run_here(2, kills),
        }
        if slurm is not None:
            runs["slurm"] = lambda run: run.run_by_slurm(slurm, kills)
        for name, start in runs.items():
            sweeps = Sweeps(python, folder, slurm.environment if slurm else None)
            run = Run(sweeps, folder / name, random.Random(seed))
            begin = time.monotonic()
            start(run)
            expected = expected or tables(run.out)
            assert tables(run.out) == expected, f"{run.out}: other tables"
            text = ", ".join(f"{count} {what}" for what, count in run.kills.items()) or "nothing"
            print(f"{name}: killed {text}; equal tables after {time.monotonic() - begin:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="how often each sweep is killed")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with warm_python(folder) as python:
            compare(folder, python, args.kills, args.seed)


if __name__ == "__main__":
    main()
