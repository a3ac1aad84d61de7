"""Kills a training and an evaluation at random moments, restarts them, and compares their results.

    python -m tests.support.kills --kills 20

Each command is started, killed by SIGKILL at a random moment and started again, until it has been killed --kills times.
If it finishes before, its results are deleted and it starts from the beginning. The results must be those of an
undisturbed run: weights to the bit, and records and tables except their seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.support.running import ROOT
from tests.support.world import make_world

COMMON = ["--dataset", "melBin", "--imgSize", "16", "--gpu", "cpu"]
TRAINING = ["trainCls.py", *COMMON, "--method", "pgdat", "--model", "mv2", "--eps", "8", "--bs", "8", "--epoch", "8"]
# Progress is saved every five seconds, and whenever an attack ends.
EVALUATION = ["testCls.py", *COMMON, "--targetModel", "mv2", "--targetWeight", "weights/mv2", "--bs", "2"]
EVALUATION += ["--attacks", "fgsm", "pgd", "apgd-ce", "--epsilons", "0.1/255", "0.2/255"]

Outcome = tuple[Any, Any]  # results of a run that must equal those of an undisturbed one


class Killed(BaseException):
    """Raised in place of a kill, where a test runs a command in its own process; no code of the package catches it."""


def training_outcome(folder: Path) -> Outcome:
    """Returns the digest of the only checkpoint in the folder and its record without seconds.

    Fails if the folder contains any file except the checkpoint, its record and its curves.
    """
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == 3 and names[1:] == [f"{names[0]}.json", f"{names[0]}.png"], names
    record = json.loads((folder / names[1]).read_text())
    for epoch in record["epochs"]:
        assert epoch.pop("seconds") > 0
        assert (epoch.pop("validation_seconds") > 0) == (epoch["clean"] is not None)
    return sha256((folder / names[0]).read_bytes()).hexdigest(), record


def evaluation_outcome(folder: Path) -> Outcome:
    """Returns the lines of the only CSV file in the folder and its JSON record, both without seconds.

    Fails if the folder contains any other file.
    """
    names = sorted(path.name for path in folder.iterdir())
    assert [Path(name).suffix for name in names] == [".csv", ".json"], names
    lines = [line.split(",") for line in (folder / names[0]).read_text().splitlines()]
    column = lines[0].index("seconds")
    record = json.loads((folder / names[1]).read_text())
    assert all(row.pop("seconds") > 0 for row in record["rows"])
    return [line[:column] + line[column + 1 :] for line in lines], record


@dataclass(frozen=True)
class Experiment:
    """A command to kill, and how its results are compared."""

    name: str
    words: list[str]
    flag: str  # the flag for the folder that the command writes to
    outcome: Callable[[Path], Outcome]


EXPERIMENTS = [
    Experiment("training", [*TRAINING, "--resume", "--saveEvery", "0.01"], "--saveDir", training_outcome),
    Experiment("evaluation", EVALUATION, "--resultDir", evaluation_outcome),
]


def kill_repeatedly(
    experiment: Experiment, folder: Path, kills: int, seed: int, python: Path | str = sys.executable
) -> dict[str, int]:
    """Runs the command undisturbed in `folder`, then kills and restarts it. Fails if an outcome differs.

    Returns how often the command was killed, how many restarts resumed earlier work, and how often it finished.
    """
    undisturbed, first_line = start([*experiment.words, experiment.flag, "undisturbed"], folder, python)
    start_time = time.monotonic()
    rest = undisturbed.communicate()[0]
    assert undisturbed.returncode == 0, first_line + rest
    duration = time.monotonic() - start_time
    expected, moments = experiment.outcome(folder / "undisturbed"), random.Random(seed)
    out, counts = folder / "killed", {"kills": 0, "resumed restarts": 0, "ends": 0}
    while True:
        process, first_line = start([*experiment.words, experiment.flag, "killed"], folder, python)
        try:
            process.wait(timeout=moments.uniform(0, duration) if counts["kills"] < kills else None)
        except subprocess.TimeoutExpired:
            process.kill()
            counts["kills"] += 1
        text = first_line + process.communicate()[0]
        counts["resumed restarts"] += "resuming at" in text or "are not repeated" in text
        if process.returncode == 0:
            assert experiment.outcome(out) == expected
            counts["ends"] += 1
            if counts["kills"] >= kills:
                return counts
            shutil.rmtree(out)
        assert process.returncode in (0, -9), text


def start(words: list[str], folder: Path, python: Path | str) -> tuple[subprocess.Popen[str], str]:
    """Starts a script. Returns the process and its first line of output, which comes after the slow imports."""
    process = subprocess.Popen(
        [python, str(ROOT / words[0]), *words[1:]],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    return process, process.stdout.readline()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="number of kills of the training, and of the evaluation")
    parser.add_argument("--images", type=int, default=160, help="number of phantoms; a quarter of them is tested")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        world = make_world(Path(name) / "world", args.images)
        for experiment in EXPERIMENTS:
            folder = Path(name) / experiment.name
            folder.mkdir()
            for shared in ("data", "weights"):
                (folder / shared).symlink_to(world / shared)
            counts = kill_repeatedly(experiment, folder, args.kills, args.seed)
            text = ", ".join(f"{count} {event}" for event, count in counts.items())
            print(f"{experiment.name}: {text}, each with the outcome of the undisturbed run")


if __name__ == "__main__":
    main()
