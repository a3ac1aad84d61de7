"""gradVisual.py's pictures and files: names, contents, and how existing files are treated."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from advmia.data.datasets import DATASETS
from advmia.data.phantoms import make_phantoms
from advmia.data.transforms import load_image, to_pixels
from advmia.models import build_model
from advmia.results.rows import WORST
from tests.support.networks import narrow_wrn
from tests.support.running import run_main

NETWORKS = ("res18", "mv2", "chexnet", "wrn")

pytestmark = pytest.mark.usefixtures("few_steps", "narrow_wrn")


def unsaturate(model: nn.Module, images: Path) -> None:
    """Gives a random network the images' batch statistics, and balanced logits, so that its predictions differ."""
    spec = DATASETS["melBin"].at_size(16)
    arrays = [load_image(path, spec.resize, spec.size) for path in sorted(images.iterdir())]
    x = to_pixels(torch.from_numpy(np.stack(arrays)))
    with torch.no_grad():
        for _ in range(30):
            model.train()(x)
        gap = model.eval()(x).diff(dim=1).median()
        model.get_parameter("linear.bias")[0] += gap


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with phantoms in ./data and random weights of the networks, for two classes."""
    folder = tmp_path_factory.mktemp("visual")
    make_phantoms(folder / "data", ["mel2017", "xray"], count=24, size=48)
    torch.manual_seed(0)
    with narrow_wrn():
        models = {name: build_model(name, 2) for name in NETWORKS}
    unsaturate(models["mv2"], folder / "data" / "mel2017" / "img")
    for name, model in models.items():
        torch.save(model.state_dict(), folder / name)
    return folder


def draw(
    patch: pytest.MonkeyPatch, workplace: Path, *words: object, dataset: str = "melBin", model: str = "mv2"
) -> int:
    """Runs gradVisual.py on three images; returns the exit status."""
    patch.chdir(workplace)
    size = 32 if model == "chexnet" else 16  # the smallest that the network takes
    base = ["gradVisual.py", "--dataset", dataset, "--model", model, "--weight", model, "--bs", 2, "--gpu", "cpu"]
    return run_main(patch, [*base, "--imgSize", size, "--limit", 3, *words])


def read_records(folder: Path) -> list[dict[str, str]]:
    with (folder / "gradVisual.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("model", "dataset", "grey_eps"),
    [("res18", "melBin", [2]), ("mv2", "mel", [2, 8]), ("chexnet", "xray", [2]), ("wrn", "melBin", [2])],
)
def test_files_of_a_run(
    model: str, dataset: str, grey_eps: list[int], workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if a file has another name than the published code's, a map has no JPEG, or sheet or CSV are missing.

    All networks are tested, and the data sets `mel` and `xray`, which are the published code's names of melBin and
    xrayBin.
    """
    maps = tmp_path / "maps"
    assert draw(monkeypatch, workplace, "--saveDir", maps, "--epsilons", *grey_eps, model=model, dataset=dataset) == 0
    records = read_records(maps)
    first = [(record["index"], record["attack"], record["eps"]) for record in records[:2]]
    assert first == [("0", "clean", "0"), ("1", "clean", "0")]
    assert len(records) == 3 * (1 + len(grey_eps))
    for record in records:
        tail = "" if record["attack"] == "clean" else f"map_eps{record['eps']}-255"
        start, end = record["map"].split("_confidence")
        assert start == f"class{record['label']}" and end.endswith(f"_{record['index']}{tail}.jpg")
        assert 0 <= float(end.split("_")[0]) <= 1
        with Image.open(maps / record["map"]) as picture:
            assert picture.format == "JPEG" and picture.size == (224, 224)  # 14 or 7 times 16 or 32
        if record["cosine"] or record["empty"] == "no":
            assert -1 <= float(record["cosine"]) <= 1 and 0 <= float(record["iou_top_fifth"]) <= 1
        assert record["map_class"] == record["label"]
    with Image.open(maps / "gradVisual.png") as sheet:
        assert sheet.format == "PNG"
    assert {path.name for path in maps.glob("*.jpg")} == {record["map"] for record in records}


