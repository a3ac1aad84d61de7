"""The phantoms: the four layouts' formats, determinism, consistent labels, and refused arguments and folders."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from advmia.data.datasets import CHEST_FINDINGS, DATASETS
from advmia.data.markers import MARKER_NAME, data_label, read_markers, write_marker
from advmia.data.phantom_images import TINT_LEVELS, WEAVE_LEVELS, skin
from advmia.data.phantoms import FOLDERS, make_phantoms
from advmia.data.specs import DatasetSpec, Split
from advmia.errors import UserError

COUNT, SIZE = 28, 40


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("phantoms")
    make_phantoms(path, count=COUNT, size=SIZE)
    return path


def rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("spec", DATASETS.values(), ids=list(DATASETS))
def test_lists_are_complete_and_marked(root: Path, spec: DatasetSpec) -> None:
    """Fails if a listed file is missing, a list is not marked, or an image is in both splits."""
    seen: set[str] = set()
    splits: tuple[tuple[Split, int], ...] = (("train", COUNT - COUNT // 4), ("test", COUNT // 4))
    for split, expected in splits:
        path = spec.list_path(root, split)
        listed = rows(path)[1 if spec.findings else 0 :]
        assert len(listed) == expected and all(len(row) == 2 for row in listed)
        for name, second in listed:
            assert (path.parent / spec.image_folder / name).is_file()
            assert spec.mask_folder is None or (path.parent / spec.mask_folder / second).is_file()
        assert data_label(path.parent, path.name) == "phantom"
        names = {name for name, _ in listed}
        assert len(names) == expected and not names & seen
        seen |= names


@pytest.mark.parametrize(
    ("folder", "images", "kind", "mode", "pattern"),
    [
        ("mesidor", "img", "TIFF", "RGB", r"\d{8}_\d{5}_0100_PP\.tif"),
        ("mel2017", "img", "JPEG", "RGB", r"ISIC_\d{7}\.jpg"),
        ("mel2017", "target", "PNG", "L", r"ISIC_\d{7}_segmentation\.png"),
        ("xray", "img", "PNG", "L", r"\d{8}_\d{3}\.png"),
        ("covidSeg", "image", "PNG", "L", r"(Normal|COVID|Lung_Opacity|Viral Pneumonia)-\d+\.png"),
        ("covidSeg", "target", "PNG", "L", r"(Normal|COVID|Lung_Opacity|Viral Pneumonia)-\d+\.png"),
    ],
)
def test_files_have_the_real_formats(root: Path, folder: str, images: str, kind: str, mode: str, pattern: str) -> None:
    """Fails if names, formats, modes or sizes differ from the real data sets'."""
    paths = sorted((root / folder / images).iterdir())
    assert len(paths) == COUNT
    for path in paths:
        assert re.fullmatch(pattern, path.name)
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == (kind, mode, (SIZE, SIZE))
            pixels = np.asarray(image)
        assert 0.1 < pixels.mean() / 255 < 0.9 or images == "target"
        if images == "target":
            assert set(np.unique(pixels)) == {0, 255} and 0.02 < (pixels > 0).mean() < 0.8


def test_masks_lie_on_lesions_and_lungs(root: Path) -> None:
    """Fails if masks do not lie on the lesions and lungs."""
    for folder, image_folder in (("mel2017", "img"), ("covidSeg", "image")):
        for name, mask_name in rows(root / folder / "testSeg.csv"):
            grey = np.asarray(Image.open(root / folder / image_folder / name).convert("L"), dtype=float)
            inside = np.asarray(Image.open(root / folder / "target" / mask_name)) > 0
            outside = ~inside & (grey > 10)  # without the black border of skin images
            assert grey[inside].mean() < grey[outside].mean(), name  # lesions and lungs are darker


