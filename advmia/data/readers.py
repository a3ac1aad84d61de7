"""Reads the CSV lists of a data set and checks every row before any work starts."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from advmia.data.list_rows import ListedSample, quoted, read_list
from advmia.data.markers import data_label
from advmia.data.specs import DatasetSpec, Split
from advmia.data.subsets import describe_subset
from advmia.errors import UserError
from advmia.runtime.garbage import paused_collection


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
    remarks: tuple[str, ...] = ()  # how the list's form differs from the documented one, and yet was read
    share: str = ""  # "subset 100 of 2750", of official images that are fewer than the published lists have

    def __len__(self) -> int:
        return len(self.files)

    @property
    def dataset_name(self) -> str:
        """The data set's name in results, marked for what is no result on the data set: "melBin[phantom, grey noise]".

        Marks are of generated, stand-in and incomplete images, and of grey noise where it is not the usual one.
        """
        marks = [self.label or self.share, "grey noise" if self.spec.noise == "grey" else ""]
        mark = ", ".join(filter(None, marks))
        return f"{self.spec.name}[{mark}]" if mark else self.spec.name

    def subset(self, count: int | None) -> SampleList:
        """Returns a list of `count` samples, in this list's order, or this list for None or if it has no more.

        Of single labels, each class gets an equal share, or all its samples if they are fewer. Within a class, and for
        other tasks in the whole list, the first `count` in the order of the names' SHA-256 are taken. The number of
        classes stays.
        """
        if count is None or count >= len(self):
            return self
        ranked = sorted(range(len(self)), key=lambda index: hashlib.sha256(self.files[index].encode()).digest())
        if self.spec.task == "single-label":  # in rounds: the first of each class, the second of each class, ...
            seen: Counter[int] = Counter()
            rounds = {}
            for index in ranked:
                label = int(self.labels[index])
                rounds[index] = seen[label]
                seen[label] += 1
            ranked.sort(key=rounds.__getitem__)
        chosen = sorted(ranked[:count])
        return replace(
            self,
            row_numbers=tuple(self.row_numbers[index] for index in chosen),
            files=tuple(self.files[index] for index in chosen),
            labels=self.labels[torch.tensor(chosen)],
            masks=tuple(self.masks[index] for index in chosen) if self.masks else (),
        )

    def class_counts(self) -> list[int]:
        """Returns the number of samples of each class; [] for a task without single labels."""
        if self.spec.task != "single-label":
            return []
        return torch.bincount(self.labels, minlength=self.classes).tolist()


@paused_collection()
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
    listed, remarks = read_list(spec, path)
    folder = root / spec.folder
    files, file_remarks = _matched_files(path, listed, folder / spec.image_folder, "image")
    masks: tuple[str, ...] = ()
    mask_remarks: list[str] = []
    if spec.mask_folder is not None:
        masks, mask_remarks = _matched_files(path, listed, folder / spec.mask_folder, "mask")
    if any(file != sample.image for file, sample in zip(files, listed, strict=True)):
        listed = [sample._replace(image=file) for file, sample in zip(files, listed, strict=True)]
    labels, class_count, label_remarks = _parse_labels(spec, path, listed, classes)
    if spec.source and spec.task == "single-label" and split == "train":
        _check_every_class(spec, path, labels, class_count)
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
        remarks=(*remarks, *file_remarks, *mask_remarks, *label_remarks),
        share=describe_subset(spec, root, split, len(listed)),
    )


def count_listed_classes(spec: DatasetSpec, root: Path) -> int | None:
    """Returns the number of classes that the spec declares, or else of the training list; None if there is no list."""
    path = spec.list_path(root, "train")
    if spec.classes is not None or not path.exists():
        return spec.classes
    return _parse_labels(spec, path, read_list(spec, path)[0], None)[1]


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


def _matched_files(
    path: Path, listed: Sequence[ListedSample], folder: Path, kind: Literal["image", "mask"]
) -> tuple[tuple[str, ...], list[str]]:
    """Returns the names of the listed files as they are in `folder`, and remarks about differing names.

    A name may have the image folder before it, Windows' separators, or its letters in another Unicode form, as macOS
    writes them. Names are looked up in the folder's listing, so that `../` and absolute paths never match. Raises
    `UserError` for a name without a file, and for a link whose target is missing.
    """
    try:
        entries = {entry.name.decode("utf-8", "surrogateescape"): entry for entry in os.scandir(os.fsencode(folder))}
    except OSError as error:
        raise UserError(f"no {kind} folder at {folder} ({error.strerror}); {path} lists its files") from error
    names = [sample.image if kind == "image" else sample.entry for sample in listed]
    if all(name in entries and entries[name].is_file() for name in set(names)):  # asking costs most of the time
        return tuple(names), []
    present = {name for name, entry in entries.items() if entry.is_file()}
    composed = {unicodedata.normalize("NFC", name): name for name in present}
    matched, in_folder, in_form, missing = [], 0, 0, []
    for sample, name in zip(listed, names, strict=True):
        plain = name if name in present else _without_folder(name, folder)
        match = plain if plain in present else composed.get(unicodedata.normalize("NFC", plain))
        if match is None:
            missing.append((sample.row, name))
            continue
        in_folder += plain != name
        in_form += match != plain
        matched.append(match)
    if missing:
        row, name = missing[0]
        more = f" (and {len(missing) - 1} more rows)" if len(missing) > 1 else ""
        remedy = "complete the folder or the list"
        if "/" in name or "\\" in name:
            remedy = "it is a path, expected a file's name"
        elif not name.isascii():
            remedy += "; if the file is there, save the list in UTF-8"
        raise UserError(f"{path} row {row}: {kind} {quoted(name)} is not in {folder}{more}; {remedy}")
    remarks = [f"{in_folder} {kind} names have their folder before them"] if in_folder else []
    remarks += [f"{in_form} {kind} names have another Unicode form than their files"] if in_form else []
    return tuple(matched), remarks


def _without_folder(name: str, folder: Path) -> str:
    """Returns the name without `./` and without the folders that `folder` ends with: img/a.png, mel2017/img/a.png."""
    parts = [part for part in name.replace("\\", "/").split("/") if part != "."]
    above = parts[:-1]
    return parts[-1] if parts and above == list(folder.parts[len(folder.parts) - len(above) :]) else name


def _parse_labels(
    spec: DatasetSpec, path: Path, listed: Sequence[ListedSample], classes: int | None
) -> tuple[Tensor, int, list[str]]:
    """Returns the labels of all samples, as `SampleList` holds them, the number of classes, and remarks."""
    if spec.task == "segmentation":
        return torch.empty(len(listed), 0), spec.classes or 2, []
    if spec.task == "multi-label":
        _check_repeats(path, listed, [sample.entry for sample in listed])
        return _parse_bits(spec, path, listed), len(spec.findings), []
    numbers = {name: label for label, name in enumerate(spec.class_names)}  # and by their spelling, as it comes up
    for sample in listed:
        if sample.entry not in numbers:
            numbers[sample.entry] = _parse_label(spec, path, sample)
    labels = [numbers[sample.entry] for sample in listed]
    _check_repeats(path, listed, labels)
    decimal = {entry for entry in numbers.keys() - set(spec.class_names) if not entry.lstrip("+-").isdecimal()}
    fractions = sum(sample.entry in decimal for sample in listed)
    remarks = [f"{fractions} labels are written with a decimal point"] if fractions else []
    # Without a declared number of classes, the list must hold each of 0 to K-1: a gap means a wrong column or list.
    limit = classes or spec.classes or len(set(labels))
    for sample, label in zip(listed, labels, strict=True):
        if not 0 <= label < limit:
            raise UserError(
                f"{path} row {sample.row}: label {label} is out of range; {spec.name} has {limit} classes here,"
                f" so labels are 0 to {limit - 1}"
            )
    return torch.tensor(labels, dtype=torch.int64), limit, remarks


def _check_every_class(spec: DatasetSpec, path: Path, labels: Tensor, classes: int) -> None:
    """Raises `UserError` if a class of a user's data set has no training image."""
    missing = [spec.class_name(label) for label in range(classes) if not (labels == label).any()]
    if missing and spec.source:
        raise UserError(f"{spec.source.at('classes')}: classes: {path} has no image of {', '.join(missing)}")


