"""Contact sheets as the commands draw them: the files, their index, what they show, and when they are drawn again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from advmia.models import build_model
from advmia.pictures import drawing
from advmia.pictures.layout import SheetRow, SheetText
from advmia.results.sheets import Sheet, read_pictures
from tests.pictures.commands import CLASSES, FINDINGS, MASKS, RunTest, results_of, row_of
from tests.support.kills import Killed


def sheets_of(folder: Path) -> list[Sheet]:
    """Returns the sheets beside the only result file of a folder, of its run."""
    (path,) = folder.glob("*.json")
    return read_pictures(path, results_of(folder)["run"])


@pytest.fixture
def written_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a sheet a file of what it would show, since drawing takes most of a test's time."""

    def write_rows(rows: Sequence[SheetRow], text: SheetText, path: Path) -> None:
        path.write_text(f"{text} {[(row.name, row.clean.pixels.sum(), row.attacked) for row in rows]}")

    monkeypatch.setattr(drawing, "save_sheet", write_rows)


def test_sheets_of_classes(run_test: RunTest, tmp_path: Path) -> None:
    """Fails if an attack has no sheet, `worst` has one, a chosen image is not the first, worst or best by the result
    file, or the sheet's sentence states another number of misclassified images."""
    words = ["--attacks", "pgd", "fgsm", "--restarts", 2, "--epsilons", 8, 2, "--pictures", 1]
    assert run_test(CLASSES, "out", *words) == 0
    results, sheets = results_of(tmp_path / "out"), sheets_of(tmp_path / "out")
    assert [(sheet.path.name, sheet.label) for sheet in sheets] == [
        ("fgsm.png", "fgsm"),
        ("pgd-x2.png", "pgd (2 restarts)"),
    ]
    for sheet in sheets:
        with Image.open(sheet.path) as picture:
            assert picture.format == "PNG"
        assert sheet.grey_eps == (2.0, 8.0)
        right = np.equal(row_of(results, sheet.attack, 8)["outcomes"], results["samples"]["label"])
        why = {reason: image for image in sheet.images for reason in image.why.split(", ")}
        assert why.keys() == {"first", "worst", "median", "best"} and why["first"].index == 0
        assert right[why["worst"].index] == right.all() and right[why["best"].index] == right.any()
        assert all(results["samples"]["file"][image.index] == image.file for image in sheet.images)
        wrong = sum(not right[image.index] for image in sheet.images)
        assert f"{wrong} of {len(sheet.images)} are misclassified at eps 8." in sheet.alt
        assert sheet.alt.startswith(f"melBin[phantom]: {sheet.label} on mv2: ")


def test_sheets_of_masks(run_test: RunTest, tmp_path: Path) -> None:
    """Fails if the worst and best images are not those of the lowest and highest Dice, or the sentence states another
    mean Dice than the result file."""
    assert run_test(MASKS, "out", "--attacks", "pgd-dice", "--epsilons", 8, "--pictures", 2) == 0
    results, (sheet,) = results_of(tmp_path / "out"), sheets_of(tmp_path / "out")
    clean, attacked = (np.array(row_of(results, *key)["outcomes"])[:, 0] for key in (("none", 0), ("pgd-dice", 8)))
    order = np.argsort(attacked, kind="stable").tolist()
    for reason, indices in {"worst": order[:2], "best": order[-2:], "first": [0, 1]}.items():
        assert {image.index for image in sheet.images if reason in image.why} == set(indices)
    shown = [image.index for image in sheet.images]
    assert f"mean Dice is {clean[shown].mean():.3f} clean and {attacked[shown].mean():.3f} at eps 8." in sheet.alt


@pytest.mark.usefixtures("written_rows")
def test_sheets_of_findings(run_test: RunTest, tmp_path: Path) -> None:
    """Fails if the findings have no sheet, or the worst image is not the one whose true answers lose most."""
    assert run_test(FINDINGS, "out", "--attacks", "pgd", "pgd-finding", "--epsilons", 8, "--pictures", 1) == 0
    results, sheets = results_of(tmp_path / "out"), sheets_of(tmp_path / "out")
    signs = 2 * np.array(results["samples"]["label"]) - 1
    for sheet in sheets:
        clean, attacked = (np.array(row_of(results, *key)["outcomes"]) for key in (("none", 0), (sheet.attack, 8)))
        change = (signs * (attacked - clean)).mean(axis=1)
        assert change.max() < 0, "the attack lowers them"
        assert [image.index for image in sheet.images if "worst" in image.why] == [change.argmin()]
    assert len(sheets) == 2