def test_border_is_exactly_zero(root: Path) -> None:
    """Fails if noise, weave, tint or lesions reach the black border of a fundus or a skin image, or masks do."""
    ticks = (np.arange(SIZE) + 0.5) * 2 / SIZE - 1
    outside = np.hypot(*np.meshgrid(ticks, ticks)) > 0.98
    for path in (root / "mesidor" / "img").iterdir():
        pixels = np.asarray(Image.open(path))
        assert not pixels[outside].any() and pixels[~outside].any()
    for path in (root / "mel2017" / "target").iterdir():
        assert not np.asarray(Image.open(path))[outside].any()
    for label in range(3):  # as drawn: a JPEG file has faint rings at the border
        image, _ = skin(np.random.default_rng(label), SIZE, label)
        assert not image[outside].any() and image[SIZE // 2, SIZE // 2].all()


@pytest.mark.parametrize(("folder", "classes"), [("mesidor", 4), ("mel2017", 3)])
@pytest.mark.parametrize("split", ["train", "test"])
def test_binary_lists_agree_with_the_classes(root: Path, folder: str, classes: int, split: str) -> None:
    """Fails if a binary label contradicts the class, or a class is missing."""
    multi, binary = dict(rows(root / folder / f"{split}.csv")), dict(rows(root / folder / f"{split}bin.csv"))
    assert set(multi.values()) == {str(label) for label in range(classes)}
    assert binary == {name: str(int(label != "0")) for name, label in multi.items()}


@pytest.mark.parametrize("split", ["train", "test"])
def test_findings_occur_and_no_finding_is_class_1(root: Path, split: str) -> None:
    """Fails if a finding is missing in a split, or the binary list is inverted."""
    header, *listed = rows(root / "xray" / f"{split}MultiLabel_1w.csv")
    assert tuple(header) == CHEST_FINDINGS
    assert all(re.fullmatch("b[01]{14}", bits) for _, bits in listed)
    positives = np.array([list(bits[1:]) for _, bits in listed]) == "1"
    assert positives.any(0).all() and not positives.all(0).any()
    binary = dict(rows(root / "xray" / f"{split}bin.csv"))
    assert binary == {name: str(int("1" not in bits)) for name, bits in listed}
    assert set(binary.values()) == {"0", "1"}


def test_every_covid_class_is_in_both_splits(root: Path) -> None:
    """Fails if one of the four classes is missing in a split."""
    for split in ("train", "test"):
        listed = rows(root / "covidSeg" / f"{split}Seg.csv")
        assert {image.rsplit("-", 1)[0] for image, _ in listed} == {
            "Normal",
            "COVID",
            "Lung_Opacity",
            "Viral Pneumonia",
        }
        assert all(image == mask for image, mask in listed)


def test_same_seed_same_bytes_and_other_seed_other_images(root: Path, tmp_path: Path) -> None:
    """Fails if phantoms depend on anything but the arguments, or not on the seed."""
    make_phantoms(tmp_path / "again", count=COUNT, size=SIZE)
    make_phantoms(tmp_path / "other", count=COUNT, size=SIZE, seed=1)
    first, again, other = contents(root), contents(tmp_path / "again"), contents(tmp_path / "other")
    assert first == again
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first if re.search(r"(img|image)/", name))


def test_running_again_changes_nothing_and_says_so(root: Path) -> None:
    """Fails if a second run writes a file, or does not report that all files exist."""
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    report = make_phantoms(root, count=COUNT, size=SIZE)
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert next(line for line in report if "already there" in line).startswith(str(root / "mesidor"))
    assert "  testbin.csv: 7 images; 4 of class 0, 3 of class 1" in report


def test_a_killed_run_is_continued(root: Path, tmp_path: Path) -> None:
    """Fails if an incomplete folder is not completed to the same bytes."""
    make_phantoms(tmp_path, ["covidSeg"], count=COUNT, size=SIZE)
    (tmp_path / "covidSeg" / "testSeg.csv").unlink()
    (tmp_path / "covidSeg" / "image" / "Normal-3.png").write_bytes(b"half")
    make_phantoms(tmp_path, ["covidSeg"], count=COUNT, size=SIZE)
    assert contents(tmp_path / "covidSeg") == contents(root / "covidSeg")


def test_marker_records_the_arguments(root: Path) -> None:
    """Fails if a marker does not record the arguments that phantoms were made with."""
    markers = read_markers(root / "mel2017")
    assert len(markers) == 6
    facts = markers["testSeg.csv"]
    assert (facts["label"], facts["count"], facts["size"], facts["seed"]) == ("phantom", COUNT, SIZE, 0)


@pytest.mark.parametrize("changed", [{"seed": 1}, {"count": 40}, {"size": 64}])
def test_other_arguments_are_refused(root: Path, changed: dict[str, int]) -> None:
    """Fails if phantoms made with other arguments are mixed with, or replaced by, new ones."""
    before = contents(root / "xray")
    arguments: dict[str, Any] = {"count": COUNT, "size": SIZE} | changed
    with pytest.raises(UserError, match=r"xray holds phantoms made with .*choose another --dataRoot"):
        make_phantoms(root, ["xray"], **arguments)
    assert contents(root / "xray") == before