def _check_repeats(path: Path, listed: Sequence[ListedSample], labels: Sequence[int | str]) -> None:
    """Raises `UserError` for an image with two different labels. The published lists repeat images, with one label."""
    first_of: dict[str, tuple[ListedSample, int | str]] = {}
    for sample, label in zip(listed, labels, strict=True):
        first, first_label = first_of.setdefault(sample.image, (sample, label))
        if first_label != label:
            raise UserError(
                f"{path} row {sample.row}: {quoted(sample.image)} is {quoted(sample.entry)} here and"
                f" {quoted(first.entry)} in row {first.row}; keep one of them"
            )


def _parse_label(spec: DatasetSpec, path: Path, sample: ListedSample) -> int:
    """Returns a label that is a number; spreadsheets may hold it as 1.0, or 1,0."""
    match = re.fullmatch(r"([+-]?\d+)([.,]0*)?", sample.entry)
    if match is None:
        expected = f"one of {', '.join(spec.class_names)}" if spec.class_names else "an integer label"
        raise UserError(f"{path} row {sample.row}: expected {expected}, got `{quoted(sample.entry)}`")
    return int(match[1])


def _parse_bits(spec: DatasetSpec, path: Path, listed: Sequence[ListedSample]) -> Tensor:
    """Returns the findings (N, 14) float32 of entries such as b01000000000000."""
    width = len(spec.findings)
    for sample in listed:
        bits = sample.entry
        if len(bits) != width + 1 or bits[0] != "b" or set(bits[1:]) - {"0", "1"}:
            raise UserError(f"{path} row {sample.row}: expected the letter b and {width} bits, got `{quoted(bits)}`")
    findings = np.array([[bit == "1" for bit in sample.entry[1:]] for sample in listed], dtype=np.float32)
    return torch.from_numpy(findings)
