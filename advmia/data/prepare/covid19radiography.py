"""Reads the COVID-19 Radiography Database: chest radiographs (PNG) with lung masks, in four classes."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import numpy as np
from PIL import Image

from advmia.data.prepare.contents import Original, Pixels, open_image
from advmia.data.prepare.records import (
    Collection,
    Division,
    Record,
    Rule,
    hash_split,
    index,
    plain_name,
    require,
    skipped,
    walk,
)
from advmia.data.specs import DatasetSpec

CLASSES = ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia")
TEST_FRACTION = 750 / 2750  # in the published lists
SELECTED = 687  # the published lists have the numbers 1 to 687 of each class
EXTRA = ("COVID-688.png", "COVID-689.png")  # and these two


def _published(spec: DatasetSpec, records: list[Record]) -> Division:
    selected = [r for r in records if r.name in EXTRA or int(Path(r.name).stem.rpartition("-")[2]) <= SELECTED]
    return hash_split(selected, TEST_FRACTION)


RULES = {
    "published": Rule(
        _published,
        "derived: the published selection (numbers 1 to 687 of each class, COVID-688 and COVID-689; all other images"
        " are left out), 750 of 2750 as test by the hash of the name; which of them the published lists test on"
        " cannot be derived: --meta takes them",
    )
}


def collect(source: Path) -> Collection:
    """Reads the images below `source` that have a mask of the same name."""
    files = walk(source)
    pattern = rf"({'|'.join(CLASSES)})-\d+\.png"
    images = index((path for path in files if path.parent.name.lower() == "images"), pattern)
    masks = index((path for path in files if path.parent.name.lower() == "masks"), pattern)
    require(images, f"images in {CLASSES[0]}/images to {CLASSES[-1]}/images", source, files)
    require(masks, f"masks in {CLASSES[0]}/masks to {CLASSES[-1]}/masks", source, files)
    paired = sorted((name for name in images if name in masks), key=_class_and_number)
    require(paired, "images and masks of the same name", source, files)
    notes = skipped([images[name].name for name in images if name not in masks], "images without a mask")
    notes += skipped([masks[name].name for name in masks if name not in images], "masks without an image")
    return Collection(
        folder="covidSeg",
        records=[_record(images[name], masks[name]) for name in paired],
        rules=RULES,
        meanings={"xray": "lung masks"},
        notes=[*notes, "masks are converted: one channel, 0 and 255, nearest-neighbour resize to the image's size"],
    )


def _class_and_number(name: str) -> tuple[str, int]:
    kind, number = re.fullmatch(r"(.*)-(\d+)\.png", name).groups()  # type: ignore[union-attr]  # `index` matched it
    return kind, int(number)


def _record(image: Path, mask: Path) -> Record:
    name = plain_name(image.name, str(image))
    pixels = Pixels(functools.partial(binary_mask, mask, image))
    return Record(name, Original(image), {"xray": name}, pixels, kind=name.rpartition("-")[0])


def binary_mask(mask: Path, image: Path) -> np.ndarray:
    """Returns a mask at its image's size: uint8 (H, W), 255 where it is 128 or more, else 0."""
    grey = open_image(mask).convert("L").point(lambda value: 255 if value >= 128 else 0)
    return np.asarray(grey.resize(open_image(image).size, Image.Resampling.NEAREST))