def test_real_data_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """Fails if phantoms get into a folder that may hold real data."""
    unmarked, standin, images = tmp_path / "xray", tmp_path / "mel2017", tmp_path / "mesidor"
    for folder in (unmarked, standin, images / "img"):
        folder.mkdir(parents=True)
    (unmarked / "mine.csv").write_text("a.png,0\n")
    (standin / "trainbin.csv").write_text("a.jpg,0\n")
    write_marker(standin, ["trainbin.csv"], {"label": "DermaMNIST 64"})
    (images / "img" / "real.tif").write_bytes(b"")
    before = contents(tmp_path)
    for name in ("xray", "mel2017", "mesidor"):
        with pytest.raises(UserError, match=rf"{name}.*not marked as phantom.*choose another --dataRoot") as caught:
            make_phantoms(tmp_path, ["covidSeg", name], count=COUNT, size=SIZE)
        assert "\n" not in str(caught.value)
    assert contents(tmp_path) == before


def test_a_marker_without_lists_still_protects(tmp_path: Path) -> None:
    """Fails if a folder whose lists are gone is taken for an empty one."""
    write_marker(tmp_path / "xray", ["trainbin.csv"], {"label": ""})
    with pytest.raises(UserError, match="not marked as phantom"):
        make_phantoms(tmp_path, ["xray"], count=COUNT, size=SIZE)
    assert list((tmp_path / "xray").iterdir()) == [tmp_path / "xray" / MARKER_NAME]


@pytest.mark.parametrize(
    ("folders", "arguments", "message"),
    [
        (["mel"], {}, "'mel'.*choose from mesidor, mel2017, xray, covidSeg"),
        (["xray"], {"count": 23}, "count is 23; give a number from 24"),
        (["xray"], {"count": 10**6}, "count is 1000000"),
        (["xray"], {"size": 8}, "size is 8; give a number from 32"),
        (["xray"], {"size": 4096}, "to 1024"),
        (["xray"], {"seed": -1}, "seed is -1"),
    ],
)
def test_bad_arguments(tmp_path: Path, folders: list[str], arguments: dict[str, int], message: str) -> None:
    """Fails if arguments out of range are accepted, or the message does not say the range."""
    with pytest.raises(UserError, match=message):
        make_phantoms(tmp_path, folders, **arguments)
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way(tmp_path: Path) -> None:
    """Fails if a file with the folder's name ends in a traceback."""
    (tmp_path / "xray").write_text("")
    with pytest.raises(UserError, match="is a file"):
        make_phantoms(tmp_path, ["xray"], count=COUNT, size=SIZE)


def test_smallest_count_shows_all_classes(tmp_path: Path) -> None:
    """Fails if a class is missing in a test list of the smallest count."""
    make_phantoms(tmp_path, count=24, size=32)
    assert {label for _, label in rows(tmp_path / "mesidor" / "test.csv")} == {"0", "1", "2", "3"}
    assert {label for _, label in rows(tmp_path / "mel2017" / "test.csv")} == {"0", "1", "2"}
    bits = np.array([list(row[1][1:]) for row in rows(tmp_path / "xray" / "testMultiLabel_1w.csv")[1:]]) == "1"
    assert bits.any(0).all()


def test_folders_and_weave() -> None:
    """Fails if a data set has no phantoms, or weave or tint are too strong for an attack of eps 8."""
    assert {spec.folder for spec in DATASETS.values()} == set(FOLDERS)
    assert WEAVE_LEVELS < 8 and TINT_LEVELS < 8  # the largest attack must be able to wipe them out


def test_skin_shows_its_class_in_two_ways(tmp_path: Path) -> None:
    """Fails if the tint is wrong for an image, or other lesions than one in eight look like the other class."""
    make_phantoms(tmp_path, ["mel2017"], count=256, size=32)
    labels, tints, large = [], [], []
    for split in ("train", "test"):
        masks = dict(rows(tmp_path / "mel2017" / f"{split}Seg.csv"))
        for name, label in rows(tmp_path / "mel2017" / f"{split}bin.csv"):
            pixels = np.asarray(Image.open(tmp_path / "mel2017" / "img" / name), dtype=float)
            mask = np.asarray(Image.open(tmp_path / "mel2017" / "target" / masks[name])) > 0
            red, green, blue = np.median(pixels[~mask & (pixels.sum(2) > 30)], axis=0)  # of the skin
            labels.append(int(label))
            tints.append(red + blue - 2 * green)  # 0.10 * 255 for skin of any brightness and shade without a tint
            large.append(mask.mean() > 0.15)
    assert ((np.array(tints) > 0.10 * 255) == labels).all()
    assert abs((np.array(large) == labels).mean() - 7 / 8) < 0.01  # a ragged melanoma may be small
