"""Data sets of a user's own go through every command, and the scores are those of other programs."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, precision_recall_fscore_support, roc_auc_score

from advmia.checkpoints.weights import load_model
from advmia.data.datasets import find_dataset
from tests.support.running import run_main

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_networks", "few_steps")]
SIZE = 16


def picture(rng: np.random.Generator, tint: tuple[int, ...]) -> Image.Image:
    """An image of noise around a colour, by which networks can tell classes."""
    pixels = rng.normal(tint, 20, (20, 20, 3)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels)


def make_photos(source: Path) -> list[str]:
    """12 classes, each in a folder."""
    rng = np.random.default_rng(0)
    for label in range(12):
        folder = source / f"class_{label:02}"
        folder.mkdir(parents=True)
        for number in range(8):
            picture(rng, (20 * label, 120, 240 - 20 * label)).save(folder / f"{label}_{number}.png")
    return []


def make_findings(source: Path) -> list[str]:
    """5 findings, in a table with patients."""
    rng, names = np.random.default_rng(1), ("Cyst", "Mass", "Scar", "Stone", "Ulcer")
    source.mkdir()
    rows = ["file,labels,patient"]
    for number in range(60):
        bits = rng.integers(0, 2, 5)
        picture(rng, tuple(60 + 120 * bits[:3])).save(source / f"{number}.png")
        rows.append(f"{number}.png,{'|'.join(np.array(names)[bits > 0])},P{number // 3}")
    (source / "labels.csv").write_text("\n".join(rows) + "\n")
    return ["--labels", str(source / "labels.csv")]


def make_masks(source: Path) -> list[str]:
    """Masks of 3 classes."""
    rng = np.random.default_rng(2)
    source.mkdir()
    rows = ["file,mask"]
    for number in range(24):
        classes = (np.arange(20) // 7)[None].repeat(20, 0)[:, rng.permutation(20)]
        pixels = rng.normal(classes[..., None] * (90, 60, 30) + 30, 10).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(source / f"{number}.png")
        Image.fromarray((classes * 100).astype(np.uint8)).save(source / f"{number}_m.png")
        rows.append(f"{number}.png,{number}_m.png")
    (source / "labels.csv").write_text("\n".join(rows) + "\n")
    return ["--labels", str(source / "labels.csv"), "--classes", "background", "liver", "spleen"]


KINDS = {
    "photos": (make_photos, "Cls", "mv2", "single-label"),
    "scans": (make_findings, "Chex", "mv2", "multi-label"),
    "organs": (make_masks, "Seg", "unet", "segmentation"),
}


def check_single_label(record: dict[str, Any], root: Path, weights: Path) -> None:
    y = np.array(record["samples"]["label"])
    for row in record["rows"]:
        predicted = np.array(row["outcomes"])
        precision, recall, f1, _ = precision_recall_fscore_support(y, predicted, average="macro", zero_division=0)
        expected = {"accuracy": accuracy_score(y, predicted), "precision": precision, "recall": recall, "f1": f1}
        assert {name: row["scores"][name] for name in expected} == pytest.approx(expected, abs=1e-6)


def check_multi_label(record: dict[str, Any], root: Path, weights: Path) -> None:
    y, names = np.array(record["samples"]["label"]), ("Cyst", "Mass", "Scar", "Stone", "Ulcer")
    for row in record["rows"]:
        assert tuple(row["scores"]) == ("auroc", *names)
        areas = [roc_auc_score(y[:, label], np.array(row["outcomes"])[:, label]) for label in range(5)]
        assert [row["scores"][name] for name in names] == pytest.approx(areas, abs=1e-6)
        assert row["scores"]["auroc"] == pytest.approx(np.mean(areas), abs=1e-6)


def check_masks(record: dict[str, Any], root: Path, weights: Path) -> None:
    """The clean images' scores, from the files and the network alone."""
    spec = find_dataset("organs", root, "segmentation").at_size(SIZE)
    model = load_model("unet", weights, spec).model.eval()
    dice, iou = [], []
    for image, mask in zip(record["samples"]["file"], record["samples"]["label"], strict=True):
        pixels = Image.open(root / "organs/img" / image).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        x = torch.from_numpy(np.asarray(pixels)).permute(2, 0, 1)[None] / 255
        truth = (
            np.asarray(Image.open(root / "organs/target" / mask).resize((SIZE, SIZE), Image.Resampling.NEAREST)) // 100
        )
        with torch.no_grad():
            predicted = model(x)[0].argmax(0).numpy()
        both = [((predicted == k) & (truth == k)).sum() for k in range(3)]
        sizes = [(predicted == k).sum() + (truth == k).sum() for k in range(3)]
        dice.append([2 * b / s for b, s in zip(both, sizes, strict=True)])
        iou.append([b / (s - b) for b, s in zip(both, sizes, strict=True)])
    scores = record["rows"][0]["scores"]
    for name, values in (("dice", dice), ("iou", iou)):
        assert scores[name] == pytest.approx(np.mean(values), abs=1e-5)
        by_class = [scores[f"{name} {its}"] for its in ("background", "liver", "spleen")]
        assert by_class == pytest.approx(np.mean(values, axis=0), abs=1e-5)


