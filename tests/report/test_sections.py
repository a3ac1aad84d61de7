"""What the page says: its numbers, names and commands, and what it leaves out."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advmia.attacks import ATTACKS
from advmia.cli.tools import tools_parser
from advmia.evaluation.meanings import CHECKS
from advmia.report.blocks import Block, Chart, Code, Fold, Grid, Listing, Section
from advmia.report.page import render, sections_of, write_report
from advmia.report.references import ATTACK_TEXTS, METHODS, PUBLICATIONS
from advmia.report.source import Options, Source
from advmia.tasks import METHOD_NAMES
from tests.report.made import made, save_all
from tests.results.examples import EXAMPLES, FOLDERS
from tests.support.running import check_one_line, run_main

IMAGES = 40


def page_of(folder: Path, *, per_seed: bool = False) -> dict[str, Section]:
    """Returns the sections of the page of a folder of results, by their anchors."""
    return {section.anchor: section for section in sections_of(Source.read([folder], Options(per_seed=per_seed)))[0]}


def grids_of(section: Section) -> list[Grid]:
    """Returns the tables of a section, folded ones included."""
    blocks: list[Block] = list(section.blocks)
    blocks += [block for fold in section.blocks if isinstance(fold, Fold) for block in fold.blocks]
    return [block for block in blocks if isinstance(block, Grid)]


def rows_of(grid: Grid) -> list[list[str]]:
    return [[cell.text for cell in row] for row in grid.table.rows]


def scores_of(file: Path) -> dict[tuple[str, float], float]:
    """Returns the accuracies in a result file by attack and eps."""
    return {(row["attack"], row["eps"]): row["scores"]["accuracy"] for row in json.loads(file.read_text())["rows"]}


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A folder with the results of a natural and of a robust network."""
    return save_all(tmp_path / "results", {"nat": made(0, IMAGES), "pgdat": made(1, IMAGES, method="pgdat")})


def test_equal_results_give_an_equal_page(two: Path, tmp_path: Path) -> None:
    """Fails if the page holds a date or the folder of the results, or depends on the order of files."""
    elsewhere = tmp_path / "elsewhere" / "deeper"
    elsewhere.mkdir(parents=True)
    shutil.copytree(two, elsewhere / "results")
    for place in (tmp_path, elsewhere):
        write_report([place / "results"], place / "report.html", Options())
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text == (elsewhere / "report.html").read_text(encoding="utf-8")
    assert str(tmp_path) not in text
    assert "python -m advmia tables results" in text


def test_sections_without_data_are_left_out(tmp_path: Path) -> None:
    """Fails if a page of one classifier without checks, trainings and pictures has an empty section."""
    content = made(0, IMAGES)
    content["rows"] = content["rows"][:1]
    del content["reliability"]
    sections = page_of(save_all(tmp_path, {"a": content}))
    assert list(sections) == ["tested", "warnings", "tables", "confusion", "methods", "images", "origins"]
    assert "no checks are recorded" in sections["warnings"].blocks[0].text


def test_patients_are_counted(tmp_path: Path) -> None:
    """Fails if several images of a patient count as several patients, or patients are made up where nobody knows them.

    The patient stands in the file's name: of ChestX-ray14 as published, of the user's data as declared.
    """
    chest = made(0, 6, dataset="xrayBin", target_model="chest")
    chest["samples"]["file"] = [f"{number // 2:08d}_{number % 2:03d}.png" for number in range(6)]
    own = made(1, 6, dataset="own")
    own["run"]["declaration"] = {"patients": r"ISIC_\d{6}(\d)"}
    odd = made(2, 6, dataset="xrayBin", target_model="odd")
    images = rows_of(grids_of(page_of(save_all(tmp_path, {"a": chest, "b": own, "c": odd}))["tested"])[0])
    assert {(row[0], row[3]) for row in images} == {("xrayBin", "3"), ("own", "6"), ("xrayBin", "unknown")}


