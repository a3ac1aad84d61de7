"""From a download to the layout: real samples, tiny trees of the other downloads, and every refusal."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advmia.data.markers import data_label, read_markers
from advmia.data.prepare import DOWNLOADS, prepare_dataset
from advmia.data.prepare.contents import Original
from advmia.data.prepare.mesidor import DUPLICATES
from advmia.data.readers import read_samples
from advmia.data.specs import CHEST_FINDINGS, DATASETS
from advmia.errors import UserError
from tests.support.downloads import (
    CHEST_COLUMNS,
    make_chest,
    make_covid,
    make_isic,
    make_mesidor,
    make_npz,
    save_image,
    write_xls,
)


def read_list(path: Path) -> list[tuple[str, str]]:
    with path.open(newline="") as file:
        return [(row[0], row[1]) for row in csv.reader(file) if len(row) == 2]


def snapshot(root: Path) -> dict[str, tuple[int, bytes]]:
    return {str(p.relative_to(root)): (p.stat().st_mtime_ns, p.read_bytes()) for p in root.rglob("*") if p.is_file()}


def line_with(lines: list[str], *parts: str) -> str:
    """The one report line that has all parts."""
    found = [line for line in lines if all(part in line for part in parts)]
    assert len(found) == 1, (parts, lines)
    return found[0]


class TestIsic2017:
    def test_real_sample(self, official: Path, tmp_path: Path) -> None:
        source = official / "isic2017"
        lines = prepare_dataset("isic2017", source, tmp_path)
        folder = tmp_path / "mel2017"
        for part, side in (("Training", "train"), ("Test_v2", "test")):
            with (source / f"ISIC-2017_{part}_Part3_GroundTruth.csv").open() as file:
                rows = list(csv.DictReader(file))
            names = [f"{row['image_id']}.jpg" for row in rows]
            classes = [
                "1" if row["melanoma"] == "1.0" else "2" if row["seborrheic_keratosis"] == "1.0" else "0"
                for row in rows
            ]
            assert read_list(folder / f"{side}.csv") == list(zip(names, classes, strict=True))
            binary = ["0" if label == "0" else "1" for label in classes]
            assert read_list(folder / f"{side}bin.csv") == list(zip(names, binary, strict=True))
            masks = [f"{row['image_id']}_segmentation.png" for row in rows]
            assert read_list(folder / f"{side}Seg.csv") == list(zip(names, masks, strict=True))
            for image, mask in zip(names, masks, strict=True):
                assert (folder / "img" / image).read_bytes() == (source / f"ISIC-2017_{part}_Data" / image).read_bytes()
                real = source / f"ISIC-2017_{part}_Part1_GroundTruth" / mask
                assert (folder / "target" / mask).read_bytes() == real.read_bytes()
        assert (folder / "train.csv").read_text().startswith("ISIC_0001852.jpg,0\nISIC_0001871.jpg,0\n")
        assert "0: 25, 1: 5, 2: 16" in line_with(lines, "train.csv: 46 rows")
        assert "0: 13, 1: 10" in line_with(lines, "testbin.csv: 23 rows")
        assert "melanoma: 2, nevus or other: 13, seborrheic keratosis: 8" in line_with(lines, "testSeg.csv: 23 rows")
        line_with(lines, "Validation part is not in the download")
        line_with(lines, "copied 138 files, converted 0, found 0 in place, wrote 6 lists")
        assert data_label(folder, "train.csv") == ""

    def test_published_order_and_oddities(self, tmp_path: Path) -> None:
        lines = prepare_dataset("isic2017", make_isic(tmp_path / "source"), tmp_path / "data")
        folder = tmp_path / "data" / "mel2017"
        assert read_list(folder / "train.csv") == [("ISIC_0000001.jpg", "0"), ("ISIC_0000002.jpg", "1")]
        # The test part in its own order, then the validation part.
        assert read_list(folder / "test.csv") == [
            ("ISIC_0000004.jpg", "2"),
            ("ISIC_0000003.jpg", "0"),
            ("ISIC_0000005.jpg", "1"),
        ]
        assert read_list(folder / "testSeg.csv") == [
            ("ISIC_0000004.jpg", "ISIC_0000004_segmentation.png"),
            ("ISIC_0000005.jpg", "ISIC_0000005_segmentation.png"),
        ]
        assert sorted(p.name for p in (folder / "img").iterdir()) == [f"ISIC_000000{n}.jpg" for n in range(1, 6)]
        assert sorted(p.name for p in (folder / "target").iterdir()) == [
            f"ISIC_000000{n}_segmentation.png" for n in (1, 2, 4, 5)
        ]
        line_with(lines, "skipped 1", "without a row", "isic_0000099.jpg")
        line_with(lines, "skipped 1", "without a mask", "ISIC_0000003.jpg")

    def test_official_split_leaves_validation_out(self, tmp_path: Path) -> None:
        lines = prepare_dataset("isic2017", make_isic(tmp_path / "source"), tmp_path / "data", split="official")
        folder = tmp_path / "data" / "mel2017"
        assert [name for name, _ in read_list(folder / "test.csv")] == ["ISIC_0000004.jpg", "ISIC_0000003.jpg"]
        assert not (folder / "img" / "ISIC_0000005.jpg").exists()
        line_with(lines, "left out 1 images")
        line_with(lines, "split official", "validation part is left out")


class TestChestXray14:
    def test_real_sample_official_split(self, official: Path, tmp_path: Path) -> None:
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
                found = [f for f, bit in zip(CHEST_FINDINGS, bits[1:], strict=True) if bit == "1"]
                assert bits[0] == "b" and sorted(found) == sorted(set(findings[name]) - {"No Finding"})
        line_with(lines, "leakage: 15 of 71 patients of testbin.csv are in trainbin.csv")  # so in this sample
        line_with(lines, "testbin.csv: 200 rows; 0: 101, 1: 99")
        line_with(lines, "copied 800 files")

    def test_real_sample_published_and_patient_split(self, official: Path, tmp_path: Path) -> None:
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
        monkeypatch.setattr("advmia.data.prepare.chestxray14.MULTI_LABEL_TRAIN", 5)
        monkeypatch.setattr("advmia.data.prepare.chestxray14.MULTI_LABEL_TEST", 2)
        rows = [(f"{n:08d}_000.png", "No Finding", n) for n in range(20)]
        prepare_dataset("chestxray14", make_chest(tmp_path / "source", rows), tmp_path / "data")
        names = {
            kind: {name for name, _ in read_list(tmp_path / "data" / "xray" / f"{kind}.csv")}
            for kind in ("trainbin", "testbin", "trainMultiLabel_1w", "testMultiLabel_1w")
        }
        assert [len(each) for each in names.values()] == [16, 4, 5, 2]
        assert names["trainMultiLabel_1w"] < names["trainbin"] and names["testMultiLabel_1w"] < names["testbin"]

    def test_newer_labels_win_and_gaps_are_told(self, tmp_path: Path) -> None:
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


GRADES = {f"2006041{n}_58736_0200_PP": float(n % 4) for n in range(10)}


class TestMesidor:
    def test_both_pairs_of_lists(self, tmp_path: Path) -> None:
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
        odd = {"20051020_63045_0100_PP": 0.0, "20051020_64007_0100_PP": 1.0, "20051020_63936_0100_PP": 1.0}
        lines = prepare_dataset("mesidor", make_mesidor(tmp_path / "source", GRADES | odd), tmp_path / "data")
        line_with(lines, "errata: of 3 images", "corrected grade for 2 and the first for 1")

    def test_duplicate_pairs(self, tmp_path: Path) -> None:
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
        grades = {f"2006041{n}_58736_0200_PP": 3.0 for n in range(5)}
        lines = prepare_dataset("mesidor", make_mesidor(tmp_path / "source", grades), tmp_path / "data")
        line_with(lines, "warning: train.csv has no image of class 0, 1, 2")


class TestCovid:
    NAMES = ("COVID-1", "COVID-688", "COVID-690", "Normal-687", "Normal-688", "Viral Pneumonia-2", "Lung_Opacity-10")

    def test_selection_masks_and_names(self, tmp_path: Path) -> None:
        source = make_covid(tmp_path / "source", list(self.NAMES))
        lines = prepare_dataset("covid19radiography", source, tmp_path / "data")
        folder = tmp_path / "data" / "covidSeg"
        train, test = read_list(folder / "trainSeg.csv"), read_list(folder / "testSeg.csv")
        assert (len(train), len(test)) == (4, 1)
        selected = {f"{name}.png" for name in self.NAMES} - {"COVID-690.png", "Normal-688.png"}
        assert {name for name, _ in train + test} == selected
        assert all(image == mask for image, mask in train + test)
        mask = Image.open(folder / "target" / "Viral Pneumonia-2.png")
        expected = np.array([[0, 0, 255], [255, 0, 0], [0, 255, 0]], np.uint8).repeat(2, 0).repeat(2, 1)
        assert mask.mode == "L" and np.array_equal(np.asarray(mask), expected)
        original = next(source.rglob("images/COVID-1.png"))
        assert (folder / "image" / "COVID-1.png").read_bytes() == original.read_bytes()
        line_with(lines, "left out 2 images of the download")
        line_with(lines, "copied 5 files, converted 5")
        kinds = [line.partition("; ")[2].split(" (")[0] for line in lines if "Seg.csv: " in line]
        counts = [dict(part.split(": ") for part in kind.split(", ")) for kind in kinds]
        total = {kind: sum(int(side.get(kind, 0)) for side in counts) for side in counts for kind in side}
        assert total == {"COVID": 2, "Normal": 1, "Viral Pneumonia": 1, "Lung_Opacity": 1}

    def test_images_without_mask_are_told(self, tmp_path: Path) -> None:
        source = make_covid(tmp_path / "source", list(self.NAMES))
        next(source.rglob("masks/COVID-1.png")).unlink()
        lines = prepare_dataset("covid19radiography", source, tmp_path / "data")
        line_with(lines, "skipped 1: images without a mask (e.g. COVID-1.png)")
        assert not (tmp_path / "data/covidSeg/image/COVID-1.png").exists()


# The columns as https://github.com/MedMNIST/MedMNIST (info.py) lists them.
CHESTMNIST_ORDER = (
    *("atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia", "pneumothorax"),
    *("consolidation", "edema", "emphysema", "fibrosis", "pleural", "hernia"),
)


def one_bit(column: int) -> list[int]:
    return [int(place == column) for place in range(14)]


class TestArchives:
    def test_retinamnist(self, tmp_path: Path) -> None:
        labels = {"train": [[0], [4]], "val": [[1]], "test": [[3], [2]]}
        arrays = make_npz(tmp_path / "retinamnist_64.npz", labels, 64)
        lines = prepare_dataset("medmnist", tmp_path / "retinamnist_64.npz", tmp_path / "data")
        folder = tmp_path / "data" / "mesidor"
        # The validation part joins the training part.
        assert [grade for _, grade in read_list(folder / "train.csv")] == ["0", "4", "1"]
        assert read_list(folder / "testbin.csv") == [
            ("retinamnist_64_test_00000.png", "1"),
            ("retinamnist_64_test_00001.png", "1"),
        ]
        assert [label for _, label in read_list(folder / "trainbin.csv")] == ["0", "1", "1"]
        for row in (1, 0):
            image = Image.open(folder / "img" / f"retinamnist_64_train_{row:05d}.png")
            assert np.array_equal(np.asarray(image), arrays["train_images"][row])
        assert data_label(folder, "trainbin.csv") == data_label(folder, "test.csv") == "RetinaMNIST 64"
        line_with(lines, "stand-in: these are RetinaMNIST images of 64 pixels")

    def test_dermamnist(self, tmp_path: Path) -> None:
        labels = {"train": [[n] for n in range(7)], "val": [[4]], "test": [[5]]}
        make_npz(tmp_path / "dermamnist.npz", labels)
        prepare_dataset("medmnist", tmp_path / "dermamnist.npz", tmp_path / "data")
        folder = tmp_path / "data" / "mel2017"
        assert [label for _, label in read_list(folder / "train.csv")] == [*"0123456", "4"]
        assert [label for _, label in read_list(folder / "trainbin.csv")] == [*"1100100", "1"]
        assert not (folder / "trainSeg.csv").exists()

    def test_pneumoniamnist_is_inverted(self, tmp_path: Path) -> None:
        make_npz(tmp_path / "pneumoniamnist.npz", {"train": [[0], [1]], "val": [[1]], "test": [[0]]}, colour=False)
        prepare_dataset("medmnist", tmp_path / "pneumoniamnist.npz", tmp_path / "data")
        folder = tmp_path / "data" / "xray"
        assert [label for _, label in read_list(folder / "trainbin.csv")] == ["1", "0", "0"]  # 1 = normal
        assert [label for _, label in read_list(folder / "testbin.csv")] == ["1"]
        assert not (folder / "trainMultiLabel_1w.csv").exists()
        assert Image.open(folder / "img" / "pneumoniamnist_28_val_00000.png").mode == "L"

    def test_chestmnist_findings_by_name(self, tmp_path: Path) -> None:
        labels = {"train": [one_bit(n) for n in range(14)], "val": [[0] * 14], "test": [[1] * 14]}
        make_npz(tmp_path / "chestmnist.npz", labels, colour=False)
        prepare_dataset("medmnist", tmp_path / "chestmnist.npz", tmp_path / "data")
        folder = tmp_path / "data" / "xray"
        rows = (folder / "trainMultiLabel_1w.csv").read_text().splitlines()
        found = []
        for row in rows[1:15]:
            bits = row.split(",b")[1]
            assert bits.count("1") == 1
            found.append(CHEST_FINDINGS[bits.index("1")].lower().replace("pleural_thickening", "pleural"))
        assert rows[0].split(",") == list(CHEST_FINDINGS)
        assert tuple(found) == CHESTMNIST_ORDER
        assert [label for _, label in read_list(folder / "trainbin.csv")] == ["0"] * 14 + ["1"]  # 1 = no finding
        assert data_label(folder, "testMultiLabel_1w.csv") == "ChestMNIST 28"

    @pytest.mark.parametrize(
        ("name", "colour", "folder", "images", "label"),
        [
            ("covid19radio_128.npz", False, "covidSeg", "image", "MedSegBench COVID-19 Radiography 8"),
            ("isic2018_256.npz", True, "mel2017", "img", "MedSegBench ISIC 2018 8"),
        ],
    )
    def test_medsegbench(self, tmp_path: Path, name: str, colour: bool, folder: str, images: str, label: str) -> None:
        rng = np.random.default_rng(1)
        arrays = {}
        for part, rows in (("train", 3), ("val", 1), ("test", 2)):
            arrays[f"{part}_images"] = rng.integers(0, 256, (rows, 8, 8, 3)[: 4 if colour else 3], dtype=np.uint8)
            arrays[f"{part}_label"] = rng.integers(0, 2, (rows, 8, 8), dtype=np.uint8)
        np.savez_compressed(tmp_path / name, **arrays, train_images_C1=arrays["train_images"][:1])
        prepare_dataset("medsegbench", tmp_path / name, tmp_path / "data")
        place = tmp_path / "data" / folder
        stem = name.partition("_")[0]
        train = read_list(place / "trainSeg.csv")
        assert [image for image, _ in train] == [
            *(f"{stem}_8_train_{row:05d}.png" for row in range(3)),
            f"{stem}_8_val_00000.png",
        ]
        mask = np.asarray(Image.open(place / "target" / train[2][1]))
        assert np.array_equal(mask, arrays["train_label"][2] * 255) and mask.dtype == np.uint8
        image = np.asarray(Image.open(place / images / train[2][0]))
        assert np.array_equal(image, arrays["train_images"][2])
        assert len(read_list(place / "testSeg.csv")) == 2
        assert data_label(place, "testSeg.csv") == label

    def test_another_size_does_not_mix(self, tmp_path: Path) -> None:
        labels = {"train": [[0], [1]], "val": [[1]], "test": [[0]]}
        make_npz(tmp_path / "retinamnist.npz", labels)
        make_npz(tmp_path / "retinamnist_64.npz", labels, 64)
        prepare_dataset("medmnist", tmp_path / "retinamnist.npz", tmp_path / "data")
        before = snapshot(tmp_path / "data")
        with pytest.raises(UserError, match=r"train\.csv exists with other rows"):
            prepare_dataset("medmnist", tmp_path / "retinamnist_64.npz", tmp_path / "data")
        assert snapshot(tmp_path / "data") == before


def write_lists(folder: Path, **lists: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in lists.items():
        (folder / f"{name}.csv").write_text(text)


class TestMeta:
    def test_lists_of_the_right_data_set_are_taken(self, tmp_path: Path) -> None:
        """Data sets share list names: the folder decides. Absent rows are left out, the list's labels stand."""
        meta = tmp_path / "meta"
        write_lists(meta / "mesidor", train="20060410_58736_0200_PP.tif,0\n", test="20060411_58736_0200_PP.tif,1\n")
        write_lists(
            meta / "mel2017",
            train="ISIC_0000004.JPG,2\r\nISIC_0000001.jpg,2\r\nISIC_0012345.jpg,0\r\n",
            test="ISIC_0000002.jpg,1\n",
            testbin="ISIC_0000002.jpg,1\nISIC_0000004.jpg,1\n",
            trainbin="ISIC_0000004.jpg,1\n",
            trainSeg="ISIC_0000001.jpg,ISIC_0000001_segmentation.png\nISIC_0000003.jpg,ISIC_0000003_segmentation.png\n",
            testSeg="ISIC_0000004.jpg,ISIC_0000004_Segmentation.png\n",
        )
        lines = prepare_dataset("isic2017", make_isic(tmp_path / "source"), tmp_path / "data", meta=meta)
        folder = tmp_path / "data" / "mel2017"
        assert (folder / "train.csv").read_bytes() == b"ISIC_0000004.jpg,2\nISIC_0000001.jpg,2\n"
        assert read_list(folder / "trainSeg.csv") == [("ISIC_0000001.jpg", "ISIC_0000001_segmentation.png")]
        assert read_list(folder / "testSeg.csv") == [("ISIC_0000004.jpg", "ISIC_0000004_segmentation.png")]
        assert not (folder / "img" / "ISIC_0000003.jpg").exists()  # in no list
        line_with(lines, "train.csv: left out 1 rows", "ISIC_0012345.jpg")
        line_with(lines, "train.csv: 1 rows disagree", "ISIC_0000001.jpg: 2 in the list, 0 in the download")
        line_with(lines, "trainSeg.csv: left out 1 rows whose image or mask", "ISIC_0000003.jpg")
        line_with(lines, "leakage: 1 images of testbin.csv are in trainbin.csv too (e.g. ISIC_0000004.jpg)")
        line_with(lines, "leakage between tasks: 1 images of testbin.csv are in train.csv")
        facts = read_markers(folder)["train.csv"]
        assert facts["list"].startswith("published list, sha256 ") and facts["counts"] == {"2": 2}

    def test_multi_label_list_and_patients(self, tmp_path: Path) -> None:
        rows = [
            ("00000001_000.png", "Mass", 1),
            ("00000001_001.png", "No Finding", 1),
            ("00000002_000.png", "Hernia", 2),
        ]
        source = make_chest(tmp_path / "source", rows)
        header = ",".join(CHEST_FINDINGS)
        write_lists(
            tmp_path / "meta" / "xray",
            trainMultiLabel_1w=f"{header}\n00000001_000.png,b00000100000000\n",
            testMultiLabel_1w=f"{header}\n00000001_001.png,b00000000000000\n00000002_000.png,b00010000000000\n",
        )
        lines = prepare_dataset("chestxray14", source, tmp_path / "data", meta=tmp_path / "meta")
        assert (
            tmp_path / "data/xray/trainMultiLabel_1w.csv"
        ).read_text() == f"{header}\n00000001_000.png,b00000100000000\n"
        assert not [line for line in lines if "disagree" in line]
        line_with(lines, "leakage: 1 of 2 patients of testMultiLabel_1w.csv")
        line_with(lines, "trainbin.csv: not below")
        assert not (tmp_path / "data/xray/trainbin.csv").exists()

    def test_errata_are_no_disagreement(self, tmp_path: Path) -> None:
        source = make_mesidor(tmp_path / "source", {"20051020_63045_0100_PP": 0.0, "20051020_64007_0100_PP": 3.0})
        text = "20051020_63045_0100_PP.tif,3\n20051020_64007_0100_PP.tif,2\n"
        write_lists(tmp_path / "mesidor-lists", train=text)  # the folder itself names the data set
        lines = prepare_dataset("mesidor", source, tmp_path / "data", meta=tmp_path / "mesidor-lists")
        assert (tmp_path / "data/mesidor/train.csv").read_text() == text
        line_with(lines, "train.csv: 1 rows differ from the download by a published erratum")
        line_with(lines, "train.csv: 1 rows disagree", "20051020_64007_0100_PP.tif: 2 in the list, 3")

    def test_lists_of_another_data_set_are_not_taken(self, tmp_path: Path) -> None:
        write_lists(tmp_path / "meta" / "mesidor", train="ISIC_0000001.jpg,0\n", test="ISIC_0000002.jpg,1\n")
        with pytest.raises(UserError, match="got 0 such lists"):
            prepare_dataset("isic2017", make_isic(tmp_path / "source"), tmp_path / "data", meta=tmp_path / "meta")

    def test_the_folder_of_the_exact_name_is_preferred(self, tmp_path: Path) -> None:
        write_lists(tmp_path / "meta" / "a-mesidor", train="20060410_58736_0200_PP.tif,0\n")
        write_lists(tmp_path / "meta" / "mesidor", train="20060411_58736_0200_PP.tif,1\n")
        prepare_dataset("mesidor", make_mesidor(tmp_path / "source", GRADES), tmp_path / "data", meta=tmp_path / "meta")
        assert read_list(tmp_path / "data/mesidor/train.csv") == [("20060411_58736_0200_PP.tif", "1")]

    def test_two_candidates(self, tmp_path: Path) -> None:
        source = make_mesidor(tmp_path / "source", GRADES)
        write_lists(tmp_path / "meta" / "a" / "mesidor", train="20060410_58736_0200_PP.tif,0\n")
        write_lists(tmp_path / "meta" / "b" / "mesidor", train="20060410_58736_0200_PP.tif,0\n")
        prepare_dataset("mesidor", source, tmp_path / "one", meta=tmp_path / "meta")  # the same list twice
        write_lists(tmp_path / "meta" / "b" / "mesidor", train="20060411_58736_0200_PP.tif,0\n")
        with pytest.raises(UserError, match=r"one train\.csv .*a.mesidor.train\.csv.*b.mesidor.train\.csv") as caught:
            prepare_dataset("mesidor", source, tmp_path / "two", meta=tmp_path / "meta")
        assert "give the folder of one" in str(caught.value)


