"""Reads the CSV lists of a data set and checks every row before any work starts."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from advmia.data.markers import data_label
from advmia.data.specs import DatasetSpec, Split
from advmia.errors import UserError

_QUOTED_CHARACTERS = 80  # the most characters of a cell that a message quotes


class ListedSample(NamedTuple):
    """One row of a list, as text."""

    row: int  # number in the CSV, from 1, header and blank rows counted
    image: str  # file name
    entry: str  # label, bits or the mask's file name


@dataclass(frozen=True)
class SampleList:
    """The samples of one list, all checked."""

    spec: DatasetSpec
    path: Path  # the CSV
    folder: Path  # of the data set, below the data root
    row_numbers: tuple[int, ...]  # each sample's row in the CSV, from 1, for messages
    files: tuple[str, ...]  # image names in the spec's image folder
    labels: Tensor  # (N,) int64; multi-label (N, 14) float32 of 0 and 1; segmentation (N, 0): the masks are images
    masks: tuple[str, ...]  # mask names in the spec's mask folder; segmentation only
    classes: int  # K: labels are 0 to K-1
    digest: str  # SHA-256 of the CSV
    label: str  # what the images really are ("phantom", or a stand-in's name); "" for the data set's own

    def __len__(self) -> int:
        return len(self.files)

    @property
    def dataset_name(self) -> str:
        """The data set's name in results. Generated and stand-in images are marked: "melBin[phantom]"."""
        return f"{self.spec.name}[{self.label}]" if self.label else self.spec.name

    def first(self, count: int | None) -> SampleList:
        """Returns a list of the first `count` samples, or this list for None. The number of classes stays."""
        if count is None:
            return self
        return replace(
            self,
            row_numbers=self.row_numbers[:count],
            files=self.files[:count],
            labels=self.labels[:count],
            masks=self.masks[:count],
        )


def read_samples(spec: DatasetSpec, root: Path, split: Split, *, classes: int | None = None) -> SampleList:
    """Reads and checks one list of a data set.

    Args:
        spec: the data set.
        root: the data root.
        split: "train" or "test".
        classes: the number of classes, which every label must be below; None counts the classes of this list.

    Raises `UserError` for a missing list, folder or image, an empty list, a row of the wrong form and a label out of
    range; the message names the row.
    """
    path = spec.list_path(root, split)
    listed = read_list(spec, path)
    files = tuple(sample.image for sample in listed)
    folder = root / spec.folder
    _check_files(path, listed, files, folder / spec.image_folder, "image")
    masks: tuple[str, ...] = ()
    if spec.mask_folder is not None:
        masks = tuple(sample.entry for sample in listed)
        _check_files(path, listed, masks, folder / spec.mask_folder, "mask")
    labels, class_count = _parse_labels(spec, path, listed, classes)
    return SampleList(
        spec=spec,
        path=path,
        folder=folder,
        row_numbers=tuple(sample.row for sample in listed),
        files=files,
        labels=labels,
        masks=masks,
        classes=class_count,
        digest=hashlib.sha256(path.read_bytes()).hexdigest(),
        label=data_label(folder, path.name),
    )


def count_listed_classes(spec: DatasetSpec, root: Path) -> int | None:
    """Returns the number of classes that the spec declares, or else of the training list; None if there is no list."""
    path = spec.list_path(root, "train")
    if spec.classes is not None or not path.exists():
        return spec.classes
    return _parse_labels(spec, path, read_list(spec, path), None)[1]


def count_shared(train: SampleList, test: SampleList) -> int:
    """Counts the images that are in both lists."""
    return len(set(train.files) & set(test.files))


def count_mismatched_masks(samples: SampleList) -> int:
    """Counts the masks whose size in pixels is not that of their image; 0 for a list without masks."""
    image_folder = samples.folder / samples.spec.image_folder
    mask_folder = samples.folder / str(samples.spec.mask_folder)
    return sum(
        _image_size(image_folder / image) != _image_size(mask_folder / mask)
        for image, mask in zip(samples.files, samples.masks, strict=bool(samples.masks))
    )


def _image_size(path: Path) -> tuple[int, int]:
    """Reads width and height from the file's header; (0, 0) for a damaged file, which decoding reports later."""
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return 0, 0


