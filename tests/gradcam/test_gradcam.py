"""Grad-CAM against independent computations, and gradVisual.py's pictures and files."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from advmia.data.phantoms import make_phantoms
from advmia.gradcam.maps import cosine_similarity, grad_cam, top_overlap
from advmia.gradcam.pictures import overlay
from advmia.models import MODELS, build_model
from tests.support.networks import Snapshot, network, pixels, trained, unsettle
from tests.support.running import run_main

HEADS = {"res18": "linear", "mv2": "linear", "chexnet": "densenet121.classifier.0"}


# --- the maps --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HEADS)
def test_maps_of_the_three_networks_are_cam(name: str) -> None:
    """Where the map's mean feeds a linear classifier, Grad-CAM is CAM: the classifier's own weights, no gradient.

    Fails for another layer, another class (the predicted one), a missing ReLU, or channels weighted by something else.
    """
    torch.manual_seed(0)
    model = build_model(name, 3).eval()
    x, y = pixels(3, size=64)
    head = model.get_submodule(HEADS[name])
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.weight.mul_(50)  # so that neither ReLU nor sign is idle
    kept: list[Tensor] = []
    hook = model.get_submodule(str(MODELS[name].cam_layer)).register_forward_hook(lambda m, i, out: kept.append(out))
    with torch.no_grad():
        expected_logits = model(x)
    hook.remove()
    cam = torch.einsum("bchw,bc->bhw", kept[0], head.weight.detach()[y]).clamp(min=0)
    cam = F.interpolate(cam[:, None], size=(64, 64), mode="bilinear", align_corners=False)[:, 0]
    maps, logits = grad_cam(model, str(MODELS[name].cam_layer), x, y)
    largest = cam.amax(dim=(1, 2), keepdim=True)
    assert maps.shape == (3, 64, 64) and (largest > 0).any()
    torch.testing.assert_close(maps, cam / largest.clamp(min=1e-12), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(logits, expected_logits)


def test_map_by_finite_differences() -> None:
    """Fails when the gradient is of another class or by another tensor: each channel is nudged, the logit looked at."""
    model = trained().double()
    x, y = pixels(2)
    x = x.double()
    with torch.no_grad():
        middle = torch.relu(model.bn1(model.conv1(x)))  # (B, 8, 16, 16)

    def logit(activations: Tensor) -> Tensor:
        with torch.no_grad():
            out = torch.relu(model.bn2(model.conv2(torch.relu(activations))))
            return model.linear(out.mean(dim=(2, 3))).gather(1, y[:, None])[:, 0]

    # The layer bn1 gives what the ReLU has not seen yet.
    with torch.no_grad():
        before = model.bn1(model.conv1(x))
    cells = before[0, 0].numel()
    slopes = []
    for channel in range(8):
        nudge = torch.zeros_like(before)
        # All cells at once: the sum of the gradients, of which Grad-CAM takes the mean. So small a nudge takes next to
        # no cell over a ReLU's edge.
        nudge[:, channel] = 1e-7
        slopes.append((logit(before + nudge) - logit(before - nudge)) / 2e-7 / cells)
    weights = torch.stack(slopes, dim=1)
    cam = torch.einsum("bchw,bc->bhw", before, weights).clamp(min=0)
    maps, _ = grad_cam(model, "bn1", x, y)
    torch.testing.assert_close(maps, cam / cam.amax(dim=(1, 2), keepdim=True), rtol=1e-4, atol=1e-5)
    assert middle.shape[2:] == maps.shape[1:]


def test_the_network_is_as_before() -> None:
    """Fails when hooks stay, the mode changes, or gradients gather in the parameters."""
    model = unsettle(network("mv2"))
    before = Snapshot.of(model)
    x, y = pixels(2, size=32)
    with torch.no_grad():  # the caller's gradient mode does not matter
        maps, logits = grad_cam(model, "relu2", x, y)
    before.assert_same(model)
    assert not model.relu2._forward_hooks
    assert not maps.requires_grad and not logits.requires_grad


def test_nothing_speaks_for_the_class() -> None:
    """An all-negative map is all 0, not NaN; it shares nothing with any other."""
    model = trained()
    with torch.no_grad():
        model.linear.weight.copy_(-model.linear.weight.abs() - 1)
    x, y = pixels(2)
    maps, _ = grad_cam(model, "bn2", x.clone(), y)
    flat = torch.zeros_like(maps)
    assert maps.isfinite().all()
    assert top_overlap(flat, maps).tolist() == cosine_similarity(flat, maps).tolist() == [0.0, 0.0]


def test_how_far_maps_moved() -> None:
    """Hand-made maps of ten pixels, whose brightest fifth is two."""
    one = torch.tensor([[[9.0, 8, 1, 1, 1, 1, 1, 1, 1, 1]]])
    other = torch.tensor([[[9.0, 1, 8, 1, 1, 1, 1, 1, 1, 1]]])
    assert top_overlap(one, one).item() == 1 and top_overlap(one, other).item() == pytest.approx(1 / 3)
    assert cosine_similarity(one, 3 * one).item() == pytest.approx(1)
    expected = (one * other).sum() / one.square().sum().sqrt() / other.square().sum().sqrt()
    assert cosine_similarity(one, other).item() == pytest.approx(float(expected))


def test_overlay_shows_image_and_map() -> None:
    """Fails when colours run the wrong way or the image is lost: red where the map is 1, blue where it is 0."""
    x = torch.full((3, 4, 4), 0.5)
    cold, hot = overlay(x, torch.zeros(4, 4))[0, 0].astype(int), overlay(x, torch.ones(4, 4))[0, 0].astype(int)
    assert hot[0] > hot[2] and cold[2] > cold[0]
    bright = overlay(torch.ones(3, 4, 4), torch.zeros(4, 4))[0, 0].astype(int)
    assert (bright > cold).all()


# --- gradVisual.py ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms in ./data and weights of the three networks for melBin, one of them for xrayBin."""
    folder = tmp_path_factory.mktemp("visual")
    make_phantoms(folder / "data", ["mel2017", "xray"], count=24, size=48)
    torch.manual_seed(0)
    for name in HEADS:
        torch.save(build_model(name, 2).state_dict(), folder / name)
    return folder


