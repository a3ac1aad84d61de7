"""Preparing Messidor: spreadsheets, errata and duplicates."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from advmia.data.prepare import prepare_dataset
from advmia.data.prepare.mesidor import DUPLICATES
from advmia.errors import UserError
from tests.support.downloads import GRADES, line_with, make_mesidor, read_list


class TestMesidor:
    def test_both_pairs_of_lists(self, tmp_path: Path) -> None:
        """Fails if the binary lists are split differently from the grades, or macOS's files count as images."""
        source = make_mesidor(tmp_path / "source", GRADES)
        (source / "Base11" / "._20060410_58736_0200_PP.tif").write_bytes(b"what macOS leaves")
        lines = prepare_dataset("mesidor", source, tmp_path / "data")
        folder = tmp_path / "data" / "mesidor"
        train, test = read_list(folder / "train.csv"), read_list(folder / "test.csv")
        assert (len(train), len(test)) == (8, 2)
        assert dict(train + test) == {f"{stem}.tif": str(int(grade)) for stem, grade in GRADES.items()}
        for grades, side in ((train, "train"), (test, "test")):
            assert read_list(folder / f"{side}bin.csv") == [
                (name, "0" if grade == "0" else "1") for name, grade in grades
            ]
        image = source / "Base11" / "deeper" / "20060410_58736_0200_PP.tif"
        assert (folder / "img" / image.name).read_bytes() == image.read_bytes()
        line_with(lines, "split published, derived", "cannot be derived")
        assert not [line for line in lines if line.startswith("skipped")]

    def test_errata_are_reported(self, tmp_path: Path) -> None:
        """Fails if first and corrected grades are not distinguished."""
        odd = {"20051020_63045_0100_PP": 0.0, "20051020_64007_0100_PP": 1.0, "20051020_63936_0100_PP": 1.0}
        lines = prepare_dataset("mesidor", make_mesidor(tmp_path / "source", GRADES | odd), tmp_path / "data")
        line_with(lines, "errata: of 3 images", "corrected grade for 2 and the first for 1")

    def test_duplicate_pairs(self, tmp_path: Path) -> None:
        """Fails if the patient split separates a known pair of duplicates, or a separated pair is not reported."""
        pairs = {image: 1.0 for pair in DUPLICATES for image in pair}
        assert len(pairs) == 26
        source = make_mesidor(tmp_path / "source", pairs)

        def straddling(split: str) -> int:
            test = {name.removesuffix(".tif") for name, _ in read_list(tmp_path / split / "mesidor" / "test.csv")}
            return sum((a in test) != (b in test) for a, b in DUPLICATES)

        lines = prepare_dataset("mesidor", source, tmp_path / "published")
        assert straddling("published") > 0
        line_with(lines, f"leakage: {straddling('published')} of", "duplicate pairs of test.csv", "--split patient")
        lines = prepare_dataset("mesidor", source, tmp_path / "patient", split="patient")
        assert straddling("patient") == 0 and len(read_list(tmp_path / "patient/mesidor/test.csv")) == 6
        line_with(lines, "leakage: 0 of 3 duplicate pairs of test.csv")

    def test_classes_without_training_images(self, tmp_path: Path) -> None:
        """Fails if classes without training images are not reported."""
        grades = {f"2006041{n}_58736_0200_PP": 3.0 for n in range(5)}
        lines = prepare_dataset("mesidor", make_mesidor(tmp_path / "source", grades), tmp_path / "data")
        line_with(lines, "warning: train.csv has no image of class 0, 1, 2")

    def test_a_machine_without_xlrd(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Fails if a missing xlrd ends in a traceback, or stops other commands: it is needed for spreadsheets only."""
        monkeypatch.setitem(sys.modules, "xlrd", None)
        with pytest.raises(UserError, match=r"Annotation_Base11\.xls: the package xlrd is missing .*pip install xlrd"):
            prepare_dataset("mesidor", make_mesidor(tmp_path / "source", GRADES), tmp_path / "data")