def read_list(spec: DatasetSpec, path: Path) -> list[ListedSample]:
    """Reads a list as text: blank rows are skipped; the header of a multi-label list is checked and dropped.

    Raises `UserError` for a list that is missing, unreadable or empty, and for a row without exactly two columns.
    """
    second = "mask" if spec.mask_folder else "label"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [(number, cells) for number, cells in enumerate(csv.reader(file), start=1) if any(cells)]
    except FileNotFoundError:
        raise UserError(
            f"no list at {path}: make it with `python -m advmia prepare --dataset {spec.download}` from the official"
            f" download, or with `python -m advmia phantoms` for generated images; --dataRoot says where to look"
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read the list {path} ({error}); expected UTF-8 rows `image,{second}`") from error
    if spec.findings:
        rows = _drop_header(spec, path, rows)
    samples = []
    for number, cells in rows:
        if len(cells) != 2 or not cells[0].strip() or not cells[1].strip():
            raise UserError(f"{path} row {number}: expected `image,{second}`, got `{_quoted(','.join(cells))}`")
        samples.append(ListedSample(number, cells[0].strip(), cells[1].strip()))
    if not samples:
        raise UserError(f"{path} is empty: expected rows `image,{second}`")
    return samples


def _drop_header(spec: DatasetSpec, path: Path, rows: list[tuple[int, list[str]]]) -> list[tuple[int, list[str]]]:
    number, cells = rows[0] if rows else (1, [])
    header = tuple(name.strip() for name in cells)
    # Some copies of the list have a first column for the image's name.
    if header[-len(spec.findings) :] != spec.findings:
        expected = ",".join(spec.findings)
        raise UserError(f"{path} row {number}: expected the header {expected}, got `{_quoted(','.join(header))}`")
    return rows[1:]


def _quoted(text: str) -> str:
    """Shortens a text for a message: after a quotation mark that is never closed, a cell holds the rest of the file."""
    text = " ".join(text.split())
    return text if len(text) <= _QUOTED_CHARACTERS else f"{text[:_QUOTED_CHARACTERS]}..."


def _check_files(path: Path, listed: Sequence[ListedSample], names: Sequence[str], folder: Path, kind: str) -> None:
    """Raises `UserError` for a name without a file in `folder`, and for a link whose target is missing.

    Names are looked up in the folder's listing, so that `../` and absolute paths never match.
    """
    try:
        present = {entry.name for entry in os.scandir(os.fsencode(folder)) if entry.is_file()}
    except OSError as error:
        raise UserError(f"no {kind} folder at {folder} ({error.strerror}); {path} lists its files") from error
    missing = [(sample.row, name) for sample, name in zip(listed, names, strict=True) if name.encode() not in present]
    if missing:
        row, name = missing[0]
        more = f" (and {len(missing) - 1} more rows)" if len(missing) > 1 else ""
        remedy = "it is a path, expected a file's name" if "/" in name else "complete the folder or the list"
        raise UserError(f"{path} row {row}: {kind} {_quoted(name)} is not in {folder}{more}; {remedy}")


def _parse_labels(
    spec: DatasetSpec, path: Path, listed: Sequence[ListedSample], classes: int | None
) -> tuple[Tensor, int]:
    """Returns the labels of all samples, as `SampleList` holds them, and the number of classes."""
    if spec.task == "segmentation":
        return torch.empty(len(listed), 0), spec.classes or 2
    _check_repeats(path, listed)
    if spec.task == "multi-label":
        return _parse_bits(spec, path, listed), len(spec.findings)
    labels = [_parse_integer(path, sample) for sample in listed]
    # Without a declared number of classes, the list must hold each of 0 to K-1: a gap means a wrong column or list.
    limit = classes or spec.classes or len(set(labels))
    for sample, label in zip(listed, labels, strict=True):
        if not 0 <= label < limit:
            raise UserError(
                f"{path} row {sample.row}: label {label} is out of range; {spec.name} has {limit} classes here,"
                f" so labels are 0 to {limit - 1}"
            )
    return torch.tensor(labels, dtype=torch.int64), limit


def _check_repeats(path: Path, listed: Sequence[ListedSample]) -> None:
    """Raises `UserError` for an image with two different labels. The published lists repeat images, with one label."""
    first_of: dict[str, ListedSample] = {}
    for sample in listed:
        first = first_of.setdefault(sample.image, sample)
        if first.entry != sample.entry:
            raise UserError(
                f"{path} row {sample.row}: {_quoted(sample.image)} is {_quoted(sample.entry)} here and"
                f" {_quoted(first.entry)} in row {first.row}; keep one of them"
            )


def _parse_integer(path: Path, sample: ListedSample) -> int:
    try:
        return int(sample.entry)
    except ValueError:
        raise UserError(f"{path} row {sample.row}: expected an integer label, got `{_quoted(sample.entry)}`") from None


def _parse_bits(spec: DatasetSpec, path: Path, listed: Sequence[ListedSample]) -> Tensor:
    """Returns the findings (N, 14) float32 of entries such as b01000000000000."""
    width = len(spec.findings)
    for sample in listed:
        bits = sample.entry
        if len(bits) != width + 1 or bits[0] != "b" or set(bits[1:]) - {"0", "1"}:
            raise UserError(f"{path} row {sample.row}: expected the letter b and {width} bits, got `{_quoted(bits)}`")
    findings = np.array([[bit == "1" for bit in sample.entry[1:]] for sample in listed], dtype=np.float32)
    return torch.from_numpy(findings)
