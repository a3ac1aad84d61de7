"""From a CSV list to checked samples: every row is looked at before any work starts."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from advmia.data.markers import data_label
from advmia.data.specs import DatasetSpec, Split
from advmia.errors import UserError

Row = tuple[int, str, str]  # line number in the file (from 1), image, label or mask


@dataclass(frozen=True)
class SampleList:
    """The checked rows of one list."""

    spec: DatasetSpec
    path: Path  # the CSV
    folder: Path  # of the data set, below the data root
    rows: tuple[int, ...]  # line number of each sample in the CSV
    files: tuple[str, ...]  # image names in the spec's image folder
    labels: Tensor  # (N,) int64; multi-label (N, 14) float32 of 0 and 1; segmentation (N, 0): the masks are images
    masks: tuple[str, ...]  # mask names in the spec's mask folder; segmentation only
    classes: int  # K: labels are 0 to K-1
    digest: str  # SHA-256 of the CSV
    label: str  # what the images really are ("phantom", a stand-in's name); "" for the data set's own

    def __len__(self) -> int:
        return len(self.files)

    @property
    def dataset_name(self) -> str:
        """The data set's name as results spell it: generated and stand-in images are told from the real."""
        return f"{self.spec.name}[{self.label}]" if self.label else self.spec.name

    def first(self, count: int | None) -> SampleList:
        """The first `count` rows; all of them for None."""
        if count is None:
            return self
        return replace(
            self,
            rows=self.rows[:count],
            files=self.files[:count],
            labels=self.labels[:count],
            masks=self.masks[:count],
        )


def read_samples(spec: DatasetSpec, root: Path, split: Split, *, classes: int | None = None) -> SampleList:
    """Reads and checks one list of a data set.

    `classes`: the number of classes that labels must stay below; None takes it from this list. Raises `UserError` for
    a missing list, folder or image, an empty list, a row of the wrong form and a label out of range, naming the row.
    """
    path = spec.list_path(root, split)
    rows = read_rows(spec, path)
    files = tuple(image for _, image, _ in rows)
    folder = root / spec.folder
    _check_files(path, rows, files, folder / spec.image_folder, "image")
    masks: tuple[str, ...] = ()
    if spec.mask_folder is not None:
        masks = tuple(mask for _, _, mask in rows)
        _check_files(path, rows, masks, folder / spec.mask_folder, "mask")
    labels, found = _parse_labels(spec, path, rows, classes)
    return SampleList(
        spec=spec,
        path=path,
        folder=folder,
        rows=tuple(line for line, _, _ in rows),
        files=files,
        labels=labels,
        masks=masks,
        classes=found,
        digest=hashlib.sha256(path.read_bytes()).hexdigest(),
        label=data_label(folder, path.name),
    )


def count_classes(spec: DatasetSpec, root: Path) -> int | None:
    """The number of classes in the training list; None where there is no training list."""
    path = spec.list_path(root, "train")
    if spec.classes is not None or not path.exists():
        return spec.classes
    return _parse_labels(spec, path, read_rows(spec, path), None)[1]


def count_shared(train: SampleList, test: SampleList) -> int:
    """How many images are in both lists."""
    return len(set(train.files) & set(test.files))


def count_odd_masks(samples: SampleList) -> int:
    """Segmentation: how many masks have another size in pixels than their image."""
    folders = (samples.folder / samples.spec.image_folder, samples.folder / str(samples.spec.mask_folder))
    return sum(
        _image_size(folders[0] / image) != _image_size(folders[1] / mask)
        for image, mask in zip(samples.files, samples.masks, strict=bool(samples.masks))
    )


def _image_size(path: Path) -> tuple[int, int]:
    """Width and height from the file's header; (0, 0) for no image: decoding names it, with its row."""
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return 0, 0


