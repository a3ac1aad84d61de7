"""Masks, lists and numbers of images as users have them, in complete commands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from advmia.data.markers import MARKER_NAME
from advmia.data.phantoms import make_phantoms
from tests.support.running import run_main

pytestmark = pytest.mark.usefixtures("small_networks", "few_steps")
COMMON = ["--gpu", "cpu", "--epoch", 1, "--seed", 0, "--method", "nat"]
SEG = ["trainSeg.py", "--dataset", "mel", "--model", "unet", "--bs", 8, "--imgSize", 16, *COMMON]
CLS = ["trainCls.py", "--dataset", "melBin", "--model", "mv2", *COMMON]
Run = Callable[..., tuple[int, str, dict[str, Any]]]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("phantoms")
    make_phantoms(root / "data", ["mel2017"], count=24, size=32)
    return root


@pytest.fixture
def folder(phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of mel2017 in a copy of the phantoms, in which the test runs."""
    shutil.copytree(phantoms / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data" / "mel2017"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a training; returns its status, its standard error and the settings of its record."""

    def run_training(*words: object) -> tuple[int, str, dict[str, Any]]:
        shutil.rmtree("out", ignore_errors=True)
        status = run_main(monkeypatch, [*words, "--saveDir", "out"])
        records = list(Path("out").glob("*.json"))
        settings = json.loads(records[0].read_text())["settings"] if records else {}
        return status, capsys.readouterr().err, settings

    return run_training


def listed_masks(folder: Path) -> list[Path]:
    rows = (folder / "trainSeg.csv").read_text().split()
    return [folder / "target" / row.split(",")[1] for row in rows]


def test_masks_of_several_forms(folder: Path, run: Run) -> None:
    """Fails if masks in other forms give other pixels than the same masks of 0 and 255, or nothing is said of them."""
    _, _, before = run(*SEG)
    first, second, third, *_ = listed_masks(folder)
    Image.fromarray((np.asarray(Image.open(first)) > 0).astype(np.uint8)).save(first)
    shape = np.asarray(Image.open(second)) > 0
    Image.fromarray((shape[..., None] * np.array([255, 0, 0])).astype(np.uint8)).save(second)
    alpha = (np.asarray(Image.open(third)) > 0)[..., None] * np.array([0, 0, 0, 255])
    Image.fromarray(alpha.astype(np.uint8)).save(third)
    status, stderr, after = run(*SEG)
    assert status == 0 and "3 of 18 files in data/mel2017/target have changed" in stderr
    assert after["train_data"]["pixels_crc32"] == before["train_data"]["pixels_crc32"]
    assert "18 masks, foreground alpha 255 in 1, colour 255 in 1, grey 1 in 1, grey 255 in 15; it is " in stderr


def test_masks_that_contradict_each_other(folder: Path, run: Run) -> None:
    """Fails if different structures are joined to one foreground, unless --foreground says so."""
    first, second, *_ = listed_masks(folder)
    half = np.where(np.asarray(Image.open(first)) > 0, 127, 0).astype(np.uint8)
    Image.fromarray(half).save(first)
    status, stderr, _ = run(*SEG)
    assert status == 2 and f"the foreground of {first.name} has the value 127" in stderr.splitlines()[-1]
    half[:8, :8] = 64
    Image.fromarray(half).save(first)
    status, stderr, _ = run(*SEG)
    assert status == 2 and "trainSeg.csv row 1: cannot read" in stderr and "areas of 3 values (0, 64, 127)" in stderr
    status, stderr, _ = run(*SEG, "--foreground", 127, 255)
    assert status == 0 and second.exists()


def test_limit_and_lists_of_one_class(folder: Path, run: Run) -> None:
    """Fails if --limit takes the first rows, which may be of one class, or nothing is said of a list of one class or of
    one that is shorter than the published one."""
    (folder / MARKER_NAME).unlink()
    path = folder / "trainbin.csv"
    rows = sorted(path.read_text().split(), key=lambda row: row[-1])
    path.write_text("\n".join(rows))
    status, stderr, _ = run(*CLS, "--limit", 4, "--bs", 4, "--imgSize", 16)
    assert status == 0 and "trainbin.csv: --limit takes 2 of class 0, 2 of class 1" in stderr
    assert f"trainbin.csv: subset {len(rows) + 6} of 2750 published images" in stderr
    path.write_text("\n".join(row for row in rows if row.endswith("0")))
    _, stderr, _ = run(*CLS, "--bs", 4, "--imgSize", 16)
    assert "images of data/mel2017/trainbin.csv are of class 0" in stderr


def test_a_last_batch_of_one_image(folder: Path, run: Run) -> None:
    """Fails if batch norm meets a single value, which ends in a traceback, or nothing is said of the larger batch."""
    words = [*CLS, "--imgSize", 8, "--limit", 9]
    status, stderr, _ = run(*words, "--bs", 8)
    assert status == 0, stderr
    assert "the last 1 images of an epoch are too few for mv2 at 8 pixels: they join the batch before" in stderr
    status, stderr, _ = run(*words, "--bs", 1)
    assert status == 2 and "mv2 cannot train on batches of fewer than 2 images of 8 pixels" in stderr.splitlines()[-1]
