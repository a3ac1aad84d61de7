"""Measures what every step of a sweep costs beside its passes: it runs the smallest training and its test once."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch

from advmia.data.phantoms import COUNTS, make_phantoms
from advmia.errors import UserError
from advmia.sweeps.grid import Grid, split_flags
from advmia.sweeps.plan import plan_steps
from advmia.sweeps.scene import timed
from advmia.sweeps.steps import Kind, Step, log_path, plan_path, write_plan

_FLAGS = ["--imgSize", "16", "--limit", "2", "--bs", "2", "--epoch", "1", "--lr", "1e-6"]
_FLAGS += ["--attacks", "fgsm", "--epsilons", "8"]


def start_seconds(device: torch.device) -> dict[Kind, float]:
    """Returns the seconds that a training and a test take which have next to nothing to do.

    They are those of Python, torch and the device as they start, of reading and writing files, and of the first picture
    of the curves. Raises `UserError` if a command fails.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_phantoms(folder, ["mel2017"], count=COUNTS[0], size=32)
        grid = Grid(
            datasets=("melBin",),
            models=("mv2",),
            methods=("nat",),
            epsilons=("0",),
            seeds=(),
            transfer=None,
            only="",
            out=folder,
            checkpoints=None,
            results=folder / "results",
            tables=folder / "tables",
            flags=tuple(split_flags([*_FLAGS, "--dataRoot", name])),
        )
        steps = [step for step in plan_steps(grid, folder) if step.kind != "tables"]
        write_plan(plan_path(folder), steps)
        return {step.kind: timed(partial(_run, folder, step, device), device)[1] for step in steps}


def _run(folder: Path, step: Step, device: torch.device) -> None:
    """Runs a step as a sweep does."""
    place = "cpu" if device.type == "cpu" else str(device.index or 0)
    words = [sys.executable, "-m", "advmia.sweeps.job", str(folder), step.name, "this machine", "--gpu", place]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())} if device.type == "cpu" else {}
    if subprocess.run(words, env=os.environ | threads, stdin=subprocess.DEVNULL, check=False).returncode:
        lines = log_path(folder, step.name).read_text(encoding="utf-8", errors="replace").splitlines()
        raise UserError(f"cannot measure how a {step.kind} starts: {lines[-1]}")
