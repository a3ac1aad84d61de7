"""Patients that the user knows, and lists that hold less than the published ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from advmia.data.datasets import DATASETS
from advmia.data.markers import MARKER_NAME
from advmia.data.prepare import prepare_dataset
from advmia.data.prepare.mesidor import DUPLICATES
from advmia.data.readers import read_samples
from advmia.errors import UserError
from tests.support.downloads import line_with, make_isic, make_mesidor, read_list
from tests.support.running import run_main

GRADES = {f"2006041{n % 10}_{58736 + n}_0200_PP": float(n % 4) for n in range(20)}


def test_patients_stay_together(tmp_path: Path) -> None:
    """Fails if a patient of the user's table is on both sides, duplicates are parted, or leakage is not counted."""
    (first, second), names = DUPLICATES[0], list(GRADES)
    source = make_mesidor(tmp_path / "source", GRADES | {first: 1.0, second: 1.0})
    patients = {name: f"P{number // 4}" for number, name in enumerate(names)} | {first: "P0", second: "P1"}
    rows = [f"{name}.TIF;{patient}" for name, patient in patients.items() if name != names[7]]
    table = tmp_path / "patients.csv"
    table.write_text("Image;Patient\n" + "\n".join(["Base11\\other.tif;P9", *rows]), encoding="utf-8-sig")
    lines = prepare_dataset("mesidor", source, tmp_path / "data", patients=table)
    sides = {
        side: {name[:-4] for name, _ in read_list(tmp_path / f"data/mesidor/{side}.csv")} for side in ("train", "test")
    }
    known = {name: patient.replace("P1", "P0") for name, patient in patients.items() if name != names[7]}  # one person
    shared = {known.get(name) for name in sides["train"]} & {known[name] for name in sides["test"] if name in known}
    tested = {known[name] for name in sides["test"] if name in known}
    line_with(lines, f"leakage: {len(shared)} of {len(tested)} patients of test.csv", "--split patient keeps them")
    line_with(lines, "patients: 5 of 21 images, from patients.csv")
    line_with(lines, f"skipped 1: images not in patients.csv (e.g. {names[7]}.tif)")
    line_with(lines, "skipped 1: rows of patients.csv whose image is not in the download (e.g. other.tif)")
    prepare_dataset("mesidor", source, tmp_path / "apart", patients=table, split="patient")
    sides = {
        side: {name[:-4] for name, _ in read_list(tmp_path / f"apart/mesidor/{side}.csv")} for side in ("train", "test")
    }
    assert not {known.get(name) for name in sides["train"]} & {known[name] for name in sides["test"] if name in known}
    assert len(sides["test"]) >= 4 and len(sides["train"] | sides["test"]) == 22


def test_a_download_without_a_split_by_patient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails if patients of the user's table do not allow the split by patient, or their absence is not said."""
    source, table = make_isic(tmp_path / "source"), tmp_path / "patients.csv"
    line_with(prepare_dataset("isic2017", source, tmp_path / "plain"), "leakage: patients unknown")
    table.write_text("".join(f"ISIC_{number:07d},{'AB'[number % 2]}\n" for number in range(1, 6)))
    next(source.glob("*_Validation_Part3_GroundTruth.csv")).unlink()
    words = ["advmia", "prepare", "--dataset", "isic2017", "--source", source, "--dataRoot", tmp_path / "data"]
    words += ["--patients", table, "--split", "patient"]
    assert run_main(monkeypatch, words) == 2 and "lacks the Validation part: complete" in capsys.readouterr().err
    assert run_main(monkeypatch, [*words, "--partial"]) == 0
    lines = capsys.readouterr().out.splitlines()
    sides = [
        {int(name[5:12]) % 2 for name, _ in read_list(tmp_path / f"data/mel2017/{side}.csv")}
        for side in ("train", "test")
    ]
    assert sorted(sides, key=min) == [{0}, {1}]
    line_with(lines, "split patient, derived: patients are ranked by the hash of their ID in --patients until 27%")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ISIC_0000001.jpg,A\nisic_0000001,B\n", "row 2: isic_0000001 is of patient B here and of A in another row"),
        ("ISIC_0000001.jpg\n", "row 1: expected `file,patient`, got `ISIC_0000001.jpg`"),
        ("file,patient\nother.jpg,A\n", "names no image of the download (e.g. other.jpg): expected file names such as"),
        (None, "patients.csv: no such file"),
    ],
)
def test_bad_tables(tmp_path: Path, text: str | None, message: str) -> None:
    """Fails if a bad table of patients is accepted, or something is written."""
    table = tmp_path / "patients.csv"
    if text is not None:
        table.write_text(text)
    with pytest.raises(UserError) as caught:
        prepare_dataset("isic2017", make_isic(tmp_path / "source"), tmp_path / "data", patients=table)
    assert message in str(caught.value) and not (tmp_path / "data").exists()


def test_a_subset_is_named_as_such(tmp_path: Path) -> None:
    """Fails if lists that hold less than the published ones pass for the data set, or complete ones for a subset."""
    prepare_dataset("isic2017", make_isic(tmp_path / "source"), tmp_path, split="official")

    def name_of(split: str, name: str = "melBin") -> str:
        return read_samples(DATASETS[name], tmp_path, "train" if split == "train" else "test").dataset_name

    assert name_of("train") == name_of("test") == "melBin[subset 4 of 2600]"  # without the validation part
    assert name_of("test", "mel") == "mel[subset 3 of 2600]"
    folder = tmp_path / "mel2017"
    markers = (folder / MARKER_NAME).read_text()
    (folder / MARKER_NAME).write_text(markers.replace("2000,", "1,").replace("600\n", "3\n"))
    assert name_of("train") == name_of("test") == "melBin" and "2000," in markers and "600\n" in markers
    (folder / MARKER_NAME).unlink()  # lists that a user has placed by hand
    assert name_of("train") == "melBin[subset 4 of 2750]"
    (folder / "testbin.csv").unlink()
    assert name_of("train") == "melBin[subset 2 of 2000]"
    (folder / "trainbin.csv").write_text("ISIC_0000001.jpg,0\nISIC_0000002.jpg,1\n" * 1000)
    assert name_of("train") == "melBin"
