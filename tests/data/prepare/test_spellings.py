"""The same images under other names: letter case, extensions, spellings of classes, Unicode forms."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advmia.data.prepare import prepare_dataset
from advmia.errors import UserError
from tests.support.downloads import (
    COVID_NAMES,
    GRADES,
    line_with,
    make_chest,
    make_covid,
    make_isic,
    make_mesidor,
    read_list,
)


def test_messidor_whatever_its_extension(tmp_path: Path) -> None:
    """Fails if the split or the label of an image depends on its extension or letter case."""
    splits = {}
    for extension in (".tif", ".TIF", ".tiff", ".png", ".JPG"):
        root = tmp_path / extension
        source = make_mesidor(root / "source", GRADES)
        for path in list(source.rglob("*.tif")):
            image = Image.open(path)
            path.unlink()
            name = path.stem.lower() if extension == ".TIF" else path.stem
            image.save(path.with_name(f"{name}{extension}"))
        lines = prepare_dataset("mesidor", source, root / "data")
        folder = root / "data" / "mesidor"
        rows = {side: read_list(folder / f"{side}.csv") for side in ("train", "test")}
        assert all((folder / "img" / name).is_file() for name, _ in rows["train"] + rows["test"])
        splits[extension] = {side: [(Path(name).stem, label) for name, label in its] for side, its in rows.items()}
        conversions = [line for line in lines if "conversions, whose pixels may differ" in line]
        assert bool(conversions) == (extension in (".png", ".JPG"))
        assert any(line.startswith("not checked: 10 JPEGs") for line in lines) == (extension == ".JPG")
        if extension in (".tif", ".TIF", ".tiff"):  # TIFFs get the official name
            assert {Path(name).suffix for name, _ in rows["train"]} == {".tif"}
    assert all(split == splits[".tif"] for split in splits.values())


def test_names_that_are_not_official_ones(tmp_path: Path) -> None:
    """Fails if the split of images that a copy has renamed depends on the letter case, or their names are changed."""
    splits: list[list[list[str]]] = []
    for respell in (str.upper, str.lower, str.title):
        source = make_mesidor(tmp_path / f"source-{len(splits)}", {respell(f"left eye {n}"): 1.0 for n in range(10)})
        prepare_dataset("mesidor", source, tmp_path / f"data-{len(splits)}")
        rows = [read_list(tmp_path / f"data-{len(splits)}/mesidor/{side}.csv") for side in ("train", "test")]
        assert {name for its in rows for name, _ in its} == {f"{respell(f'left eye {n}')}.tif" for n in range(10)}
        splits.append([[name.lower() for name, _ in its] for its in rows])
    assert splits[0] == splits[1] == splits[2]


def test_a_conversion_beside_its_original(tmp_path: Path) -> None:
    """Fails if an image in two formats counts twice, or the conversion is taken."""
    source = make_mesidor(tmp_path / "source", GRADES)
    first = next(source.rglob("*.tif"))
    Image.open(first).save(first.with_suffix(".png"))
    lines = prepare_dataset("mesidor", source, tmp_path / "data")
    line_with(lines, "skipped 1: images in a second format", f"{first.stem}.png")
    other = first.with_suffix(".tiff")  # the same format in another spelling
    other.write_bytes(first.read_bytes())
    assert "everything is in place" in prepare_dataset("mesidor", source, tmp_path / "data")[-1]
    other.write_bytes(first.read_bytes() + b"more")
    with pytest.raises(UserError, match="have one name but differ"):
        prepare_dataset("mesidor", source, tmp_path / "data")
    rows = read_list(tmp_path / "data/mesidor/train.csv") + read_list(tmp_path / "data/mesidor/test.csv")
    assert len(rows) == 10 and all(name.endswith(".tif") for name, _ in rows)


def respelled(name: str) -> str:
    """Spells the class as other copies of the download do."""
    kind, _, number = name.rpartition("-")
    spelt = {"COVID": "COVID-19", "Viral Pneumonia": "Viral_Pneumonia", "Lung_Opacity": "Lung Opacity"}
    return f"{spelt.get(kind, 'NORMAL')}-{number}"


MASK_NAMES: list[Callable[[str], str]] = [
    lambda name: f"{name}.png",
    lambda name: f"{name}_mask.png",
    lambda name: f"mask_{name}.jpg",
]


@pytest.mark.parametrize("mask_name", MASK_NAMES)
def test_covid_whatever_its_spelling(tmp_path: Path, mask_name: Callable[[str], str]) -> None:
    """Fails if images vanish, or are split otherwise, because a copy spells classes, folders or masks otherwise."""
    plain = make_covid(tmp_path / "plain", list(COVID_NAMES))
    prepare_dataset("covid19radiography", plain, tmp_path / "official")
    other = tmp_path / "other"
    for path in sorted(plain.rglob("*.png")):
        folder = other / path.parent.parent.name.upper() / path.parent.name.title()
        folder.mkdir(parents=True, exist_ok=True)
        name = respelled(path.stem)
        is_mask = path.parent.name == "masks"
        image: Image.Image = Image.open(path)
        if is_mask:  # large areas, which survive JPEG
            image = Image.fromarray(np.kron(np.array([[0, 255], [255, 0]], np.uint8), np.ones((16, 16), np.uint8)))
            image.save(path)
        target = folder / (mask_name(name) if is_mask else f"{name}.png")
        image.save(target, quality=95)  # of JPEGs
    lines = prepare_dataset("covid19radiography", other, tmp_path / "data")
    for side in ("train", "test"):
        assert read_list(tmp_path / f"data/covidSeg/{side}Seg.csv") == read_list(
            tmp_path / f"official/covidSeg/{side}Seg.csv"
        )
    line_with(lines, "7 images have another spelling of the class")
    mask = np.asarray(Image.open(tmp_path / "data/covidSeg/target/COVID-1.png"))
    expected = Image.fromarray(np.kron(np.array([[0, 255], [255, 0]], np.uint8), np.ones((16, 16), np.uint8)))
    assert np.array_equal(mask, np.asarray(expected.resize((6, 6), Image.Resampling.NEAREST)))


def test_covid_without_masks_or_classes(tmp_path: Path) -> None:
    """Fails if an older version, a missing class or a file of no class passes without a word."""
    old = make_covid(tmp_path / "old", list(COVID_NAMES))
    for path in list(old.rglob("*.png")):
        if path.parent.name == "masks":
            path.unlink()
        else:
            path.rename(path.parent.parent / path.name.replace("-", " (").replace(".png", ").png"))
    with pytest.raises(UserError, match=r"holds 7 images .* but no masks: this is an older version"):
        prepare_dataset("covid19radiography", old, tmp_path / "data")
    source = make_covid(tmp_path / "source", ["COVID-1", "Normal-1", "Tuberculosis-1"])
    (source / "Lung_Opacity.zip").write_bytes(b"PK")
    with pytest.raises(
        UserError, match=r"lacks the class Lung_Opacity, the class Viral Pneumonia, and Lung_Opacity\.zip"
    ):
        prepare_dataset("covid19radiography", source, tmp_path / "data")
    assert not (tmp_path / "data").exists()
    lines = prepare_dataset("covid19radiography", source, tmp_path / "data", partial=True)
    line_with(lines, "partial: the download lacks the class Lung_Opacity, the class Viral Pneumonia")
    line_with(lines, "skipped 1: images of no class by name, or no PNG", "Tuberculosis-1.png")


def test_unicode_forms(tmp_path: Path) -> None:
    """Fails if a name in NFC in the labels is not found where the disk has it in NFD, or nothing is said."""
    name = "image_é"
    source = make_mesidor(tmp_path / "source", {"plain": 1.0})
    (source / "Annotation_Base13.csv").write_text(f"Image name,Retinopathy grade\n{name}.tif,2\n", encoding="utf-8")
    path = next(source.rglob("plain.tif"))
    path.with_name(unicodedata.normalize("NFD", f"{name}.tif")).write_bytes(path.read_bytes())
    lines = prepare_dataset("mesidor", source, tmp_path / "data")
    line_with(lines, "1 names have another Unicode form")
    folder = tmp_path / "data/mesidor"
    rows = dict(read_list(folder / "train.csv") + read_list(folder / "test.csv"))
    assert rows == {"plain.tif": "1", unicodedata.normalize("NFC", f"{name}.tif"): "2"}


def test_jpegs_that_are_used_are_not_left_out(tmp_path: Path) -> None:
    """Fails if images named .jpeg or .PNG are reported as without a label, or left out."""
    rows = [(f"{n:08d}_000.png", "No Finding" if n % 2 else "Mass", n) for n in range(6)]
    source = make_chest(tmp_path / "chest", rows)
    for path in list(source.rglob("*.png")):
        path.rename(path.with_suffix(".PNG"))
    lines = prepare_dataset("chestxray14", source, tmp_path / "data")
    assert not [line for line in lines if line.startswith("skipped")]
    names = [name for side in ("train", "test") for name, _ in read_list(tmp_path / f"data/xray/{side}bin.csv")]
    assert sorted(names) == [name for name, _, _ in rows]
    source = make_isic(tmp_path / "isic")
    image = next(source.rglob("ISIC_0000001.jpg"))
    image.rename(image.with_suffix(".jpeg"))
    lines = prepare_dataset("isic2017", source, tmp_path / "data")
    assert "(e.g. isic_0000099.jpg)" in line_with(lines, "skipped 1: images without a row")
    assert read_list(tmp_path / "data/mel2017/train.csv")[0] == ("ISIC_0000001.jpg", "0")
    image.write_bytes(image.with_suffix(".jpeg").read_bytes())  # the same image twice, under both extensions
    lines = prepare_dataset("isic2017", source, tmp_path / "data")
    assert "(e.g. isic_0000099.jpg)" in line_with(lines, "skipped 1: images without a row")
    image.write_bytes(b"another image")
    with pytest.raises(UserError, match="have one name but differ"):
        prepare_dataset("isic2017", source, tmp_path / "data")
