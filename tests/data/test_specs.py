"""The declarations of the data sets, against the published facts of the survey."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from advmia.data.datasets import CHEST_FINDINGS, DATASETS
from advmia.data.specs import Augmentation

THREE = Augmentation(rotation=20, horizontal_flip=0.5, vertical_flip=0.5)
FLIP = Augmentation(horizontal_flip=0.5)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

# name: task, folder, lists, resize, size, augmentation, normalisation, classes, image and mask folder
PUBLISHED: dict[str, tuple[Any, ...]] = {
    "mesidorBin": ("single-label", "mesidor", "{}bin.csv", 299, 299, THREE, None, 2, "img", None),
    "mesidorMulti": ("single-label", "mesidor", "{}.csv", 299, 299, THREE, None, None, "img", None),
    "melBin": ("single-label", "mel2017", "{}bin.csv", 256, 224, THREE, None, 2, "img", None),
    "melMulti": ("single-label", "mel2017", "{}.csv", 256, 224, THREE, None, None, "img", None),
    "xrayBin": ("single-label", "xray", "{}bin.csv", 256, 224, FLIP, IMAGENET, 2, "img", None),
    "xray_multilabel": ("multi-label", "xray", "{}MultiLabel_1w.csv", 256, 224, FLIP, None, 14, "img", None),
    "mel": ("segmentation", "mel2017", "{}Seg.csv", 256, 256, Augmentation(), None, 2, "img", "target"),
    "xray": ("segmentation", "covidSeg", "{}Seg.csv", 256, 256, Augmentation(), None, 2, "image", "target"),
}


def test_published_facts_are_complete() -> None:
    """Fails if a data set is added without its published facts here."""
    assert set(DATASETS) == set(PUBLISHED)
    assert all(name == spec.name for name, spec in DATASETS.items())


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_facts(name: str) -> None:
    """Fails if a size, list, augmentation or normalisation differs from the survey's."""
    task, folder, list_name, resize, size, augmentation, normalisation, classes, images, masks = PUBLISHED[name]
    spec = DATASETS[name]
    assert (spec.task, spec.resize, spec.size, spec.classes) == (task, resize, size, classes)
    assert spec.augmentation == augmentation
    assert ((spec.mean, spec.std) if spec.mean else None) == normalisation
    assert (spec.image_folder, spec.mask_folder) == (images, masks)
    root = Path("data")
    assert spec.list_path(root, "train") == root / folder / list_name.format("train")
    assert spec.list_path(root, "test") == root / folder / list_name.format("test")


def test_findings() -> None:
    """Fails if the 14 findings are in another order than the published lists' bits."""
    published = (
        "Cardiomegaly, Emphysema, Effusion, Hernia, Infiltration, Mass, Nodule, Atelectasis, Pneumothorax, "
        "Pleural_Thickening, Pneumonia, Fibrosis, Edema, Consolidation"
    )
    assert ", ".join(CHEST_FINDINGS) == published
    assert {name for name, spec in DATASETS.items() if spec.findings} == {"xray_multilabel"}
    assert DATASETS["xray_multilabel"].findings == CHEST_FINDINGS


def test_spellings_are_unambiguous() -> None:
    """Fails if two data sets of one task answer to the same name in any letter case."""
    for task in {spec.task for spec in DATASETS.values()}:
        specs = [spec for spec in DATASETS.values() if spec.task == task]
        spellings = Counter(word.lower() for spec in specs for word in {spec.name, *spec.aliases})
        assert max(spellings.values()) == 1, spellings


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("mesidorMul", "mesidorMulti"),
        ("melMul", "melMulti"),
        ("melanomaMul", "melMulti"),
        ("melanomaBin", "melBin"),
    ],
)
def test_spellings_in_circulation(alias: str, name: str) -> None:
    """Fails if a spelling that published commands use is no longer known."""
    assert alias in DATASETS[name].aliases


@pytest.mark.parametrize("name", PUBLISHED)
def test_at_its_own_size_nothing_changes(name: str) -> None:
    """Fails if `--imgSize` with the data set's own size changes the transform."""
    assert DATASETS[name].at_size(DATASETS[name].size) == DATASETS[name]


@pytest.mark.parametrize(
    ("name", "size", "resize"),
    [("melBin", 32, 37), ("melBin", 112, 128), ("xrayBin", 64, 73), ("mesidorBin", 64, 64), ("mel", 65, 65)],
)
def test_at_another_size(name: str, size: int, resize: int) -> None:
    """Fails if the crop no longer keeps its share of the image, or if anything but the size changes."""
    spec = DATASETS[name].at_size(size)
    assert (spec.size, spec.resize) == (size, resize)
    assert spec.at_size(DATASETS[name].size).augmentation == DATASETS[name].augmentation
    assert (spec.name, spec.folder, spec.classes) == (name, DATASETS[name].folder, DATASETS[name].classes)