def test_warnings_come_in_words_before_any_score(two: Path) -> None:
    """Fails if a warning is missing from the box, is not by network, or stands below a score."""
    content = made(2, IMAGES, method="trades")
    content["reliability"].append({"check": "mode", "verdict": "warning", "reason": "random"})
    save_all(two, {"trades": content, "stopped": made(3, IMAGES, method="mart", finished=False)})
    sections = page_of(two)
    assert list(sections)[:3] == ["tested", "warnings", "tables"] and sections["warnings"].is_alarm
    listings = {block.title: block.lines for block in sections["warnings"].blocks if isinstance(block, Listing)}
    by_method = {title.split(": ")[1].split(" (")[0]: lines for title, lines in listings.items()}
    assert by_method["trades 8"] == ("mode: random",)
    assert by_method["mart 8"][0].startswith("unfinished") and len(by_method) == 2


def test_strongest_attacks(two: Path) -> None:
    """Fails if another attack than the strongest is named, or the drop is not that from the clean score."""
    scores = scores_of(two / "nat.json")
    (grid,) = grids_of(page_of(two)["strongest"])
    shown = {row[1]: row for row in rows_of(grid) if row[0].startswith("nat")}
    for eps in (2, 4, 8):
        attack = min(("fgsm", "pgd"), key=lambda name: scores[name, eps])
        left = scores[attack, eps]
        row = shown[str(eps)]
        assert row[2] == attack and row[4].startswith(f"{100 * left:.1f} (")
        assert float(row[5]) == pytest.approx(100 * (scores["none", 0] - left), abs=0.051)
        assert row[6].startswith(f"{100 * scores['worst', eps]:.1f} (")


def test_differences(two: Path) -> None:
    """Fails if a difference is not that of the two scores, or is bold though it may be chance."""
    (grid,) = grids_of(page_of(two)["differences"])
    rows = {(row[0]): row for row in rows_of(grid)}
    assert list(rows) == ["clean", "worst 2", "worst 4", "worst 8"]
    scores = [
        {
            (row["attack"], row["eps"]): row["scores"]["accuracy"]
            for row in json.loads((two / f"{name}.json").read_text())["rows"]
        }
        for name in ("nat", "pgdat")
    ]
    difference = 100 * (scores[0]["worst", 8] - scores[1]["worst", 8])
    low, high = map(float, rows["worst 8"][4].split(" to "))
    assert float(rows["worst 8"][3]) == pytest.approx(difference, abs=0.051) and low < difference < high < 0
    is_bold = {row[0].text: row[3].best for row in grid.table.rows}
    for head, row in rows.items():
        assert is_bold[head] == (float(row[6].lstrip("<")) < 0.05)
    assert is_bold["worst 8"] and not is_bold["clean"]


def test_many_networks_are_compared_with_the_best(tmp_path: Path) -> None:
    """Fails if many networks give all pairs, which nobody could read, or one is not compared."""
    folder = save_all(tmp_path, {str(number): made(number, IMAGES, method="pgdat") for number in range(8)})
    (grid,) = grids_of(page_of(folder, per_seed=True)["differences"])
    clean = [row for row in rows_of(grid) if row[0] == "clean"]
    assert len(clean) == 7 and len({row[1] for row in clean}) == 1 and len({row[2] for row in clean}) == 7


def test_confusion_matrices(tmp_path: Path) -> None:
    """Fails if a count is in another cell, or the shares of right images are others."""
    content = made(0, IMAGES, classes=3)
    labels = np.array(content["samples"]["label"])
    grids = grids_of(page_of(save_all(tmp_path, {"a": content}))["confusion"])
    for grid, number in zip(grids, (0, -1), strict=True):
        outcomes = np.array(content["rows"][number]["outcomes"])
        for label, row in enumerate(rows_of(grid)):
            counts = [int(((labels == label) & (outcomes == other)).sum()) for other in range(3)]
            total = sum(counts)
            assert row == [f"class {label}", *map(str, counts), str(total), f"{100 * counts[label] / total:.1f}"]


