"""Preparing with the published lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from advmia.data.datasets import CHEST_FINDINGS
from advmia.data.markers import read_markers
from advmia.data.prepare import prepare_dataset
from advmia.errors import UserError
from tests.support.downloads import GRADES, line_with, make_chest, make_isic, make_mesidor, read_list, write_lists


class TestMeta:
    def test_lists_of_the_right_data_set_are_taken(self, tmp_path: Path) -> None:
        """Fails if a list of another data set with the same name is used, or labels are not the published list's.

        Fails too if a row whose image is absent is listed, or not reported.
        """
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
        """Fails if equal labels count as disagreement, or patients in both lists are not reported."""
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

    def test_errata_are_not_disagreements(self, tmp_path: Path) -> None:
        """Fails if a published erratum counts as disagreement, or the list's label is not kept."""
        source = make_mesidor(tmp_path / "source", {"20051020_63045_0100_PP": 0.0, "20051020_64007_0100_PP": 3.0})
        text = "20051020_63045_0100_PP.tif,3\n20051020_64007_0100_PP.tif,2\n"
        write_lists(tmp_path / "mesidor-lists", train=text)  # the folder itself names the data set
        lines = prepare_dataset("mesidor", source, tmp_path / "data", meta=tmp_path / "mesidor-lists")
        assert (tmp_path / "data/mesidor/train.csv").read_text() == text
        line_with(lines, "train.csv: 1 rows differ from the download by a published erratum")
        line_with(lines, "train.csv: 1 rows disagree", "20051020_64007_0100_PP.tif: 2 in the list, 3")

    def test_lists_of_another_data_set_are_not_taken(self, tmp_path: Path) -> None:
        """Fails if lists in another data set's folder are used."""
        write_lists(tmp_path / "meta" / "mesidor", train="ISIC_0000001.jpg,0\n", test="ISIC_0000002.jpg,1\n")
        with pytest.raises(UserError, match="got 0 such lists"):
            prepare_dataset("isic2017", make_isic(tmp_path / "source"), tmp_path / "data", meta=tmp_path / "meta")

    def test_the_folder_of_the_exact_name_is_preferred(self, tmp_path: Path) -> None:
        """Fails if a folder that only contains the name is preferred."""
        write_lists(tmp_path / "meta" / "a-mesidor", train="20060410_58736_0200_PP.tif,0\n")
        write_lists(tmp_path / "meta" / "mesidor", train="20060411_58736_0200_PP.tif,1\n")
        prepare_dataset("mesidor", make_mesidor(tmp_path / "source", GRADES), tmp_path / "data", meta=tmp_path / "meta")
        assert read_list(tmp_path / "data/mesidor/train.csv") == [("20060411_58736_0200_PP.tif", "1")]

    def test_two_candidates(self, tmp_path: Path) -> None:
        """Fails if one of two different lists is used silently, or two equal ones are refused."""
        source = make_mesidor(tmp_path / "source", GRADES)
        write_lists(tmp_path / "meta" / "a" / "mesidor", train="20060410_58736_0200_PP.tif,0\n")
        write_lists(tmp_path / "meta" / "b" / "mesidor", train="20060410_58736_0200_PP.tif,0\n")
        prepare_dataset("mesidor", source, tmp_path / "one", meta=tmp_path / "meta")  # the same list twice
        write_lists(tmp_path / "meta" / "b" / "mesidor", train="20060411_58736_0200_PP.tif,0\n")
        with pytest.raises(UserError, match=r"one train\.csv .*a.mesidor.train\.csv.*b.mesidor.train\.csv") as caught:
            prepare_dataset("mesidor", source, tmp_path / "two", meta=tmp_path / "meta")
        assert "give the folder of one" in str(caught.value)

    def test_forms_of_lists(self, tmp_path: Path) -> None:
        """Fails if a published list with folders before its names, a header or decimals is not read, or not said."""
        text = "image,label\n./ISIC_0000001.jpg,0.0\nimg/ISIC_0000002.jpg,1\nmel2017\\img\\ISIC_0000004.jpg,2\n"
        write_lists(tmp_path / "mel2017", train=text, trainSeg="ISIC_0000001.jpg,./ISIC_0000001_segmentation.png\n")
        lines = prepare_dataset(
            "isic2017", make_isic(tmp_path / "source"), tmp_path / "data", meta=tmp_path / "mel2017"
        )
        folder = tmp_path / "data/mel2017"
        assert (folder / "train.csv").read_text() == "ISIC_0000001.jpg,0\nISIC_0000002.jpg,1\nISIC_0000004.jpg,2\n"
        assert read_list(folder / "trainSeg.csv") == [("ISIC_0000001.jpg", "ISIC_0000001_segmentation.png")]
        line_with(lines, "train.csv: its header image,label is left out")
        line_with(lines, "train.csv: 3 image names have their folder before them")
        line_with(lines, "train.csv: 1 labels are written with a decimal point")
        line_with(lines, "warning: no image is in the test list of melMulti")


META_ERRORS = [
    (
        "train",
        "ISIC_0000001.jpg,0\nISIC_0000002.jpg,1\nisic_0000001.jpg,1\n",
        r"row 3: isic_0000001\.jpg is 1 here and 0 in row 1; keep one",
    ),
    ("train", "ISIC_0000001.jpg,3\n", r"row 1: ISIC_0000001\.jpg has label 3, but melMulti has 3 classes"),
    ("testbin", "ISIC_0000001.jpg,2\n", r"row 1: ISIC_0000001\.jpg has label 2, but melBin has 2 classes"),
    ("train", "../ISIC_0000001.jpg,0\n", r"train\.csv row 1: expected a plain file name"),
    (
        "train",
        "ISIC_0000001.jpg,0\nISIC_0000002.jpg,x\n",
        r"train\.csv row 2: expected an image's file name and a class",
    ),
    ("trainSeg", "ISIC_0000001.jpg,../m.png\n", r"trainSeg\.csv row 1: expected a plain file name, got '\.\./m\.png'"),
    ("train", "ISIC_0099999.jpg,0\n", "got 1 such lists and no row whose image is there"),
    ("unknown", "ISIC_0000001.jpg,0\n", "got 0 such lists"),
]


@pytest.mark.parametrize(("name", "text", "message"), META_ERRORS)
def test_bad_published_lists(tmp_path: Path, name: str, text: str, message: str) -> None:
    """Fails if a bad published list is accepted, or the message lacks the row."""
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
    """Fails if a published list with another header or number of bits is accepted."""
    write_lists(tmp_path / "meta", trainMultiLabel_1w=text)
    source = make_chest(tmp_path / "source", [("00000000_000.png", "No Finding", 0)])
    with pytest.raises(UserError, match=message):
        prepare_dataset("chestxray14", source, tmp_path / "data", meta=tmp_path / "meta")