def draw(patch: pytest.MonkeyPatch, place: Path, *words: object, dataset: str = "melBin", model: str = "mv2") -> int:
    patch.chdir(place)
    base = ["gradVisual.py", "--dataset", dataset, "--model", model, "--weight", model, "--bs", 2, "--gpu", "cpu"]
    return run_main(patch, [*base, "--imgSize", 32, "--limit", 3, *words])


def read_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "gradVisual.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("model", "dataset"), [("res18", "melBin"), ("mv2", "mel"), ("chexnet", "xray"), ("mv2", "xrayBin")]
)
def test_files_of_a_run(model: str, dataset: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference's names, one JPEG a map, the sheet and the CSV; for all networks and the names `mel` and `xray`."""
    words = ["--saveDir", tmp_path / "maps", "--epsilons", 2, 8]
    assert draw(monkeypatch, place, *words, model=model, dataset=dataset) == 0
    rows = read_rows(tmp_path / "maps")
    assert [(row["index"], row["attack"], row["eps"]) for row in rows[:2]] == [("0", "clean", "0"), ("1", "clean", "0")]
    assert len(rows) == 9
    for row in rows:
        tail = "" if row["attack"] == "clean" else f"map_eps{row['eps']}-255"
        start, end = row["map"].split("_confidence")
        assert start == f"class{row['label']}" and end.endswith(f"_{row['index']}{tail}.jpg")
        assert 0 <= float(end.split("_")[0]) <= 1
        with Image.open(tmp_path / "maps" / row["map"]) as picture:
            assert picture.format == "JPEG" and picture.size == (32, 32)
        assert -1 <= float(row["cosine"]) <= 1 and 0 <= float(row["iou_top_fifth"]) <= 1
    with Image.open(tmp_path / "maps" / "gradVisual.png") as sheet:
        assert sheet.format == "PNG"
    pictures = {path.name for path in (tmp_path / "maps").glob("*.jpg")}
    assert pictures == {row["map"] for row in rows}


def test_maps_are_of_the_images_that_tests_score(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when gradVisual attacks with another start, eps or network than testCls."""
    assert draw(monkeypatch, place, "--saveDir", tmp_path / "maps", "--epsilons", 8, "--attacks", "pgd", "cw") == 0
    target = ["--targetModel", "mv2", "--targetWeight", "mv2", "--attacks", "pgd", "cw", "--epsilons", 8]
    size = ["--dataset", "melBin", "--gpu", "cpu", "--imgSize", 32, "--limit", 3, "--resultDir", tmp_path]
    assert run_main(monkeypatch, ["testCls.py", *size, *target]) == 0
    rows = read_rows(tmp_path / "maps")
    scored = json.loads((tmp_path / "melBin__mv2.json").read_text())["rows"]
    for found in scored:
        attack = "clean" if found["attack"] == "none" else found["attack"]
        mine = sorted((int(row["index"]), int(row["predicted"])) for row in rows if row["attack"] == attack)
        assert [predicted for _, predicted in mine] == found["outcomes"]
    assert any("map_cw_eps8-255" in row["map"] for row in rows)


def test_what_the_map_is_laid_over(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attacked image, or the clean one when asked for; the maps are the same."""
    assert draw(monkeypatch, place, "--saveDir", tmp_path / "a", "--epsilons", 128) == 0
    assert draw(monkeypatch, place, "--saveDir", tmp_path / "b", "--epsilons", 128, "--overlayOn", "clean") == 0
    assert read_rows(tmp_path / "a") == read_rows(tmp_path / "b")
    for row in read_rows(tmp_path / "a"):
        with Image.open(tmp_path / "a" / row["map"]) as one, Image.open(tmp_path / "b" / row["map"]) as other:
            difference = np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).mean()
        assert difference == 0 if row["attack"] == "clean" else difference > 10


def test_no_file_is_lost(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """A folder with other files is added to; the same run again does nothing; another run's folder is refused."""
    maps = tmp_path / "maps"
    maps.mkdir()
    (maps / "mine.txt").write_text("kept")
    words = ["--saveDir", maps, "--epsilons", 8]
    assert draw(monkeypatch, place, *words) == 0
    before = {path.name: path.stat().st_mtime_ns for path in maps.iterdir()}
    assert draw(monkeypatch, place, *words) == 0
    assert "holds these maps already" in capsys.readouterr().out
    assert draw(monkeypatch, place, *words, "--seed", 1) == 2
    assert "holds the maps of another run" in capsys.readouterr().err
    assert {path.name: path.stat().st_mtime_ns for path in maps.iterdir()} == before

    # Pictures that nobody recorded, as the published script leaves them.
    (maps / "gradVisual.json").unlink()
    shutil.copy(maps / "gradVisual.csv", tmp_path / "copy.csv")
    assert draw(monkeypatch, place, *words) == 2
    assert "not of this run" in capsys.readouterr().err
    assert (maps / "mine.txt").read_text() == "kept"


def test_a_run_cut_short_is_done_again(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when an unfinished run's own pictures are in its way."""
    words = ["--saveDir", tmp_path / "maps", "--epsilons", 8, "8.0"]  # named twice: drawn once
    assert draw(monkeypatch, place, *words) == 0
    expected = read_rows(tmp_path / "maps")
    record = tmp_path / "maps" / "gradVisual.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "finished": False}))
    (tmp_path / "maps" / "gradVisual.csv").unlink()
    (tmp_path / "maps" / expected[0]["map"]).unlink()
    assert draw(monkeypatch, place, *words) == 0
    assert read_rows(tmp_path / "maps") == expected
    assert (tmp_path / "maps" / expected[0]["map"]).exists()