class TestNothingIsReplaced:
    def test_second_run_changes_nothing(self, tmp_path: Path) -> None:
        source = make_isic(tmp_path / "source")
        prepare_dataset("isic2017", source, tmp_path / "data")
        before = snapshot(tmp_path / "data")
        lines = prepare_dataset("isic2017", source, tmp_path / "data")
        assert snapshot(tmp_path / "data") == before
        assert lines[-1] == "everything is in place (9 files): nothing was written"

    def test_archives_and_conversions_too(self, tmp_path: Path) -> None:
        make_npz(tmp_path / "retinamnist.npz", {"train": [[0], [1]], "val": [[1]], "test": [[0]]})
        source = make_covid(tmp_path / "source", list(TestCovid.NAMES))
        runs = (("medmnist", tmp_path / "retinamnist.npz"), ("covid19radiography", source))
        for dataset, path in runs:
            prepare_dataset(dataset, path, tmp_path / "data")
        before = snapshot(tmp_path / "data")
        for dataset, path in runs:
            assert "everything is in place" in prepare_dataset(dataset, path, tmp_path / "data")[-1]
        assert snapshot(tmp_path / "data") == before

    @pytest.mark.parametrize("name", ["img/ISIC_0000002.jpg", "target/ISIC_0000002_segmentation.png", "test.csv"])
    def test_a_different_file_stops_all(self, tmp_path: Path, name: str) -> None:
        """Of the same size too, and before anything is written."""
        source = make_isic(tmp_path / "source")
        prepare_dataset("isic2017", source, tmp_path / "whole")
        existing = tmp_path / "data" / "mel2017" / name
        existing.parent.mkdir(parents=True)
        content = (tmp_path / "whole" / "mel2017" / name).read_bytes()
        existing.write_bytes(content[:-3] + b"xyz")
        before = snapshot(tmp_path / "data")
        with pytest.raises(UserError) as caught:
            prepare_dataset("isic2017", source, tmp_path / "data")
        assert str(existing) in str(caught.value) and "nothing was changed" in str(caught.value)
        assert snapshot(tmp_path / "data") == before

    def test_a_converted_file_that_differs(self, tmp_path: Path) -> None:
        source = make_covid(tmp_path / "source", list(TestCovid.NAMES))
        prepare_dataset("covid19radiography", source, tmp_path / "data")
        mask = tmp_path / "data/covidSeg/target/COVID-1.png"
        for content in ("other pixels", "no image"):
            if content == "no image":
                mask.write_bytes(b"no image")
            else:
                save_image(mask, 5, "L", (6, 6))
            with pytest.raises(UserError, match=r"COVID-1\.png exists and differs"):
                prepare_dataset("covid19radiography", source, tmp_path / "data")

    def test_the_same_rows_for_other_images(self, tmp_path: Path) -> None:
        source = make_isic(tmp_path / "source")
        prepare_dataset("isic2017", source, tmp_path / "data")
        marker = tmp_path / "data/mel2017/advmia-data.json"
        facts = json.loads(marker.read_text())
        facts["test.csv"]["label"] = "phantom"
        marker.write_text(json.dumps(facts))
        with pytest.raises(
            UserError, match=r"test\.csv exists for other images \(phantom there, official in this run\)"
        ):
            prepare_dataset("isic2017", source, tmp_path / "data")

    def test_a_killed_run_continues(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        source = make_isic(tmp_path / "source")
        whole = tmp_path / "whole"
        prepare_dataset("isic2017", source, whole)
        write = Original.write

        def killed(self: Original, target: Path, link: bool) -> None:
            if target.name == "ISIC_0000004.jpg":
                raise KeyboardInterrupt
            write(self, target, link)

        monkeypatch.setattr(Original, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare_dataset("isic2017", source, tmp_path / "data")
        monkeypatch.undo()
        assert not list((tmp_path / "data/mel2017").glob("*.csv"))  # no list names a file that is not there
        prepare_dataset("isic2017", source, tmp_path / "data")
        contents = [{name: data for name, (_, data) in snapshot(root).items()} for root in (whole, tmp_path / "data")]
        assert contents[0] == contents[1]

    def test_hand_placed_lists_with_other_line_ends_stay(self, tmp_path: Path) -> None:
        source = make_isic(tmp_path / "source")
        prepare_dataset("isic2017", source, tmp_path / "data")
        path = tmp_path / "data/mel2017/train.csv"
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
        before = path.read_bytes()
        prepare_dataset("isic2017", source, tmp_path / "data")
        assert path.read_bytes() == before


class TestLinks:
    def test_links_are_absolute_and_run_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        make_isic(tmp_path / "source")
        monkeypatch.chdir(tmp_path)
        lines = prepare_dataset("isic2017", Path("source"), Path("data"), link=True)
        link = Path("data/mel2017/img/ISIC_0000001.jpg")
        assert link.is_symlink() and link.readlink().is_absolute()
        assert link.resolve() == tmp_path / "source/ISIC-2017_Training_Data/ISIC_0000001.jpg"
        line_with(lines, "linked 9 files")
        assert "everything is in place" in prepare_dataset("isic2017", Path("source"), Path("data"), link=True)[-1]
        assert "everything is in place" in prepare_dataset("isic2017", Path("source"), Path("data"))[-1]

    def test_links_to_a_download_that_moved_are_renewed(self, tmp_path: Path) -> None:
        prepare_dataset("isic2017", make_isic(tmp_path / "source"), tmp_path / "data", link=True)
        moved = (tmp_path / "source").rename(tmp_path / "moved")
        assert line_with(prepare_dataset("isic2017", moved, tmp_path / "data", link=True), "linked 9 files")
        assert (tmp_path / "data/mel2017/img/ISIC_0000001.jpg").resolve().is_relative_to(moved)

    def test_what_is_converted_is_written(self, tmp_path: Path) -> None:
        source = make_covid(tmp_path / "source", list(TestCovid.NAMES))
        lines = prepare_dataset("covid19radiography", source, tmp_path / "data", link=True)
        folder = tmp_path / "data" / "covidSeg"
        assert (folder / "image/COVID-1.png").is_symlink() and not (folder / "target/COVID-1.png").is_symlink()
        line_with(lines, "linked 5 files, converted 5")


@pytest.mark.parametrize("split", ["published", "patient"])
def test_the_same_lists_everywhere(tmp_path: Path, split: str) -> None:
    """Lists depend on names and labels, not on where and in which order the files lie."""
    rows = [(f"{n // 3:08d}_{n % 3:03d}.png", "No Finding" if n % 2 else "Mass", n // 3) for n in range(30)]
    texts = []
    for order in (rows, rows[::-1]):
        root = tmp_path / str(len(texts))
        prepare_dataset("chestxray14", make_chest(root / "source", order), root / "data", split=split)
        texts.append({path.name: path.read_text() for path in (root / "data/xray").glob("*.csv")})
    assert texts[0] == texts[1] and len(texts[0]) == 4
    # Fixed for good: with another ranking, results of two versions could not be compared.
    unit = {name: name if split == "published" else str(patient) for name, _, patient in rows}

    def rank(name: str) -> tuple[str, str]:
        return hashlib.sha256(unit[name].encode()).hexdigest(), hashlib.sha256(name.encode()).hexdigest()

    test = [name for name, _ in read_list(tmp_path / "0/data/xray/testbin.csv")]
    assert test == sorted(unit, key=rank)[:6]


def test_the_download_inside_hidden_and_nested_folders(tmp_path: Path) -> None:
    """What macOS leaves in archives is passed over, and a second copy of the same file counts once."""
    source = make_isic(tmp_path / "source")
    save_image(source / "__MACOSX" / "ISIC_0000001.jpg", 77)
    save_image(source / "ISIC-2017_Training_Data" / "copy" / "ISIC_0000001.jpg", 1)
    (source / "ISIC-2017_Training_Data" / "._ISIC_0000002.jpg").write_bytes(b"resource fork")
    lines = prepare_dataset("isic2017", source, tmp_path / "data")
    line_with(lines, "train.csv: 2 rows")
    line_with(lines, "copied 9 files")


def edit(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def isic_with(old: str, new: str) -> Callable[[Path], Path]:
    def build(tmp: Path) -> Path:
        edit(make_isic(tmp / "source") / "ISIC-2017_Training_Part3_GroundTruth.csv", old, new)
        return tmp / "source"

    return build


def chest_with(labels: str, name: str = "00000001_000.png") -> Callable[[Path], Path]:
    def build(tmp: Path) -> Path:
        make_chest(tmp / "source", [("00000000_000.png", "No Finding", 0)])
        with (tmp / "source" / "Data_Entry_2017.csv").open("a") as file:
            file.write(f"{name},{labels},0,1,57,2682,2749\n")
        return tmp / "source"

    return build


def mesidor_with(grade: str | float) -> Callable[[Path], Path]:
    return lambda tmp: make_mesidor(tmp / "source", {"20060410_58736_0200_PP": 1.0, "20060411_58736_0200_PP": grade})


def packed(name: str) -> Callable[[Path], Path]:
    def build(tmp: Path) -> Path:
        (tmp / "source").mkdir()
        (tmp / "source" / name).write_bytes(b"PK")
        return tmp / "source"

    return build


def two_versions(tmp: Path) -> Path:
    save_image(make_isic(tmp / "source") / "elsewhere" / "ISIC_0000001.jpg", 55)
    return tmp / "source"


def broken_xls(tmp: Path) -> Path:
    make_mesidor(tmp / "source", GRADES)
    (tmp / "source" / "Annotation_Base11.xls").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1 and then nothing")
    return tmp / "source"


def contradicting_sheets(tmp: Path) -> Path:
    make_mesidor(tmp / "source", {"20060410_58736_0200_PP": 1.0})
    rows: list[list[str | float]] = [["Image name", "Retinopathy grade"], ["20060410_58736_0200_PP.tif", 2.0]]
    write_xls(tmp / "source" / "Annotation_Base13.xls", rows)
    return tmp / "source"


def damaged_mask(tmp: Path) -> Path:
    next(make_covid(tmp / "source", ["COVID-1"]).rglob("masks/*.png")).write_bytes(b"none")
    return tmp / "source"


def both_official_lists(tmp: Path) -> Path:
    source = make_chest(tmp / "source", [("00000000_000.png", "No Finding", 0)])
    for name in ("train_val_list.txt", "test_list.txt"):
        (source / name).write_text("00000000_000.png\n")
    return source


def npz(name: str = "retinamnist.npz", drop: str = "", **replace: np.ndarray) -> Callable[[Path], Path]:
    def build(tmp: Path) -> Path:
        arrays = make_npz(tmp / name, {"train": [[0], [1]], "val": [[1]], "test": [[0]]}) | replace
        np.savez_compressed(tmp / name, **{key: array for key, array in arrays.items() if key != drop})
        return tmp / name

    return build


def cut_npz(tmp: Path) -> Path:
    path = npz()(tmp)
    path.write_bytes(path.read_bytes()[:-200])
    return path


def text_npz(tmp: Path) -> Path:
    (tmp / "chestmnist.npz").write_text("<html>rate limit</html>")
    return tmp / "chestmnist.npz"


ERRORS = [
    ("mesidor2", isic_with("0.0", "0.0"), {}, "unknown download 'mesidor2'; known are mesidor, isic2017, chestxray14"),
    ("isic2017", lambda tmp: tmp / "nowhere", {}, "expected --source to be the folder of the unpacked download"),
    ("isic2017", isic_with("0.0", "0.0"), {"split": "patient"}, "no split 'patient'; it has published, official"),
    ("covid19radiography", lambda tmp: make_covid(tmp / "source", ["COVID-1"]), {"split": "official"}, "has no split"),
    ("medmnist", npz(), {"split": "patient"}, "medmnist has no split 'patient'; it has published"),
    ("medmnist", npz(), {"meta": Path()}, "--meta takes the published lists of the survey's four data sets"),
    ("isic2017", isic_with("0.0", "0.0"), {"meta": Path("nowhere")}, "expected --meta to be the folder"),
    ("isic2017", isic_with("0.0", "0.0"), {"meta": Path(), "split": "official"}, "and --split published"),
    ("isic2017", isic_with("02,1.0,0.0", "02,1.0,1.0"), {}, "GroundTruth.csv row 3: ISIC_0000002 is both melanoma"),
    ("isic2017", isic_with("02,1.0,0.0", "02,0.5,0.0"), {}, "row 3: expected a label of 0.0 or 1.0, got '0.5'"),
    ("isic2017", isic_with("02,1.0,0.0", "02,1.0"), {}, "row 3: expected 3 columns, got 2"),
    (
        "isic2017",
        isic_with("melanoma,", "mole,"),
        {},
        "row 1: expected a column 'melanoma', got the columns image_id, mole",
    ),
    (
        "isic2017",
        isic_with("ISIC_0000002", "../../ISIC_2"),
        {},
        "row 3: expected a plain file name, got '../../ISIC_2'",
    ),
    ("isic2017", isic_with("ISIC_0000002", "ISIC_0000003"), {}, "isic_0000003.jpg has more than one row"),
    (
        "isic2017",
        packed("ISIC-2017_Training_Data.zip"),
        {},
        "not unpacked (ISIC-2017_Training_Data.zip, 1 in all): unpack",
    ),
    ("isic2017", packed("readme.txt"), {}, "found none: give the folder of the official download"),
    ("isic2017", two_versions, {}, "have one name but differ"),
    ("chestxray14", packed("images_01.tar.gz"), {}, "archives that are not unpacked (images_01.tar.gz"),
    (
        "chestxray14",
        chest_with("Mass|Cold"),
        {},
        "Data_Entry_2017.csv row 3: expected 'No Finding' alone or findings of",
    ),
    ("chestxray14", chest_with("Mass|Cold"), {}, "('Cold' does not belong)"),
    ("chestxray14", chest_with("No Finding|Mass"), {}, "got 'No Finding|Mass' ('No Finding' does not belong)"),
    ("chestxray14", chest_with("Mass", "a/00000001_000.png"), {}, "row 3: expected a plain file name"),
    (
        "chestxray14",
        chest_with("Mass"),
        {"split": "official"},
        "needs train_val_list.txt and test_list.txt below --source",
    ),
    ("chestxray14", both_official_lists, {"split": "official"}, "00000000_000.png is in both train_val_list.txt and"),
    ("mesidor", packed("Base11.zip"), {}, "expected the TIFF images of Base11 to Base34"),
    (
        "mesidor",
        mesidor_with(4.0),
        {},
        "Annotation Base12.xls row 2: expected a retinopathy grade of 0 to 3, got '4.0'",
    ),
    ("mesidor", mesidor_with("x"), {}, "Annotation Base12.xls row 2: expected a retinopathy grade of 0 to 3, got 'x'"),
    ("mesidor", broken_xls, {}, "Annotation_Base11.xls is not a readable .xls spreadsheet"),
    ("mesidor", contradicting_sheets, {}, "Base13.xls row 2: 20060410_58736_0200_PP.tif has grade 2 here and 1"),
    ("covid19radiography", damaged_mask, {}, "masks/COVID-1.png is not a readable image"),
    ("covid19radiography", packed("archive.zip"), {}, "expected images in COVID/images to Viral Pneumonia/images"),
    (
        "medmnist",
        npz("pathmnist.npz"),
        {},
        "one of retinamnist*.npz, dermamnist*.npz, chestmnist*.npz, pneumoniamnist*.npz",
    ),
    ("medsegbench", npz(), {}, "one of covid19radio*.npz, isic2018*.npz"),
    ("medmnist", lambda tmp: tmp / "retinamnist.npz", {}, "retinamnist.npz: no such file"),
    ("medmnist", npz(drop="val_labels"), {}, "expected an array val_labels, got train_images, train_labels"),
    ("medmnist", cut_npz, {}, "not a readable NumPy array"),
    ("medmnist", text_npz, {}, "chestmnist.npz, array train_images: not a readable NumPy array"),
    ("medmnist", npz(test_labels=np.array([[5]], np.uint8)), {}, "array test_labels, row 0: expected labels of 0 to 4"),
    (
        "medmnist",
        npz(test_labels=np.array([[0], [0]], np.uint8)),
        {},
        "whole numbers of shape (1, 1), got uint8 (2, 1)",
    ),
    ("medmnist", npz(test_labels=np.array([[0.5]])), {}, "expected whole numbers of shape (1, 1), got float64"),
    ("medmnist", npz(test_images=np.zeros((1, 4, 5), np.uint8)), {}, "expected uint8 images of shape (N, S, S)"),
    ("medmnist", npz(test_images=np.zeros((1, 4, 4), np.float32)), {}, "got float32 (1, 4, 4)"),
    ("medmnist", npz(test_images=np.array([[{}]], object)), {}, "expected numbers in C order, got dtype object"),
]


@pytest.mark.parametrize(("dataset", "build", "options", "message"), ERRORS, ids=range(len(ERRORS)))
def test_bad_input(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dataset: str,
    build: Callable[[Path], Path],
    options: dict[str, object],
    message: str,
) -> None:
    source = build(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        prepare_dataset(dataset, source, tmp_path / "data", **options)  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "data").rglob("*.csv"))


META_ERRORS = [
    ("train", "../ISIC_0000001.jpg,0\n", r"train\.csv row 1: expected a plain file name"),
    (
        "train",
        "ISIC_0000001.jpg,0\nISIC_0000002.jpg,x\n",
        r"train\.csv row 2: expected an image's file name and a class",
    ),
    ("train", "image,label\nISIC_0000001.jpg,0\n", r"train\.csv row 1: .*got 'image,label'"),
    ("trainSeg", "ISIC_0000001.jpg,../m.png\n", r"trainSeg\.csv row 1: expected a plain file name, got '\.\./m\.png'"),
    ("train", "ISIC_0099999.jpg,0\n", "got 1 such lists and no row whose image is there"),
    ("unknown", "ISIC_0000001.jpg,0\n", "got 0 such lists"),
]


@pytest.mark.parametrize(("name", "text", "message"), META_ERRORS)
def test_bad_published_lists(tmp_path: Path, name: str, text: str, message: str) -> None:
    write_lists(tmp_path / "meta", **{name: text})
    with pytest.raises(UserError, match=message):
        prepare_dataset("isic2017", make_isic(tmp_path / "source"), tmp_path / "data", meta=tmp_path / "meta")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Mass,Nodule\n00000000_000.png,b01\n", "row 1: expected the header Cardiomegaly,Emphysema"),
        (f"{','.join(CHEST_FINDINGS)}\n00000000_000.png,b0101\n", "row 2: expected .* the letter b and 14 bits"),
    ],
)
def test_bad_multi_label_lists(tmp_path: Path, text: str, message: str) -> None:
    write_lists(tmp_path / "meta", trainMultiLabel_1w=text)
    source = make_chest(tmp_path / "source", [("00000000_000.png", "No Finding", 0)])
    with pytest.raises(UserError, match=message):
        prepare_dataset("chestxray14", source, tmp_path / "data", meta=tmp_path / "meta")


def test_the_data_root_is_not_part_of_the_download(tmp_path: Path) -> None:
    make_isic(tmp_path)
    with pytest.raises(UserError, match="lies inside --source"):
        prepare_dataset("isic2017", tmp_path, tmp_path / "data")


def test_an_archive_damaged_in_the_middle_leaves_no_lists(tmp_path: Path) -> None:
    path = tmp_path / "retinamnist.npz"
    arrays = make_npz(path, {"train": [[0]] * 40, "val": [[1]], "test": [[0]]})
    np.savez(path, **arrays)  # not compressed: the damage is found by the checksum only
    data = bytearray(path.read_bytes())
    place = data.index(arrays["train_images"][39].tobytes())
    data[place] ^= 255
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"array train_images, row \d+: damaged .*CRC"):
        prepare_dataset("medmnist", path, tmp_path / "data")
    assert not list((tmp_path / "data").rglob("*.csv"))


def test_the_scripts_can_read_what_was_prepared(official: Path, tmp_path: Path) -> None:
    prepare_dataset("isic2017", official / "isic2017", tmp_path)
    prepare_dataset("chestxray14", official / "chestxray14", tmp_path, link=True)
    prepare_dataset("covid19radiography", make_covid(tmp_path / "source", list(TestCovid.NAMES)), tmp_path)
    make_npz(tmp_path / "retinamnist.npz", {"train": [[n] for n in range(5)], "val": [[1]], "test": [[0]]})
    prepare_dataset("medmnist", tmp_path / "retinamnist.npz", tmp_path)
    sizes = {}
    for spec in DATASETS.values():
        samples = [read_samples(spec, tmp_path, split) for split in ("train", "test")]
        sizes[samples[0].dataset_name] = tuple(map(len, samples))
    assert sizes == {
        "mesidorBin[RetinaMNIST 28]": (6, 1),
        "mesidorMulti[RetinaMNIST 28]": (6, 1),
        "melBin": (46, 23),
        "melMulti": (46, 23),
        "xrayBin": (640, 160),
        "xray_multilabel": (640, 160),
        "mel": (46, 23),
        "xray": (4, 1),
    }


def test_every_data_set_of_the_survey_has_a_download() -> None:
    assert {spec.download for spec in DATASETS.values()} == set(DOWNLOADS) - {"medmnist", "medsegbench"}