CHECKS = {"single-label": check_single_label, "multi-label": check_multi_label, "segmentation": check_masks}


@pytest.mark.parametrize("name", KINDS)
def test_every_command(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails if a command does not take a declared data set, or a score is not what other programs compute."""
    make, suffix, network, task = KINDS[name]
    monkeypatch.chdir(tmp_path)
    flags = make(tmp_path / "source")
    prepare = ["advmia", "prepare", "--dataset", "folder", "--source", "source", "--name", name, *flags]
    assert run_main(monkeypatch, [*prepare, "--testFraction", 0.4]) == 0
    common = ["--dataset", name, "--imgSize", SIZE, "--bs", 8, "--gpu", "cpu"]
    train = [f"train{suffix}.py", *common, "--model", network, "--epoch", 1, "--eps", 4]
    for method in ("nat", "pgdat"):
        assert run_main(monkeypatch, [*train, "--method", method]) == 0
    folder = Path("segckpt" if task == "segmentation" else "clsCkpt")
    paths = sorted(path for path in folder.iterdir() if Path(f"{path}.json").exists())
    assert len(paths) == 2 and all(f"_{name}_" in path.name for path in paths)
    settings = json.loads(Path(f"{paths[0]}.json").read_text())["settings"]
    assert settings["declaration"]["task"] == task
    for path in paths:
        test = [f"test{suffix}.py", *common, "--targetModel", network, "--targetWeight", path]
        assert run_main(monkeypatch, [*test, "--attacks", "pgd", "--epsilons", 4]) == 0
    records = {path: json.loads(path.read_text()) for path in Path("results").glob("*.json")}
    assert len(records) == 2
    for path, record in records.items():
        CHECKS[task](record, Path("data"), next(its for its in paths if its.name in path.name))
        with path.with_suffix(".csv").open() as stream:
            first = next(csv.DictReader(stream))
        assert set(record["rows"][0]["scores"]) <= set(first)
    capsys.readouterr()
    assert run_main(monkeypatch, ["advmia", "tables", "results", "--out", "tables"]) == 0
    text = Path("tables/tables.md").read_text()
    assert name in text and ("Ulcer" in text) == (task == "multi-label")
    if task == "single-label":
        draw = ["gradVisual.py", *common, "--model", network, "--weight", paths[0], "--epsilons", 4, "--limit", 12]
        draw += ["--saveDir", "maps"]
        assert run_main(monkeypatch, draw) == 0
        (sheet,) = tmp_path.rglob("gradVisual.png")
        assert np.asarray(Image.open(sheet)).std() > 0


def test_another_declaration_is_another_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails if other augmentations count as the same training, or the epoch is not chosen on the validation list."""
    monkeypatch.chdir(tmp_path)
    make_photos(tmp_path / "source")
    prepare = ["advmia", "prepare", "--dataset", "folder", "--source", "source", "--name", "photos"]
    assert run_main(monkeypatch, [*prepare, "--valFraction", 0.3]) == 0
    train = ["trainCls.py", "--dataset", "photos", "--imgSize", SIZE, "--bs", 8, "--gpu", "cpu", "--model", "mv2"]
    train += ["--epoch", 1, "--method", "nat"]
    capsys.readouterr()
    assert run_main(monkeypatch, train) == 0
    assert "chosen by accuracy on the validation list" in capsys.readouterr().err
    (record,) = Path("clsCkpt").glob("*.json")
    assert json.loads(record.read_text())["settings"]["test_data"]["list"] == "val.csv"
    assert run_main(monkeypatch, train) == 0
    assert "is trained already" in capsys.readouterr().out
    declaration = Path("data/photos/dataset.toml")
    declaration.write_text(declaration.read_text() + "horizontal_flip = 0.5\n")
    assert run_main(monkeypatch, train) == 0
    assert "is trained already" not in capsys.readouterr().out
