"""`prepare --dataset folder`: a user's own images become a data set with lists and a declaration."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advmia.data.datasets import find_dataset
from advmia.data.prepare.contents import Original
from advmia.data.prepare.division import divide
from advmia.data.prepare.own import OwnOptions, prepare_own
from advmia.data.prepare.records import Record
from advmia.data.readers import SampleList, read_samples
from advmia.errors import UserError
from tests.support.downloads import line_with
from tests.support.running import run_main


def save(path: Path, value: int) -> Path:
    """Writes an image whose pixels depend on the value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(value).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return path


def make_photos(source: Path, classes: int = 12, count: int = 10) -> Path:
    """Writes a folder of photos for each class: `2`, `10`, ... are in the order of their numbers."""
    for label in range(classes):
        for number in range(count):
            save(source / f"type {label + 1}" / f"{label}_{number}.png", 100 * label + number)
    return source


def lists_of(root: Path, name: str, *parts: str) -> dict[str, list[str]]:
    return {part: (root / name / f"{part}.csv").read_text().splitlines() for part in parts or ("train", "test")}


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    """Fails if classes are lost or in another order, if lists are not stratified, or if a second run differs."""
    source, root = make_photos(tmp_path / "photos"), tmp_path / "data"
    options = OwnOptions(val_fraction=0.1, size=32)
    lines = prepare_own("photos", source, root, options)
    spec = find_dataset("photos", root, "single-label")
    assert spec.class_names == tuple(f"type {label + 1}" for label in range(12)) and spec.size == 32
    lists = lists_of(root, "photos", "train", "val", "test")
    for part, count in (("train", 7), ("val", 1), ("test", 2)):
        assert Counter(row.split(",")[1] for row in lists[part]) == dict.fromkeys(map(str, range(12)), count)
    names = [row.split(",")[0] for rows in lists.values() for row in rows]
    assert len(set(names)) == len(names) == 120
    samples = read_samples(spec, root, "train")
    assert all(file.startswith(f"{label}_") for file, label in zip(samples.files, samples.labels.tolist(), strict=True))
    line_with(lines, "train.csv: 84 rows; type 1: 7, type 2: 7")
    line_with(lines, "leakage: patients unknown")
    line_with(lines, "duplicates: no two images")
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    (root / "photos" / "dataset.toml").write_text((root / "photos" / "dataset.toml").read_text() + "rotation = 5\n")
    line_with(prepare_own("photos", source, root, options), "everything is in place")
    after = {path: path.stat().st_mtime_ns for path in before}
    assert {path.name for path in before if before[path] != after[path]} == {"dataset.toml"}
    assert find_dataset("photos", root, "single-label").augmentation.rotation == 5
    with pytest.raises(UserError, match="exists and declares another class"):
        prepare_own("photos", source, root, OwnOptions(classes=["type 1", "type 2"]))


def make_table(tmp_path: Path, head: str, rows: list[str]) -> Path:
    path = tmp_path / "labels.csv"
    path.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return path


def make_findings(tmp_path: Path) -> tuple[Path, Path]:
    """Writes 60 images of 20 patients, a table of them, and an image that it does not name."""
    for number in range(60):
        save(tmp_path / "scans" / f"s{number % 3}" / f"scan{number}.png", number)
    save(tmp_path / "scans" / "other.png", 1000)
    names = ("Edema", "Mass", "Nodule")
    rows = [
        f"s{number % 3}/scan{number}.png,{'|'.join(n for k, n in enumerate(names) if number >> k & 1)},P{number // 3}"
        for number in range(60)
    ]
    return tmp_path / "scans", make_table(tmp_path, "Image,Labels,Patient", rows)