def test_masks_and_their_dice(tmp_path: Path) -> None:
    """Fails if a further score of masks has no table, or the curve of Dice is not that of the sorted images."""
    (file,) = (EXAMPLES / "results").glob("mel__UNet_mel_NAT*.json")
    content = json.loads(file.read_text())
    for row in content["rows"]:
        row["scores"] |= {"foreground_dice": 0.25, "hd95": 3.5, "dice lesion": 0.125}
    sections = page_of(save_all(tmp_path, {"a": content}))
    assert [grid.table.title.split(": ")[1].split(",")[0] for grid in grids_of(sections["masks"])] == [
        "foreground Dice",
        "HD95 in pixels",
        "Dice of lesion",
    ]
    assert rows_of(grids_of(sections["masks"])[1])[0][-1] == "3.500"
    (chart,) = (block for block in sections["dice"].blocks if isinstance(block, Chart))
    titles = re.findall(r"<title>clean: ([\d.]+) at ([\d.]+)</title>", chart.panels[0])
    dice = sorted(outcome[0] for outcome in content["rows"][0]["outcomes"])
    assert [float(value) for value, _ in titles] == pytest.approx(dice, rel=1e-3)
    assert float(titles[0][1]) == pytest.approx(100 / len(dice), rel=1e-3) and titles[-1][1] == "100"
    assert f"clean: {sum(value < 0.5 for value in dice)} of {len(dice)} below 0.5" in chart.notes[0]


def test_trainings(two: Path) -> None:
    """Fails if curves are not those of the record beside the checkpoint, or a loss that is no number ends the page."""
    settings = json.loads((two / "nat.json").read_text())["target_training"]
    epochs: list[dict[str, object]] = [
        {"number": number, "loss": loss, "lr": 0.1, "seconds": 2.0, "validation_seconds": 1.0, "robust": None}
        | {"clean": {"accuracy": 0.5 + number / 10} if number < 3 else None}
        for number, loss in ((1, 0.75), (2, None), (3, 0.25))
    ]
    record = {"settings": settings, "epochs": epochs, "best_epoch": 2}
    checkpoints = two.parent / "clsCkpt"
    checkpoints.mkdir()
    (checkpoints / "network0.json").write_text(json.dumps(record))
    sections = page_of(two)
    (chart,) = (block for block in sections["trainings"].blocks if isinstance(block, Chart))
    loss, scores = (re.findall(r"<title>(.+?)</title>", panel) for panel in chart.panels)
    assert loss == ["training loss: 0.75 at 1", "training loss: 0.25 at 3"]
    assert scores == ["clean: 0.6 at 1", "clean: 0.7 at 2"]
    (grid,) = grids_of(sections["costs"])
    rows = {row[0].split(" (")[0]: row[1:] for row in rows_of(grid)}
    assert rows == {"nat": ["3", "2.0 (2.0-2.0)", "1.0", "9"], "pgdat 8": ["", "", "", ""]}


def test_files_that_say_little_of_their_images(two: Path) -> None:
    """Fails if a file without labels, or with labels of another kind, ends the page instead of a section."""
    for number, samples in enumerate(({}, {"file": ["a.png"], "label": [0]}, {"label": ["x"] * IMAGES})):
        content = made(4 + number, IMAGES, method="mart")
        save_all(two, {str(number): content | {"samples": samples}})
    source = Source.read([two], Options())
    sections, data = sections_of(source)
    assert len(source.files) == 5 and data is not None
    assert len(data["runs"]) == 2 and "confusion" in [section.anchor for section in sections]


def test_every_table_names_a_command_that_is_right(two: Path) -> None:
    """Fails if the command below a table, or that of the page, is one that the parser refuses."""
    for options in (Options(), Options(scores=("accuracy",), per_seed=True)):
        sections, _ = sections_of(Source.read([two], options))
        commands = {block.command for section in sections for block in grids_of(section) if block.command}
        commands |= {block.text for block in sections[-1].blocks if isinstance(block, Code)}
        assert len(commands) == 2
        for command in commands:
            words = shlex.split(command)
            args = tools_parser("advmia").parse_args(words[3:])
            assert words[:3] == ["python", "-m", "advmia"]
            assert (tuple(args.scores), args.perSeed) == (options.scores, options.per_seed)