@pytest.mark.slow
def test_maps_are_of_the_images_that_testcls_scores(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if gradVisual attacks with another start, eps or network than testCls."""
    words = ["--saveDir", tmp_path / "maps", "--epsilons", 8, "--attacks", "pgd", "cw"]
    assert draw(monkeypatch, workplace, *words) == 0
    target = ["--targetModel", "mv2", "--targetWeight", "mv2", "--attacks", "pgd", "cw", "--epsilons", 8]
    size = ["--dataset", "melBin", "--gpu", "cpu", "--imgSize", 16, "--limit", 3, "--resultDir", tmp_path]
    assert run_main(monkeypatch, ["testCls.py", *size, *target]) == 0
    records = read_records(tmp_path / "maps")
    results = json.loads((tmp_path / "melBin__mv2.json").read_text())["rows"]
    assert results[0]["outcomes"] != results[1]["outcomes"], "the attack must change predictions"
    for result in results:
        if result["attack"] == WORST:  # is no attack, and has no maps
            continue
        attack = "clean" if result["attack"] == "none" else result["attack"]
        predicted = [
            (int(record["index"]), int(record["predicted"])) for record in records if record["attack"] == attack
        ]
        assert [label for _, label in sorted(predicted)] == result["outcomes"]
    assert any("map_cw_eps8-255" in record["map"] for record in records)


@pytest.mark.slow
def test_what_the_map_is_laid_over(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if `--overlayOn clean` changes the maps, or does not show the clean image under them."""
    assert draw(monkeypatch, workplace, "--saveDir", tmp_path / "a", "--epsilons", 128) == 0
    assert draw(monkeypatch, workplace, "--saveDir", tmp_path / "b", "--epsilons", 128, "--overlayOn", "clean") == 0
    records = read_records(tmp_path / "a")
    assert records == read_records(tmp_path / "b")
    for record in records:
        with Image.open(tmp_path / "a" / record["map"]) as first, Image.open(tmp_path / "b" / record["map"]) as second:
            difference = np.abs(np.asarray(first, dtype=int) - np.asarray(second, dtype=int)).mean()
        assert difference == 0 if record["attack"] == "clean" else difference > 10


@pytest.mark.usefixtures("small_networks")
def test_empty_maps_and_those_of_the_predicted_class(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Fails if a network that nothing supports has maps that are not said to be empty, or a cosine of 0 for them, or if
    --mapOf predicted explains the true class."""
    model = build_model("mv2", 2)
    with torch.no_grad():
        weight, bias = model.get_parameter("linear.weight"), model.get_parameter("linear.bias")
        weight[0], weight[1] = weight[0].abs() + 1, -weight[1].abs() - 1  # nothing supports class 1
        bias[:] = torch.tensor([1000.0, 0.0])  # all images are taken for class 0
    torch.save(model.state_dict(), tmp_path / "weights")
    records = {}
    for of in ("true", "predicted"):
        words = ["--weight", tmp_path / "weights", "--epsilons", 8, "--saveDir", tmp_path / of, "--mapOf", of]
        assert draw(monkeypatch, workplace, *words) == 0
        said, records[of] = capsys.readouterr().out, read_records(tmp_path / of)
        empty = sum(record["empty"] == "yes" for record in records[of])
        assert (f"{empty} maps are empty" in said) == (empty > 0)
    for record in records["true"]:
        is_empty = record["label"] == "1"
        assert record["empty"] == ("yes" if is_empty else "no") and (record["cosine"] == "") == is_empty
    assert {record["empty"] for record in records["true"]} == {"yes", "no"}
    assert {(record["predicted"], record["map_class"], record["empty"]) for record in records["predicted"]} == {
        ("0", "0", "no")
    }


def test_no_file_is_lost(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Fails if other files in the folder vanish, the same run draws again, or another run's files are overwritten."""
    maps = tmp_path / "maps"
    maps.mkdir()
    (maps / "mine.txt").write_text("kept")
    words = ["--saveDir", maps, "--epsilons", 8]
    assert draw(monkeypatch, workplace, *words, dataset="xrayBin") == 0
    before = {path.name: path.stat().st_mtime_ns for path in maps.iterdir()}
    assert draw(monkeypatch, workplace, *words, dataset="xrayBin") == 0
    assert "holds these maps already" in capsys.readouterr().out
    assert draw(monkeypatch, workplace, *words, "--seed", 1, dataset="xrayBin") == 2
    assert "holds the maps of another run" in capsys.readouterr().err
    assert {path.name: path.stat().st_mtime_ns for path in maps.iterdir()} == before

    # Pictures without a record, as the published script leaves them.
    (maps / "gradVisual.json").unlink()
    shutil.copy(maps / "gradVisual.csv", tmp_path / "copy.csv")
    assert draw(monkeypatch, workplace, *words, dataset="xrayBin") == 2
    assert "not of this run" in capsys.readouterr().err
    assert (maps / "mine.txt").read_text() == "kept"


@pytest.mark.slow
def test_an_interrupted_run_is_drawn_again(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if an unfinished run refuses to overwrite its own pictures."""
    words = ["--saveDir", tmp_path / "maps", "--epsilons", 8, "8.0"]  # named twice: drawn once
    assert draw(monkeypatch, workplace, *words) == 0
    expected = read_records(tmp_path / "maps")
    record = tmp_path / "maps" / "gradVisual.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "finished": False}))
    (tmp_path / "maps" / "gradVisual.csv").unlink()
    (tmp_path / "maps" / expected[0]["map"]).unlink()
    assert draw(monkeypatch, workplace, *words) == 0
    assert read_records(tmp_path / "maps") == expected
    assert (tmp_path / "maps" / expected[0]["map"]).exists()
