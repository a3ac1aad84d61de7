"""Every command that README.md and the pages of docs/ show is run, in their order, at tiny scale."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from advmia.entry_points import SCRIPTS
from advmia.tasks import METHOD_NAMES
from tests.support.documents import documented_commands
from tests.support.downloads import make_chest, make_covid, make_isic, make_mesidor, make_npz
from tests.support.running import ROOT

TEST = ["--imgSize", "16", "--gpu", "cpu"]
TRAIN = [*TEST, "--epoch", "1", "--bs", "8"]
FEW = ["--limit", "4"]
ONE_EPS = ["--epsilons", "8"]
SHRINK = {  # flags that make a command tiny: appended to it, they replace earlier ones
    "trainCls.py": [*TRAIN, *FEW],
    "trainChex.py": TRAIN,
    "trainSeg.py": [*TRAIN, *FEW, "--imgSize", "32"],
    "testCls.py": [*TEST, *FEW, *ONE_EPS],
    "testChex.py": [*TEST, *ONE_EPS],
    "testSeg.py": [*TEST, *FEW, *ONE_EPS, "--imgSize", "32"],
    "gradVisual.py": [*TEST, *FEW, *ONE_EPS],
    "phantoms": ["--count", "24", "--size", "32"],
    "sweep": ["--dryRun", "--dataRoot", "phantoms"],
}
OWN = {"moles", "scans"}  # data sets that documented commands make of a user's images
SURVEY = ("natural", "pgdat", "trades", "mart", "hat", "multilabel", "segmentation", "evaluate")  # in this order
NOT_RUN_HERE = {
    "git": "fetches this repository",
    "curl": "fetches an archive; this machine may have no network",
    "mkdir": "is followed by curl",
    "scripts/test.sh": "runs this test",
    "scripts/demo.sh": "is run by test_demo.py",
    "scripts/reproduce.sh": "is listed by test_survey_scripts.py",
    **{f"scripts/survey/{name}.sh": "is run by test_survey_scripts.py" for name in SURVEY},
    "scripts/methods.sh": "has a test of its own",
    "export": "is for methods.sh",
    "benchmarks/cpu.sh": "measures for hours; test_benchmarks.py runs its parts",
    "benchmarks/gpu.sh": "measures on a GPU; test_gpu_benchmarks.py runs its parts",
    "torchrun": "is run by test_distributed.py",
    "pip": "installs a package; this machine may have no network",
    "tensorboard": "is a server, which waits for a browser",
    "sbatch": "is run by test_distributed.py, with a replacement for Slurm",
}


def make_downloads(folder: Path) -> None:
    """Makes tiny downloads of all data sets, under the names that the documents use."""
    make_mesidor(folder / "messidor", {f"2005102{n}_0000_0100_PP": n % 4 for n in range(10)})
    make_isic(folder / "isic2017")
    labels = ["No Finding", "Hernia", "Mass|Edema"]
    make_chest(folder / "chestxray14", [(f"{n:08d}_000.png", labels[n % 3], n) for n in range(1, 13)])
    classes = ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia")
    make_covid(folder / "covid", [f"{name}-{n}" for name in classes for n in range(1, 5)])
    parts = ("train", "val", "test")
    make_npz(folder / "retinamnist_224.npz", {part: [[n % 5] for n in range(5)] for part in parts}, 224)
    make_npz(folder / "pneumoniamnist.npz", {part: [[n % 2] for n in range(8)] for part in parts}, colour=False)
    for number in range(24):
        for path in (folder / "moles" / "ab"[number % 2], folder / "scans"):
            path.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (10 * number, 0, 0)).save(path / f"{number}.png")
    rows = [f"{number}.png,{('Mass', 'Edema|Mass', '')[number % 3]}" for number in range(24)]
    (folder / "scans" / "labels.csv").write_text("\n".join(["file,labels", *rows]) + "\n")
    arrays: dict[str, Any] = {}
    for part in parts:
        arrays[f"{part}_images"] = np.zeros((1, 256, 256, 3), np.uint8)
        arrays[f"{part}_label"] = np.eye(256, dtype=np.uint8)[None]
    np.savez(folder / "isic2018_256.npz", **arrays)


def tiny(words: list[str]) -> list[str]:
    """Returns the arguments of `python` for a documented command, made tiny; its data are phantoms if it names none."""
    program = words[2:] if words[1] == "-m" else words[1:]
    extra = SHRINK.get(program[0], SHRINK.get(program[1], []) if len(program) > 1 else [])
    if program[0].endswith(".py") and "--dataRoot" not in words and not OWN & set(words):
        extra = [*extra, "--dataRoot", "phantoms"]
    if "--valFraction" in words:
        extra = [*extra, "--valFraction", "0.5"]  # a tenth of so few images would not have one of each class
    return ["-m", *program, *extra] if words[1] == "-m" else [str(ROOT / program[0]), *program[1:], *extra]


@pytest.mark.slow
def test_every_documented_command(tmp_path: Path, warm_interpreter: Path) -> None:
    """Fails if README or a page of docs/ names a flag, file or checkpoint that does not exist."""
    (tmp_path / "downloads").mkdir()
    make_downloads(tmp_path / "downloads")
    commands = documented_commands()
    assert len(commands) > 40
    for words in sorted(commands, key=lambda words: "phantoms" not in words):  # phantoms first: the data of the others
        text = ""
        if words[0] == "echo":
            text, words = words[1], words[words.index("|") + 1 :]
        if words[0] in NOT_RUN_HERE:
            continue
        assert words[0] == "python", words
        process = subprocess.run(
            [str(warm_interpreter), *tiny(words)],
            cwd=tmp_path,
            input=text,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert process.returncode == 0, (words, process.stderr)
    assert (tmp_path / "tables" / "tables.md").exists() and (tmp_path / "tables" / "tables.tex").exists()


def test_all_survey_scripts_are_shown() -> None:
    """Fails if a script of the survey is missing from docs/, or comes before a script whose networks it needs."""
    scripts = [words[0] for words in documented_commands() if words[0].startswith("scripts/survey/")]
    assert scripts == [f"scripts/survey/{name}.sh" for name in SURVEY]
    existing = {path.stem for path in (ROOT / "scripts" / "survey").glob("*.sh")} - {"settings"}
    assert existing == set(SURVEY)


def test_methods_script_has_every_method() -> None:
    """Fails if methods.sh leaves out a training method, or names one or a flag that trainCls.py does not know."""
    listed = re.search(r"TRAININGS:-(.*)}", (ROOT / "scripts" / "methods.sh").read_text())
    assert listed is not None
    known = ["trainCls.py", "--dataset", "melBin", "--model", "mv2", "--method"]
    parsed = [SCRIPTS["trainCls.py"].parse([*known, *training.split()]) for training in listed[1].split(",")]
    assert {"nat", *(args.method for args in parsed)} == set(METHOD_NAMES)
    assert any(args.awp for args in parsed) and any(args.ema for args in parsed)


@pytest.mark.slow
def test_methods_script(tmp_path: Path, warm_interpreter: Path) -> None:
    """Fails if methods.sh does not train and attack what it is told to, or makes no table or curves."""
    command = [str(ROOT / "scripts" / "methods.sh"), "--limit", "8", "--gpu", "cpu"]
    small = {"EPOCHS": "1", "PHANTOMS": "40", "SEEDS": "0", "ATTACKS": "pgd cw", "OMP_NUM_THREADS": "1"}
    small["TRAININGS"] = "hat,pgdat --awp 0.01"
    environment = os.environ | small | {"PYTHON": str(warm_interpreter), "METHODS": str(tmp_path / "out")}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert process.returncode == 0, process.stderr
    rows = (r"nat +\| +", r"hat 8 +\| +", r"pgdat 8 +\| trained: awp 0.01 +")
    assert all(re.search(rf"^\| {row}\| 8 ", process.stdout, re.M) for row in rows), process.stdout
    assert "worst 8" in process.stdout
    assert (tmp_path / "out" / "melBin[phantom]__mv2.png").exists()