def test_findings_and_patients(tmp_path: Path) -> None:
    """Fails if bits are wrong, or a patient's images are in two lists."""
    source, table = make_findings(tmp_path)
    lines = prepare_own("scans", source, tmp_path / "data", OwnOptions(labels=table, val_fraction=0.2))
    spec = find_dataset("scans", tmp_path / "data", "multi-label")
    assert spec.findings == ("Edema", "Mass", "Nodule")
    patients: dict[str, set[str]] = {}
    for part, rows in lists_of(tmp_path / "data", "scans", "train", "val", "test").items():
        assert rows[0] == "Edema,Mass,Nodule" and len(rows) > 6
        for row in rows[1:]:
            name, bits = row.split(",")
            number = int(name.removeprefix("scan").removesuffix(".png"))
            assert bits == "b" + "".join(str(number >> k & 1) for k in range(3))
            patients.setdefault(f"P{number // 3}", set()).add(part)
    assert len(patients) == 20 and all(len(parts) == 1 for parts in patients.values())
    line_with(lines, "leakage: 0 of 20 patients are in more than one list")
    line_with(lines, "skipped 1: images that labels.csv does not name (e.g. other.png)")
    read_samples(spec, tmp_path / "data", "train")


def test_a_split_of_the_user(tmp_path: Path) -> None:
    """Fails if a column `split` is not followed, or leakage and equal images of different labels are not reported."""
    for number in range(6):
        save(tmp_path / "scans" / f"{number}.png", number % 5)  # 0 and 5 are equal
    rows = [
        f"{number}.png,{number // 3},{part},P{number % 3}" for number, part in enumerate(["train", "train", "test"] * 2)
    ]
    table = make_table(tmp_path, "file,label,split,patient", rows)
    lines = prepare_own("scans", tmp_path / "scans", tmp_path / "data", OwnOptions(labels=table))
    assert lists_of(tmp_path / "data", "scans") == {
        "train": ["0.png,0", "1.png,0", "3.png,1", "4.png,1"],
        "test": ["2.png,0", "5.png,1"],
    }
    line_with(lines, "leakage: 0 of 3 patients")
    line_with(lines, "duplicates: 2 images have the pixels of another one (e.g. 0.png and 5.png)")
    line_with(lines, "warning: 1 of these groups have different labels (e.g. 0.png (0) and 5.png (1))")
    table.write_text(table.read_text().replace("test", "", 1))
    with pytest.raises(UserError, match="has no split in the table, but others have"):
        prepare_own("scans", tmp_path / "scans", tmp_path / "more", OwnOptions(labels=table))