def read_rows(spec: DatasetSpec, path: Path) -> list[Row]:
    """The rows of a list, header (multi-label) checked and dropped, blank lines skipped."""
    second = "mask" if spec.mask_folder else "label"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = [(number, row) for number, row in enumerate(csv.reader(file), start=1) if any(row)]
    except FileNotFoundError:
        raise UserError(
            f"no list at {path}: make it with `python -m advmia prepare --dataset {spec.download}` from the official"
            f" download, or with `python -m advmia phantoms` for generated images; --dataRoot says where to look"
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read the list {path} ({error}); expected UTF-8 rows `image,{second}`") from error
    if spec.findings:
        lines = _drop_header(spec, path, lines)
    rows = []
    for number, row in lines:
        if len(row) != 2 or not row[0].strip() or not row[1].strip():
            raise UserError(f"{path} row {number}: expected `image,{second}`, got `{_shown(','.join(row))}`")
        rows.append((number, row[0].strip(), row[1].strip()))
    if not rows:
        raise UserError(f"{path} is empty: expected rows `image,{second}`")
    return rows


def _drop_header(spec: DatasetSpec, path: Path, lines: list[tuple[int, list[str]]]) -> list[tuple[int, list[str]]]:
    number, row = lines[0] if lines else (1, [])
    header = tuple(name.strip() for name in row)
    # Some copies of the list have a first column for the image's name.
    if header[-len(spec.findings) :] != spec.findings:
        expected = ",".join(spec.findings)
        raise UserError(f"{path} row {number}: expected the header {expected}, got `{_shown(','.join(header))}`")
    return lines[1:]


def _shown(text: str) -> str:
    """What a message repeats of a row: after a quote that is never closed, a row is the whole rest of the file."""
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:80]}..."


def _check_files(path: Path, rows: Sequence[Row], names: Sequence[str], folder: Path, kind: str) -> None:
    """Each name is a file in `folder`, and no link to nowhere. Looking in its listing keeps `../` and `/` out."""
    try:
        present = {entry.name for entry in os.scandir(os.fsencode(folder)) if entry.is_file()}
    except OSError as error:
        raise UserError(f"no {kind} folder at {folder} ({error.strerror}); {path} lists its files") from error
    missing = [(row[0], name) for row, name in zip(rows, names, strict=True) if name.encode() not in present]
    if missing:
        line, name = missing[0]
        more = f" (and {len(missing) - 1} more rows)" if len(missing) > 1 else ""
        remedy = "it is a path, expected a file's name" if "/" in name else "complete the folder or the list"
        raise UserError(f"{path} row {line}: {kind} {_shown(name)} is not in {folder}{more}; {remedy}")


def _parse_labels(spec: DatasetSpec, path: Path, rows: Sequence[Row], classes: int | None) -> tuple[Tensor, int]:
    """Labels of all rows, and the number of classes."""
    if spec.task == "segmentation":
        return torch.empty(len(rows), 0), spec.classes or 2
    _check_repeats(path, rows)
    if spec.task == "multi-label":
        return _parse_bits(spec, path, rows), len(spec.findings)
    labels = [_parse_integer(path, line, text) for line, _, text in rows]
    # Without a declared number of classes, the list must hold each of 0 to K-1: a gap means a wrong column or list.
    limit = classes or spec.classes or len(set(labels))
    for (line, _, _), value in zip(rows, labels, strict=True):
        if not 0 <= value < limit:
            raise UserError(
                f"{path} row {line}: label {value} is out of range; {spec.name} has {limit} classes here,"
                f" so labels are 0 to {limit - 1}"
            )
    return torch.tensor(labels, dtype=torch.int64), limit


def _check_repeats(path: Path, rows: Sequence[Row]) -> None:
    """An image may be in several rows, as in the published lists, but not with several labels."""
    known: dict[str, Row] = {}
    for row in rows:
        first = known.setdefault(row[1], row)
        if first[2] != row[2]:
            raise UserError(
                f"{path} row {row[0]}: {_shown(row[1])} is {_shown(row[2])} here and {_shown(first[2])} in row"
                f" {first[0]}; keep one of them"
            )


def _parse_integer(path: Path, line: int, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{path} row {line}: expected an integer label, got `{_shown(text)}`") from None


def _parse_bits(spec: DatasetSpec, path: Path, rows: Sequence[Row]) -> Tensor:
    width = len(spec.findings)
    for line, _, text in rows:
        if len(text) != width + 1 or text[0] != "b" or set(text[1:]) - {"0", "1"}:
            raise UserError(f"{path} row {line}: expected the letter b and {width} bits, got `{_shown(text)}`")
    bits = np.array([[bit == "1" for bit in text[1:]] for _, _, text in rows], dtype=np.float32)
    return torch.from_numpy(bits)
