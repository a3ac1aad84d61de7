"""Downloads with faults: each fault is reported in one line that names the file and the row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from advmia.data.prepare import prepare_dataset
from advmia.errors import UserError
from tests.support.downloads import (
    GRADES,
    make_chest,
    make_covid,
    make_isic,
    make_mesidor,
    make_npz,
    save_image,
    write_xls,
)


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
    grades: dict[str, str | float] = {"20060410_58736_0200_PP": 1.0, "20060411_58736_0200_PP": grade}
    return lambda tmp: make_mesidor(tmp / "source", grades)


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
    (
        "mesidor2",
        isic_with("0.0", "0.0"),
        {},
        "unknown download 'mesidor2': choose from mesidor, isic2017, chestxray14",
    ),
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
    ("isic2017", packed("readme.txt"), {}, "found 1 .txt (readme.txt): give the folder of the official download"),
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
    (
        "chestxray14",
        both_official_lists,
        {"split": "official"},
        "00000000_000.png is in both a training list and test_list",
    ),
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
    ("covid19radiography", damaged_mask, {"partial": True}, "masks/COVID-1.png is not a readable mask"),
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
    (
        "medmnist",
        npz(test_labels=np.array([[5]], np.uint8)),
        {},
        "test_labels, item 0: expected labels of 0 to 4",
    ),
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
    """Fails if a fault has no message, or one of several lines or without file and row, or if lists are written."""
    source = build(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        prepare_dataset(dataset, source, tmp_path / "data", **options)  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "data").rglob("*.csv"))