def make_masks(tmp_path: Path, values: tuple[int, ...]) -> tuple[Path, Path]:
    rows = []
    for number in range(10):
        save(tmp_path / "scans" / f"{number}.png", number)
        mask = np.array(values, np.uint8)[np.arange(64).reshape(8, 8) * len(values) // 64]
        (tmp_path / "scans" / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(tmp_path / "scans" / "masks" / f"{number}_mask.png")
        rows.append(f"{number}.png,masks/{number}_mask.png")
    return tmp_path / "scans", make_table(tmp_path, "file,mask", rows)


def test_masks_of_three_classes(tmp_path: Path) -> None:
    """Fails if masks lose their image, or their values do not get the classes' order."""
    source, table = make_masks(tmp_path, (0, 7, 200))
    options = OwnOptions(labels=table, classes=["background", "liver", "spleen"])
    prepare_own("organs", source, tmp_path / "data", options)
    spec = find_dataset("organs", tmp_path / "data", "segmentation")
    assert spec.mask_values == ((0,), (7,), (200,)) and spec.class_names == ("background", "liver", "spleen")
    samples: SampleList = read_samples(spec, tmp_path / "data", "train")
    assert all(mask == f"{image}.mask.png" for image, mask in zip(samples.files, samples.masks, strict=True))
    with pytest.raises(UserError, match=r"the masks have 3 values \(0, 7, 200\), but --classes names 4"):
        prepare_own("more", source, tmp_path / "data", OwnOptions(labels=table, classes=["a", "b", "c", "d"]))


def test_division_is_by_group_and_stratum() -> None:
    """Fails if a group is parted, a stratum has no training image, or the order of the records matters."""
    records = [Record(f"{n}.png", Original(Path("x")), {}, group=f"g{n // 4}" if n < 40 else "") for n in range(100)]
    strata = ["rare" if n >= 98 else "many" for n in range(100)]
    parts = divide(records, strata, {"val": 0.1, "test": 0.3})
    assert sorted(r.name for its in parts.values() for r in its) == sorted(r.name for r in records)
    for group in {record.group for record in records} - {""}:
        assert sum(any(record.group == group for record in its) for its in parts.values()) == 1
    assert any(record.name in ("98.png", "99.png") for record in parts["train"])
    assert 28 <= len(parts["test"]) <= 33 and 8 <= len(parts["val"]) <= 13
    backwards = divide(records[::-1], strata[::-1], {"val": 0.1, "test": 0.3})
    assert {part: {r.name for r in its} for part, its in parts.items()} == {
        part: {r.name for r in its} for part, its in backwards.items()
    }


def test_equal_images_stay_together(tmp_path: Path) -> None:
    """Fails if images with equal pixels are put on both sides, where the user does not say otherwise."""
    for number in range(40):
        save(tmp_path / "photos" / "ab"[number % 2] / f"{number}.png", number // 4 * 2 + number % 2)
    prepare_own("photos", tmp_path / "photos", tmp_path / "data", OwnOptions(test_fraction=0.5))
    sides = {
        part: {(int(row.split(".")[0]) // 4, int(row.split(".")[0]) % 2) for row in rows}
        for part, rows in lists_of(tmp_path / "data", "photos").items()
    }
    assert sides["train"] and sides["test"] and not sides["train"] & sides["test"]


FAULTS = {
    "no images": ("", "", (), "expected images below"),
    "one class": ("a", "", (), "has one class only, a: expected a folder for each"),
    "unknown class": ("ab", "", ("--classes", "a", "c"), "has no images in a folder c"),
    "a survey's name": ("ab", "", ("--name", "melBin"), "a data set of the survey is named so"),
    "no table": ("ab", "", ("--labels", "none.csv"), "cannot read none.csv"),
    "no column": ("ab", "file,kind\na.png,1\n", (), "row 1: expected a column label"),
    "no file": ("ab", "file,label\nz.png,1\n", (), "row 2: 'z.png' is no image below --source"),
    "wrong label": ("ab", "file,label\n0.png,x\n", ("--classes", "y", "z"), "row 2: expected a label of y, z, got 'x'"),
    "wrong split": ("ab", "file,label,split\n0.png,x,dev\n", (), "row 2: split: expected train, val or test"),
    "few images": ("ab", "file,label\n0.png,x\n1.png,y\n", (), "no image is left for the test list"),
    "foreign flag": ("ab", "", ("--partial",), "--partial is for official downloads only"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_faults(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails if a fault is not reported in one line, or if something is written."""
    monkeypatch.chdir(tmp_path)
    folders, table, flags, message = FAULTS[kind]
    Path("photos").mkdir()
    for number, folder in enumerate(folders):
        save(Path("photos") / folder / f"{number}.png", number)
    if table:
        Path("labels.csv").write_text(table)
        flags = ("--labels", "labels.csv", *flags)
    command = ["advmia", "prepare", "--dataset", "folder", "--source", "photos", "--dataRoot", "data", *flags]
    assert run_main(monkeypatch, command) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1, error
    assert not Path("data").exists()


def test_flags_of_a_folder_only(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails if a flag of one's own images is ignored in silence for an official download."""
    command = ["advmia", "prepare", "--dataset", "isic2017", "--source", "x", "--testFraction", 0.1]
    assert run_main(monkeypatch, command) == 2
    assert "--testFraction is for --dataset folder only" in capsys.readouterr().err
