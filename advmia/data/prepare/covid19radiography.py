"""Reads the COVID-19 Radiography Database: chest radiographs (PNG) with lung masks, in four classes."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from advmia.data.masks import MaskEncoding, read_mask
from advmia.data.prepare.contents import Original, Pixels, open_image
from advmia.data.prepare.records import Collection, Division, Record, Rule, hash_split
from advmia.data.prepare.sources import check_same, kinds_of, packed_files, require, skipped, walk
from advmia.data.specs import DatasetSpec
from advmia.errors import UserError

# Each class with the spellings of its name that copies of the download have. In COVID-191 the 19 begins the number.
CLASSES = {
    "COVID": r"covid(?:[ _-]?19(?=[ _(-]))?",
    "Lung_Opacity": r"lung[ _-]?opacity",
    "Normal": r"normal",
    "Viral Pneumonia": r"viral[ _-]?pneumonia",
}
TEST_FRACTION = 750 / 2750  # in the published lists
SELECTED = 687  # the published lists have the numbers 1 to 687 of each class
EXTRA = (("COVID", 688), ("COVID", 689))  # and these two

_IMAGE = r"(?P<name>{name})[ _-]?\(?(?P<number>\d+)\)?\.png"
_MASK = r"(?:mask[ _-])?(?P<name>{name})[ _-]?\(?(?P<number>\d+)\)?(?:[ _-]?mask)?\.(?:png|jpe?g)"
Key = tuple[str, int]  # class and number: what identifies an image


def _is_published(record: Record) -> bool:
    number = int(record.name.removesuffix(".png").rpartition("-")[2])
    return number <= SELECTED or (record.kind, number) in EXTRA


def _published(spec: DatasetSpec, records: list[Record]) -> Division:
    return hash_split([record for record in records if _is_published(record)], TEST_FRACTION)


RULES = {
    "published": Rule(
        _published,
        "derived: the published selection (numbers 1 to 687 of each class, COVID-688 and COVID-689; all other images"
        " are left out), 750 of 2750 as test by the hash of the name; which of them the published lists test on"
        " cannot be derived: --meta takes them",
    )
}


def collect(source: Path) -> Collection:
    """Reads the images below `source` that have a mask of the same class and number."""
    files = walk(source)
    pictures = [path for path in files if path.suffix.lower() in (".png", ".jpg", ".jpeg")]
    are_masks = {path: path.parent.name.lower() in ("masks", "mask") for path in pictures}
    in_image_folders = [path for path in pictures if path.parent.name.lower() in ("images", "image")]
    images, odd_images = _by_class(in_image_folders, _IMAGE)
    masks, odd_masks = _by_class([path for path, is_mask in are_masks.items() if is_mask], _MASK)
    _check_version(source, pictures, images, masks)
    require(images, f"images in {_folders('images')}", source, files)
    require(masks, f"masks in {_folders('masks')}", source, files)
    paired = sorted(key for key in images if key in masks)
    require(paired, "images and masks of the same name", source, files)
    notes = _respelled(images)
    notes += skipped([images[key].name for key in images if key not in masks], "images without a mask")
    notes += skipped([masks[key].name for key in masks if key not in images], "masks without an image")
    notes += skipped([str(path.relative_to(source)) for path in odd_images], "images of no class by name, or no PNG")
    notes += skipped([str(path.relative_to(source)) for path in odd_masks], "masks of no class by name")
    present = {kind for kind, _ in paired}
    return Collection(
        folder="covidSeg",
        records=[_record(key, images[key], masks[key]) for key in paired],
        rules=RULES,
        meanings={"xray": "lung masks"},
        notes=[*notes, "masks are converted: one channel, 0 and 255, nearest-neighbour resize to the image's size"],
        missing=tuple(f"the class {kind}" for kind in CLASSES if kind not in present),
        unread=kinds_of(odd_images + odd_masks),
        packed=tuple(path.name for path in packed_files(files)) if len(present) < len(CLASSES) else (),
        test_fraction=TEST_FRACTION,
    )


def _folders(name: str) -> str:
    kinds = list(CLASSES)
    return f"{kinds[0]}/{name} to {kinds[-1]}/{name}"


def _by_class(paths: Iterable[Path], pattern: str) -> tuple[dict[Key, Path], list[Path]]:
    """Returns the files by class and number, whatever the spelling of the class, and the files of no class.

    Identical files of one class and number count once. Raises `UserError` for different ones.
    """
    expressions = {kind: re.compile(pattern.format(name=name), re.IGNORECASE) for kind, name in CLASSES.items()}
    files: dict[Key, Path] = {}
    others = []
    for path in paths:
        for kind, expression in expressions.items():
            if match := expression.fullmatch(path.name):
                check_same(files.setdefault((kind, int(match["number"])), path), path)
                break
        else:
            others.append(path)
    return files, others


def _check_version(source: Path, pictures: list[Path], images: dict[Key, Path], masks: dict[Key, Path]) -> None:
    """Raises `UserError` for the database's older versions, which have no masks: images lie in the classes' folders."""
    if masks or any(path.parent.name.lower() in ("masks", "mask") for path in pictures):
        return
    known = images or _by_class(pictures, _IMAGE)[0]
    if known:
        raise UserError(
            f"{source} holds {len(known)} images of the COVID-19 Radiography Database, but no masks: this is an older"
            " version, without lung masks; download the current one (its folders are COVID/images, COVID/masks, ...)"
        )


def _respelled(images: dict[Key, Path]) -> list[str]:
    """Returns a report line about files whose class is spelt differently from the official name, or no line."""
    odd = [path.name for key, path in images.items() if path.name != _official_name(key)]
    if not odd:
        return []
    return [f"{len(odd)} images have another spelling of the class, and get the official one (e.g. {odd[0]})"]


def _official_name(key: Key) -> str:
    return f"{key[0]}-{key[1]}.png"


def _record(key: Key, image: Path, mask: Path) -> Record:
    name = _official_name(key)
    converted = Pixels(functools.partial(binary_mask, mask, image), form=lambda: str(_read_mask(mask)[1]))
    return Record(name, Original(image), {"xray": name}, converted, kind=key[0])


def binary_mask(mask: Path, image: Path) -> np.ndarray:
    """Returns a mask at its image's size: uint8 (H, W), 255 where `read_mask` finds foreground, else 0."""
    foreground = _read_mask(mask)[0] * np.uint8(255)
    return np.asarray(Image.fromarray(foreground).resize(open_image(image).size, Image.Resampling.NEAREST))


def _read_mask(path: Path) -> tuple[np.ndarray, MaskEncoding]:
    """Returns what `read_mask` returns. Raises `UserError` for a mask that cannot be read."""
    try:
        return read_mask(path)
    except Exception as error:  # Pillow raises a dozen kinds of exceptions for damaged files
        reason = str(error).partition(": --")[0]  # without a flag that `prepare` has not
        raise UserError(
            f"{path} is not a readable mask ({reason}): unpack it again, or convert it to 0 and 255"
        ) from error
