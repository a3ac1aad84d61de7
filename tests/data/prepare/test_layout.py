"""The layout of all data sets: its lists are the same on every machine, and the readers can read them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from advmia.data.datasets import DATASETS
from advmia.data.prepare import DOWNLOADS, prepare_dataset
from advmia.data.readers import read_samples
from advmia.errors import UserError
from tests.support.downloads import (
    COVID_NAMES,
    line_with,
    make_chest,
    make_covid,
    make_isic,
    make_npz,
    read_list,
    save_image,
)


@pytest.mark.parametrize("split", ["published", "patient"])
def test_the_same_lists_on_every_machine(tmp_path: Path, split: str) -> None:
    """Fails if lists depend on the files' folder or order, and not only on names and labels."""
    rows = [(f"{n // 3:08d}_{n % 3:03d}.png", "No Finding" if n % 2 else "Mass", n // 3) for n in range(30)]
    texts: list[dict[str, str]] = []
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
    """Fails if the files that macOS adds to archives are read, or a second copy of a file counts."""
    source = make_isic(tmp_path / "source")
    save_image(source / "__MACOSX" / "ISIC_0000001.jpg", 77)
    save_image(source / "ISIC-2017_Training_Data" / "copy" / "ISIC_0000001.jpg", 1)
    (source / "ISIC-2017_Training_Data" / "._ISIC_0000002.jpg").write_bytes(b"resource fork")
    lines = prepare_dataset("isic2017", source, tmp_path / "data")
    line_with(lines, "train.csv: 2 rows")
    line_with(lines, "copied 9 files")


def test_the_data_root_is_not_part_of_the_download(tmp_path: Path) -> None:
    """Fails if prepared images could be read as part of the download."""
    make_isic(tmp_path)
    with pytest.raises(UserError, match="lies inside --source"):
        prepare_dataset("isic2017", tmp_path, tmp_path / "data")


def test_the_scripts_can_read_what_was_prepared(official: Path, tmp_path: Path) -> None:
    """Fails if a reader refuses a prepared list, or one of the eight data sets has none."""
    prepare_dataset("isic2017", official / "isic2017", tmp_path, partial=True)
    prepare_dataset("chestxray14", official / "chestxray14", tmp_path, link=True)
    prepare_dataset("covid19radiography", make_covid(tmp_path / "source", list(COVID_NAMES)), tmp_path)
    make_npz(tmp_path / "retinamnist.npz", {"train": [[n] for n in range(5)], "val": [[1]], "test": [[0]]})
    prepare_dataset("medmnist", tmp_path / "retinamnist.npz", tmp_path)
    sizes = {}
    for spec in DATASETS.values():
        samples = [read_samples(spec, tmp_path, split) for split in ("train", "test")]
        assert samples[0].dataset_name == samples[1].dataset_name
        sizes[samples[0].dataset_name] = tuple(map(len, samples))
    assert sizes == {
        "mesidorBin[RetinaMNIST 28 altered]": (6, 1),
        "mesidorMulti[RetinaMNIST 28 altered]": (6, 1),
        "melBin[subset 69 of 2750]": (46, 23),
        "melMulti[subset 69 of 2750]": (46, 23),
        "xrayBin[subset 800 of 112120]": (640, 160),
        "xray_multilabel[subset 800 of 10000]": (640, 160),
        "mel[subset 69 of 2750]": (46, 23),
        "xray[subset 5 of 2750]": (4, 1),
    }


def test_every_data_set_of_the_survey_has_a_download() -> None:
    """Fails if a data set names a download that `prepare` does not know."""
    assert {spec.download for spec in DATASETS.values()} == set(DOWNLOADS) - {"medmnist", "medsegbench"}