def test_all_names_have_texts() -> None:
    """Fails if an attack, a method or a check was added without its text on the page, or cites what is not listed."""
    assert ATTACK_TEXTS.keys() == ATTACKS.keys()
    assert tuple(METHODS) == METHOD_NAMES
    cited = {key for _, keys in (*ATTACK_TEXTS.values(), *METHODS.values()) for key in keys}
    assert cited <= PUBLICATIONS.keys()
    text = (EXAMPLES.parents[2] / "docs" / "results.md").read_text(encoding="utf-8")
    table = text.split("| check | warns if |")[1].split("\n\n")[0]
    assert list(CHECKS) == re.findall(r"^\| (?!---)([^|]+?) \|", table, re.M)


def test_methods_paragraph(two: Path) -> None:
    """Fails if the paragraph leaves out a method, an attack or the eps, or BibTeX lacks what it cites."""
    paragraph, bibtex = (block.text for block in page_of(two)["methods"].blocks if isinstance(block, Code))
    for part in (
        "skin[phantom]",
        "40 images",
        "natural training (3 epochs)",
        "PGD adversarial training (Madry et al. 2018",
    ):
        assert part in paragraph
    assert "FGSM (Goodfellow et al. 2015; 1 step) and PGD (Madry et al. 2018; 20 steps)" in paragraph
    assert "eps of 2, 4 and 8 out of 255" in paragraph
    assert re.findall(r"^@\w+{(.+),$", bibtex, re.M) == [
        "dong2024survey",
        "madry2018towards",
        "goodfellow2015explaining",
    ]


def test_maps_are_shown_with_what_they_show(two: Path, tmp_path: Path) -> None:
    """Fails if a sheet of Grad-CAM maps is missing from the page, or its text counts the right images wrongly."""
    folder = tmp_path / "maps"
    folder.mkdir()
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(folder / "gradVisual.png")
    (folder / "gradVisual.json").write_text(json.dumps({"run": {}, "finished": True, "maps": []}))
    lines = ["index,label,attack,eps,predicted", "0,1,clean,0,1", "0,1,pgd,8,0", "1,0,clean,0,0", "1,0,pgd,8,0"]
    (folder / "gradVisual.csv").write_text("\n".join(lines) + "\n")
    text = render(Source.read([two], Options(maps=(folder,))))
    assert 'width="6" height="4"' in text and "Of 2 images: 2 right clean, 1 right pgd at eps 8." in text
    assert "--maps maps" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "is not a result file"),
        (["results", "--scores", "beauty"], "--scores beauty: no result file has this score"),
        (["results", "--maps", "."], "--maps .: expected a folder that gradVisual.py has finished"),
    ],
)
def test_wrong_arguments(
    words: list[str],
    message: str,
    two: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Fails if a wrong argument does not end in one line and status 2, or replaces a page."""
    monkeypatch.chdir(two.parent)
    Path("report.html").write_text("earlier")
    assert run_main(monkeypatch, ["advmia", "report", *words]) == 2
    check_one_line(capsys.readouterr().err, message)
    assert Path("report.html").read_text() == "earlier"


def test_page_of_real_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails if the command does not make a page of files that the test scripts wrote, of all tasks."""
    monkeypatch.chdir(EXAMPLES)
    out = tmp_path / "new folder" / "page.html"
    assert run_main(monkeypatch, ["advmia", "report", *FOLDERS, "--out", out]) == 0
    assert capsys.readouterr().out == f"report in {out}\n"
    text = out.read_text(encoding="utf-8")
    for name in ("trainings", "costs", "findings", "dice", "transfer"):
        assert f'<section id="{name}"' in text, name
    assert "(2 seeds)" in text
