"""Kills a training and an evaluation at random moments, again and again, and compares what they come to.

    python -m tests.support.kills --kills 20

Each is started, killed by SIGKILL at a random moment of its work and started again, until it has been killed so often;
one that comes to its end before is begun anew. The end must be that of a run that nobody disturbed: weights to the last
bit, records and tables but for seconds.
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
from hashlib import sha256
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
COMMON = ["--dataset", "melBin", "--imgSize", "16", "--gpu", "cpu"]
TRAINING = ["trainCls.py", *COMMON, "--method", "pgdat", "--model", "mv2", "--eps", "8", "--bs", "8", "--epoch", "8"]
# Batches are saved every five seconds: of the last attack, some always are.
EVALUATION = ["testCls.py", *COMMON, "--targetModel", "mv2", "--targetWeight", "network", "--bs", "2"]
EVALUATION += ["--attacks", "fgsm", "pgd", "apgd-ce", "--epsilons", "0.1", "0.2"]

Outcome = tuple[Any, Any]


def training_outcome(folder: Path) -> Outcome:
    """The digest of the one checkpoint in the folder, and its record without seconds; nothing else may be there."""
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == 3 and names[1:] == [f"{names[0]}.json", f"{names[0]}.png"], names
    record = json.loads((folder / names[1]).read_text())
    assert all(epoch.pop("seconds") > 0 for epoch in record["epochs"])
    return sha256((folder / names[0]).read_bytes()).hexdigest(), record


def evaluation_outcome(folder: Path) -> Outcome:
    """The lines of the one CSV file in the folder and the JSON record, without seconds; nothing else may be there."""
    names = sorted(path.name for path in folder.iterdir())
    assert [Path(name).suffix for name in names] == [".csv", ".json"], names
    lines = [line.split(",") for line in (folder / names[0]).read_text().splitlines()]
    place = lines[0].index("seconds")
    record = json.loads((folder / names[1]).read_text())
    assert all(row.pop("seconds") > 0 for row in record["rows"])
    return [line[:place] + line[place + 1 :] for line in lines], record


def kill_again_and_again(
    words: list[str], folder: Path, flag: str, outcome: Callable[[Path], Outcome], kills: int, seed: int
) -> dict[str, int]:
    """Runs the command in `folder`; the place that `flag` names is where its files go. Returns what was counted."""
    whole, line = run([*words, flag, "undisturbed"], folder)
    start = time.monotonic()
    assert whole.wait() == 0, line + told(whole)
    longest = time.monotonic() - start
    expected, draw = outcome(folder / "undisturbed"), random.Random(seed)
    place, counts = folder / "killed", {"kills": 0, "restarts that went on": 0, "ends": 0}
    while True:
        running, line = run([*words, flag, "killed"], folder)
        try:
            running.wait(timeout=draw.uniform(0, longest) if counts["kills"] < kills else None)
        except subprocess.TimeoutExpired:
            running.kill()
            counts["kills"] += 1
        text = line + told(running)
        counts["restarts that went on"] += "resuming at" in text or "are not repeated" in text
        if running.returncode == 0:
            assert outcome(place) == expected
            counts["ends"] += 1
            if counts["kills"] >= kills:
                return counts
            shutil.rmtree(place)
        assert running.returncode in (0, -9), text


def run(words: list[str], folder: Path) -> tuple[subprocess.Popen[str], str]:
    """The command under way, and the first line that it said: its imports are behind it."""
    running = subprocess.Popen(
        [sys.executable, str(ROOT / words[0]), *words[1:]],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert running.stdout is not None
    return running, running.stdout.readline()


def told(running: subprocess.Popen[str]) -> str:
    return running.communicate()[0]


def make_world(folder: Path, images: int) -> None:
    """Phantoms and a network to attack."""
    sys.path.insert(0, str(ROOT))
    import torch

    from advmia.data.phantoms import make_phantoms
    from advmia.models import build_model

    make_phantoms(folder / "data", ["mel2017"], count=images, size=32)
    torch.manual_seed(0)
    torch.save(build_model("mv2", 2).state_dict(), folder / "network")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of the training, and of the evaluation")
    parser.add_argument("--images", type=int, default=160, help="phantoms; a quarter of them tests")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_world(folder, args.images)
        training = [*TRAINING, "--resume", "--saveEvery", "0.01"]
        for what, words, flag, outcome in (
            ("training", training, "--saveDir", training_outcome),
            ("evaluation", EVALUATION, "--resultDir", evaluation_outcome),
        ):
            (folder / what).mkdir()
            for shared in ("data", "network"):
                (folder / what / shared).symlink_to(folder / shared)
            counts = kill_again_and_again(words, folder / what, flag, outcome, args.kills, args.seed)
            print(f"{what}: {', '.join(f'{count} {name}' for name, count in counts.items())}, each as undisturbed")


if __name__ == "__main__":
    main()