@pytest.mark.usefixtures("written_rows")
def test_a_second_run_draws_what_is_missing(
    run_test: RunTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails if an equal run attacks or draws again, sheets of other attacks are lost, a deleted sheet does not come
    back, or a sheet that another --pictures no longer has stays."""
    monkeypatch.setattr(drawing, "SHEET_ROWS", 2)
    words = ["--attacks", "fgsm", "--epsilons", 8]
    assert run_test(CLASSES, "out", *words, "--pictures", 2) == 0
    first = sheets_of(tmp_path / "out")
    assert [sheet.path.name for sheet in first] == ["fgsm.png", "fgsm-2.png", "fgsm-3.png"]
    folder = first[0].path.parent
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(drawing, "kept_images", None)
        assert run_test(CLASSES, "out", *words, "--pictures", 2) == 0
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert run_test(CLASSES, "out", "--attacks", "mifgsm", "--epsilons", 8, "--pictures", 1) == 0
    assert sheets_of(tmp_path / "out")[:3] == first
    picture = first[1].path.read_bytes()
    first[1].path.unlink()
    assert run_test(CLASSES, "out", *words, "--pictures", 2) == 0
    assert first[1].path.read_bytes() == picture
    assert run_test(CLASSES, "out", *words, "--pictures", 1) == 0
    assert len([sheet for sheet in sheets_of(tmp_path / "out") if sheet.attack == "fgsm"]) == 2
    assert not first[2].path.exists()
    assert "have another outcome" not in capsys.readouterr().err


@pytest.mark.usefixtures("written_rows")
def test_a_killed_run_is_drawn_again(run_test: RunTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if sheets that a killed run did not list are taken for foreign ones, or a listed one is drawn again."""
    words = ["--attacks", "fgsm", "mifgsm", "--epsilons", 8, "--pictures", 2]
    monkeypatch.setattr(drawing, "SHEET_ROWS", 3)
    drawn: list[str] = []
    write = drawing.save_sheet

    def write_or_die(rows: Sequence[SheetRow], text: SheetText, path: Path) -> None:
        drawn.append(path.name)
        if len(drawn) == 4:
            raise Killed
        write(rows, text, path)

    monkeypatch.setattr(drawing, "save_sheet", write_or_die)
    with pytest.raises(Killed):
        run_test(CLASSES, "killed", *words)
    assert run_test(CLASSES, "killed", *words) == 0
    names = ["fgsm.png", "fgsm-2.png", "mifgsm.png", "mifgsm-2.png"]
    assert drawn == [*names, *names[2:]]
    assert [sheet.path.name for sheet in sheets_of(tmp_path / "killed")] == names


@pytest.mark.usefixtures("written_rows")
def test_a_transfer_attack_names_its_source(run_test: RunTest, tmp_path: Path) -> None:
    """Fails if the sheet of a transfer attack does not say on which network the images were made."""
    torch.manual_seed(1)
    torch.save(build_model("mv2", 2).state_dict(), tmp_path / "other")
    words = ["--attacks", "fgsm", "--epsilons", 8, "--surrogateWeight", tmp_path / "other", "--pictures", 1]
    assert run_test(CLASSES, "out", *words) == 0
    (sheet,) = sheets_of(tmp_path / "out")
    assert sheet.alt.startswith("melBin[phantom]: fgsm on mv2, made on other: ")


@pytest.mark.parametrize(("flags", "ending"), [(["--pictures", 1], "pictures"), (["--saveAdversarial"], "adversarial")])
def test_foreign_files(
    flags: list[object], ending: str, run_test: RunTest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails if files that the run did not write are overwritten, or the error comes after the attack, or is no line."""
    folder = tmp_path / "out" / f"melBin__mv2.{ending}"
    folder.mkdir(parents=True)
    for content in ({"mine.txt": "kept"}, {f"{ending}.json": json.dumps({"run": {"seed": 5}, "sheets": []})}):
        for name, text in content.items():
            (folder / name).write_text(text)
        assert run_test(CLASSES, "out", "--attacks", "fgsm", *flags) == 2
        said = capsys.readouterr()
        assert (
            f"{folder} exists and holds nothing" in said.err and "rename it" in said.err and "Traceback" not in said.err
        )
        assert "fgsm" not in said.out
        assert {path.name: path.read_text() for path in folder.iterdir()} == content
        for name in content:
            (folder / name).unlink()
