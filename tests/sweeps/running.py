"""Small sweeps for tests, as processes of their own, by an interpreter that starts quickly."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.support.running import ROOT

TAIL = "maxLR0.01_weightDecay0.001"
NATURAL = f"MobileNetV2_melBin_nat_class2_{TAIL}"
HAT = f"MobileNetV2_melBin_hat_beta6_class2_ADV8-255_10_2-255_{TAIL}"
TINY = ["--imgSize", 16, "--limit", 8, "--epoch", 2, "--bs", 8, "--gpu", "cpu", "--workers", 1, "--attacks", "fgsm"]
# Natural training, its test, HAT, its test, tables.
HAT_SWEEP = ["--dataset", "melBin", "--model", "mv2", "--methods", "hat", "nat", "--eps", 8, "--epsilons", 8, *TINY]
STEPS = [f"{kind}_melBin_mv2_{network}" for network in ("nat", "hat_eps8") for kind in ("train", "test")]


class Sweeps:
    """Runs `python -m advmia sweep` in a folder that has the data."""

    def __init__(self, python: Path, folder: Path, environment: dict[str, str] | None = None) -> None:
        self.python, self.folder = python, folder
        self.environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | (environment or {})

    def start(self, *words: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.python, "-m", "advmia", "sweep", *map(str, words)],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: object, status: int = 0) -> tuple[str, str]:
        """Returns the standard output and error of a finished sweep. Fails if its exit status is another one."""
        process = self.start(*words)
        printed = process.communicate(timeout=300)
        assert process.returncode == status, printed
        return printed


def contents(folder: Path) -> dict[str, bytes]:
    """Returns the weights and records of the networks, and the results, by their paths."""
    files = [path for name in ("clsCkpt", "results") for path in (folder / name).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def changed_times(folder: Path) -> dict[str, int]:
    """Returns when each network and each result was last changed."""
    files = [path for name in ("clsCkpt", "results") for path in (folder / name).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in files}


def scores(out: Path) -> str:
    """Returns the tables without those of costs, which have seconds."""
    tables, mark, _ = (out / "tables" / "tables.md").read_text().partition("\n\nmelBin[phantom], mv2: seconds an epoch")
    assert mark and "| nat" in tables
    return tables


def status(out: Path) -> dict[str, Any]:
    return json.loads((out / "status.json").read_text())


def states(out: Path) -> dict[str, str]:
    """Returns the state of each step but the tables."""
    return {name: state["state"] for name, state in status(out)["states"].items() if name != "tables"}
