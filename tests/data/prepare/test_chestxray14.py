"""Preparing ChestX-ray14: real images and tiny downloads; splits by image, by patient and official."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from advmia.data.datasets import CHEST_FINDINGS
from advmia.data.prepare import prepare_dataset
from advmia.errors import UserError
from tests.support.downloads import CHEST_COLUMNS, line_with, make_chest, read_list


class TestChestXray14:
    def test_real_sample_official_split(self, official: Path, tmp_path: Path) -> None:
        """Fails if lists differ from the NIH's own, labels are wrong, or patients in both lists are not reported."""
        source = official / "chestxray14"
        lines = prepare_dataset("chestxray14", source, tmp_path, split="official")
        folder = tmp_path / "xray"
        with (source / "Data_Entry_2017.csv").open(newline="") as file:
            findings = {row[0]: row[1].split("|") for row in list(csv.reader(file))[1:]}
        for side, names in (("train", "train_val_list.txt"), ("test", "test_list.txt")):
            listed = (source / names).read_text().split()
            binary = dict(read_list(folder / f"{side}bin.csv"))
            assert sorted(binary) == sorted(listed)
            assert all(binary[name] == ("1" if findings[name] == ["No Finding"] else "0") for name in listed)
            header, *rows = (folder / f"{side}MultiLabel_1w.csv").read_text().splitlines()
            assert header.split(",") == list(CHEST_FINDINGS)
            assert sorted(row.split(",")[0] for row in rows) == sorted(listed)
            for row in rows:
                name, bits = row.split(",")
                positive = [f for f, bit in zip(CHEST_FINDINGS, bits[1:], strict=True) if bit == "1"]
                assert bits[0] == "b" and sorted(positive) == sorted(set(findings[name]) - {"No Finding"})
        line_with(lines, "leakage: 15 of 71 patients of testbin.csv are in trainbin.csv")  # so in this sample
        line_with(lines, "testbin.csv: 200 rows; 0: 101, 1: 99")
        line_with(lines, "copied 800 files")

    def test_real_sample_published_and_patient_split(self, official: Path, tmp_path: Path) -> None:
        """Fails if a fifth of the images is not test, or a patient is on both sides of the patient split."""
        source = official / "chestxray14"

        def patients(side: str, split: str) -> set[str]:
            return {name[:8] for name, _ in read_list(tmp_path / split / "xray" / f"{side}bin.csv")}

        lines = prepare_dataset("chestxray14", source, tmp_path / "published", link=True)
        assert len(read_list(tmp_path / "published/xray/trainbin.csv")) == 640
        assert len(read_list(tmp_path / "published/xray/testbin.csv")) == 160
        tested = patients("test", "published")
        both = tested & patients("train", "published")
        assert both
        line_with(lines, f"leakage: {len(both)} of {len(tested)} patients of testbin.csv", "--split patient")
        lines = prepare_dataset("chestxray14", source, tmp_path / "patient", split="patient", link=True)
        assert not patients("test", "patient") & patients("train", "patient")
        test = [name for name, _ in read_list(tmp_path / "patient/xray/testbin.csv")]
        # A fifth of the images, and the rest of the last patient's.
        assert sum(name[:8] != test[-1][:8] for name in test) < 160 <= len(test)
        assert line_with(lines, "leakage: 0 of", "testbin.csv").endswith("too")

    def test_multi_label_lists_have_the_published_size(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Fails if multi-label lists are not cut, or have images of the other side."""
        monkeypatch.setattr("advmia.data.prepare.chestxray14.MULTI_LABEL_TRAIN", 5)
        monkeypatch.setattr("advmia.data.prepare.chestxray14.MULTI_LABEL_TEST", 2)
        rows = [(f"{n:08d}_000.png", "No Finding", n) for n in range(20)]
        prepare_dataset("chestxray14", make_chest(tmp_path / "source", rows), tmp_path / "data")
        names = {
            kind: {name for name, _ in read_list(tmp_path / "data" / "xray" / f"{kind}.csv")}
            for kind in ("trainbin", "testbin", "trainMultiLabel_1w", "testMultiLabel_1w")
        }
        assert [len(listed) for listed in names.values()] == [16, 4, 5, 2]
        assert names["trainMultiLabel_1w"] < names["trainbin"] and names["testMultiLabel_1w"] < names["testbin"]

    def test_official_lists_in_other_forms(self, tmp_path: Path) -> None:
        """Fails if a list with a BOM loses its first image, or labels behind names, or three lists, are not read."""
        rows = [(f"{n:08d}_000.png", "No Finding" if n % 2 else "Mass", n) for n in range(9)]
        source, names = make_chest(tmp_path / "source", rows), [name for name, _, _ in rows]
        (source / "train_list.txt").write_text("\n".join(names[:4]), encoding="utf-8-sig")
        (source / "val_list.txt").write_text("".join(f"{name},Mass\n" for name in names[4:6]))
        (source / "test_list.txt").write_text(
            "".join(f"{name} No Finding\r\n" for name in names[6:]), encoding="utf-16"
        )
        lines = prepare_dataset("chestxray14", source, tmp_path / "data", split="official")
        listed = {
            side: [name for name, _ in read_list(tmp_path / f"data/xray/{side}bin.csv")] for side in ("train", "test")
        }
        assert listed == {"train": names[:6], "test": names[6:]}
        line_with(lines, "val_list.txt: 2 lines hold more than images' names")
        (source / "test_list.txt").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")  # needed by another split only
        lines = prepare_dataset("chestxray14", source, tmp_path / "other")
        assert [line for line in lines if line.startswith("test_list.txt")]
        with pytest.raises(UserError, match=r"no image of test_list\.txt was found"):
            prepare_dataset("chestxray14", source, tmp_path / "third", split="official")

    @pytest.mark.parametrize(("patient", "encoding"), [("", "utf-8"), ("NaN", "utf-8"), ("{}.0", "latin-1")])
    def test_patients_without_their_ids(self, tmp_path: Path, patient: str, encoding: str) -> None:
        """Fails if empty or reformatted Patient IDs change the split by patient, or it is not said."""
        rows = [(f"{n // 3:08d}_{n % 3:03d}.png", "No Finding" if n % 2 else "Mass", n // 3) for n in range(30)]
        source = make_chest(tmp_path / "source", rows)
        prepare_dataset("chestxray14", source, tmp_path / "data", split="patient")
        table = f"{CHEST_COLUMNS},Rem\u00e4rk\n"  # an accent in a column that nobody reads
        for name, labels, number in rows:
            table += f"{name},{labels},0,{patient.format(number)},57,2682,2749,\u00e9\n"
        (source / "Data_Entry_2017.csv").write_text(table, encoding=encoding)
        lines = prepare_dataset("chestxray14", source, tmp_path / "other", split="patient")
        for path in (tmp_path / "data/xray").glob("*.csv"):
            assert (tmp_path / "other/xray" / path.name).read_bytes() == path.read_bytes()
        assert (patient == "{}.0") != any(
            "30 rows have no Patient ID; the first eight digits" in line for line in lines
        )
        line_with(lines, "leakage: 0 of 2 patients of testbin.csv")

    def test_one_class_and_many_rows(self, tmp_path: Path) -> None:
        """Fails if a list of one class is not warned of."""
        rows = [(f"{n:08d}_000.png", "No Finding", n) for n in range(20)]
        lines = prepare_dataset("chestxray14", make_chest(tmp_path / "source", rows), tmp_path / "data")
        line_with(lines, "warning: all 16 images of trainbin.csv are of class 1")
        line_with(lines, "warning: all 4 images of testbin.csv are of class 1")

    def test_archives_that_hold_the_missing_images(self, tmp_path: Path) -> None:
        """Fails if images that are still packed are left out without an error, or an unpacked archive is one."""
        rows = [(f"{n:08d}_000.png", "No Finding" if n % 2 else "Mass", n) for n in range(6)]
        source = make_chest(tmp_path / "source", rows)
        (source / "images_02.tar.gz").write_bytes(b"packed")
        prepare_dataset("chestxray14", source, tmp_path / "complete")
        next(source.rglob("00000005_000.png")).unlink()
        with pytest.raises(UserError, match=r"lacks images, and images_02\.tar\.gz in it is not unpacked: unpack it"):
            prepare_dataset("chestxray14", source, tmp_path / "data")
        lines = prepare_dataset("chestxray14", source, tmp_path / "data", partial=True)
        line_with(lines, "skipped 1: labelled images that are not in the download (e.g. 00000005_000.png)")

    def test_newer_labels_are_used_and_gaps_are_reported(self, tmp_path: Path) -> None:
        """Fails if the older label file is read, or images without a label (or the reverse) are not reported."""
        rows = [(f"{n:08d}_000.png", "No Finding", n) for n in range(6)]
        source = make_chest(tmp_path / "source", rows)
        (source / "Data_Entry_2017_v2020.csv").write_text(
            f"{CHEST_COLUMNS}\n"
            + "".join(f"{name},Hernia,0,{patient},57,2682,2749\n" for name, _, patient in rows[:5])
            + "00000077_000.png,Mass,0,77,57,2682,2749\n"
        )
        lines = prepare_dataset("chestxray14", source, tmp_path / "data")
        entries = dict(read_list(tmp_path / "data/xray/trainbin.csv")) | dict(
            read_list(tmp_path / "data/xray/testbin.csv")
        )
        assert entries == {name: "0" for name, _, _ in rows[:5]}
        line_with(lines, "labels are read from Data_Entry_2017_v2020.csv")
        line_with(lines, "skipped 1: labelled images that are not in the download (e.g. 00000077_000.png)")
        line_with(lines, "skipped 1: images without a row", "00000005_000.png")
