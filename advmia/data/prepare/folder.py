"""Reads a user's own images: a folder for each class, or a table of files with their labels, findings or masks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from advmia.data.decode import decoded
from advmia.data.prepare.contents import Original
from advmia.data.prepare.records import Record
from advmia.data.prepare.sources import Row, columns, file_key, heading, read_rows, require, skipped, walk
from advmia.errors import UserError
from advmia.targets import TaskName

_FILE = ("file", "image", "filename", "file name", "path")  # names of columns
_ENTRIES: dict[str, TaskName] = {"label": "single-label", "labels": "multi-label", "mask": "segmentation"}
_PATIENT = ("patient", "patient_id", "patient id")
_PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_NO_FINDING = ("", "none", "no finding")
_MOST_VALUES = 64  # of masks that are maps of classes


@dataclass(frozen=True)
class OwnImages:
    """The images of a user, and what they show."""

    task: TaskName
    records: list[Record]  # each with its label's number, its bits or its mask's file name as the entry `name`
    names: tuple[str, ...]  # of the classes or findings; () for masks of foreground and background without names
    notes: list[str]  # for the report
    mask_values: tuple[int, ...] = ()  # of each class, for masks of more than two


def read_images(source: Path, name: str, labels: Path | None, classes: Sequence[str] | None) -> OwnImages:
    """Reads the images below `source`.

    Args:
        source: a folder with a folder for each class, or any folder if there is a table.
        name: of the data set.
        labels: the table, with a column for the file, one named label, labels or mask, and, if they are known, patient
            and split.
        classes: names of the classes or findings, in the order of their numbers; None: those that occur, sorted.

    Raises `UserError` for a file, a class or a row that cannot be used.
    """
    files = walk(source)
    readable = set(Image.registered_extensions())
    images = [path for path in files if path.suffix.lower() in readable]
    require(images, "images", source, files)
    if labels is None:
        return _by_folder(source, name, images, classes)
    rows, remarks = read_rows(labels)
    found = _by_table(labels, name, rows, images, classes)
    return replace(found, notes=[*remarks, *found.notes])


def _by_folder(source: Path, name: str, images: Sequence[Path], classes: Sequence[str] | None) -> OwnImages:
    """Takes the first folder below the source as an image's class."""
    of_class: dict[str, list[Path]] = {}
    outside = []
    for path in images:
        first, *rest = path.relative_to(source).parts
        if rest:
            of_class.setdefault(first, []).append(path)
        else:
            outside.append(path.name)
    names = tuple(classes or sorted(of_class, key=_natural))
    unknown = [folder for folder in of_class if folder not in names]
    empty = [folder for folder in names if folder not in of_class]
    if empty:
        raise UserError(f"{source} has no images in a folder {empty[0]}: it has {', '.join(of_class) or 'no folders'}")
    if len(names) < 2:
        raise UserError(
            f"{source} has one class only, {', '.join(names)}: expected a folder for each class, or --labels"
        )
    is_unique = len({file_key(path.name) for path in images}) == len(images)
    records = [
        Record(path.name if is_unique else f"{folder}_{path.name}", Original(path), {name: str(label)})
        for label, folder in enumerate(names)
        for path in of_class[folder]
    ]
    notes = skipped(outside, "images in no folder of a class") + skipped(
        unknown, "folders that --classes does not name"
    )
    return OwnImages("single-label", _checked(records, source), names, notes)


def _by_table(
    path: Path, name: str, rows: Sequence[Row], images: Sequence[Path], classes: Sequence[str] | None
) -> OwnImages:
    """Takes what a table says of its files."""
    header = [heading(cell) for cell in rows[0][1]] if rows else []
    file = next((column for column in _FILE if column in header), _FILE[0])
    entry = next((column for column in _ENTRIES if column in header), None)
    if entry is None:
        raise UserError(
            f"{path} row 1: expected a column label (a class), labels (findings joined by |) or mask (a file), got the"
            f" columns {', '.join(header) or '(none)'}"
        )
    further = [next((column for column in names if column in header), "") for names in (_PATIENT, ("split",))]
    table = columns(path, rows, [column for column in (file, entry, *further) if column])
    by_name = _by_name(images)
    records, entries = [], []
    for where, (image, text, *rest) in table:
        values = dict(zip([column for column in further if column], rest, strict=True))
        part = values.get("split", "").lower()
        if part and part not in _PARTS:
            raise UserError(f"{where}: split: expected train, val or test, got {part!r}")
        its_file, group = _found(image, by_name, where), values.get(further[0], "")
        records.append(Record(its_file.name, Original(its_file), {}, group=group, part=_PARTS.get(part, "")))
        entries.append((where, text))
    named = {file_key(record.name) for record in records}
    unlisted = [image.name for image in images if file_key(image.name) not in named]
    task = _ENTRIES[entry]
    if task == "segmentation":
        found = _with_masks(name, records, entries, by_name, classes)
        masks = {file_key(record.mask.path.name) for record in found.records if isinstance(record.mask, Original)}
        unlisted = [image for image in unlisted if file_key(image) not in masks]
    else:
        make = _with_labels if task == "single-label" else _with_findings
        found = make(name, records, entries, classes)
    _checked(found.records, path)
    return replace(found, notes=[*found.notes, *skipped(unlisted, f"images that {path.name} does not name")])


def _with_labels(
    name: str, records: list[Record], entries: list[tuple[str, str]], classes: Sequence[str] | None
) -> OwnImages:
    names = tuple(classes or sorted({text for _, text in entries}, key=_natural))
    for where, text in entries:
        if text not in names:
            raise UserError(f"{where}: expected a label of {', '.join(names)}, got {text!r}")
    if len(names) < 2:
        raise UserError(
            f"all labels of {len(entries)} rows are {', '.join(names) or 'missing'}: expected two classes or more"
        )
    labelled = [
        replace(record, entries={name: str(names.index(text))})
        for record, (_, text) in zip(records, entries, strict=True)
    ]
    return OwnImages("single-label", labelled, names, [])


def _with_findings(
    name: str, records: list[Record], entries: list[tuple[str, str]], classes: Sequence[str] | None
) -> OwnImages:
    found = [{part.strip() for part in re.split(r"[|;]", text)} for _, text in entries]
    found = [{finding for finding in its if finding.lower() not in _NO_FINDING} for its in found]
    names = tuple(classes or sorted(set().union(*found), key=_natural))
    for (where, _), its in zip(entries, found, strict=True):
        unknown = its - set(names)
        if unknown:
            raise UserError(f"{where}: expected findings of {', '.join(names)}, got {min(unknown)!r}")
    bits = ["b" + "".join(str(int(finding in its)) for finding in names) for its in found]
    labelled = [replace(record, entries={name: its}) for record, its in zip(records, bits, strict=True)]
    return OwnImages("multi-label", labelled, names, [])


def _with_masks(
    name: str,
    records: list[Record],
    entries: list[tuple[str, str]],
    by_name: dict[str, Path],
    classes: Sequence[str] | None,
) -> OwnImages:
    masked, values = [], set()
    for record, (where, text) in zip(records, entries, strict=True):
        mask = _found(text, by_name, where)
        values |= _values_of(mask)
        entry = f"{record.name}.mask{mask.suffix.lower()}"
        masked.append(replace(record, entries={name: entry}, mask=Original(mask)))
    if classes is None or len(classes) == 2:
        return OwnImages("segmentation", masked, tuple(classes or ()), [])
    found = sorted(values)
    if len(found) != len(classes):
        shown = ", ".join(map(str, found[:8])) + (", ..." if len(found) > 8 else "")
        raise UserError(
            f"the masks have {len(found)} values ({shown}), but --classes names {len(classes)}: name a class for each,"
            " in their order"
        )
    return OwnImages("segmentation", masked, tuple(classes), [], tuple(found))


def _values_of(path: Path) -> set[int]:
    """Returns the grey levels or palette indices of a mask, at most `_MOST_VALUES`."""
    try:
        with decoded(path) as (image, _):
            pixels = np.asarray(
                image if image.mode in ("P", "L", "1") or image.mode.startswith("I") else image.convert("L")
            )
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"cannot read the mask {path} ({error}): save it again, as PNG") from error
    return set(np.unique(pixels).astype(int).tolist()[:_MOST_VALUES])


def _by_name(images: Sequence[Path]) -> dict[str, Path]:
    """Returns the images by the end of their path: `a.png`, `photos/a.png`; without ends that several have."""
    found: dict[str, Path] = {}
    several = set()
    for path in images:
        for depth in range(1, len(path.parts) + 1):
            key = file_key("/".join(path.parts[-depth:]))
            if key in found:
                several.add(key)
            found[key] = path
    return {key: path for key, path in found.items() if key not in several}


def _found(text: str, by_name: dict[str, Path], where: str) -> Path:
    key = file_key(text.replace("\\", "/").removeprefix("./"))
    if key not in by_name:
        raise UserError(f"{where}: {text!r} is no image below --source, or several have this name: write its path")
    return by_name[key]


def _checked(records: list[Record], where: Path) -> list[Record]:
    """Returns the records. Raises `UserError` if two have one name, or if a name breaks a CSV list."""
    seen: dict[str, Record] = {}
    for record in records:
        if set(record.name) & set(',"\n\r'):
            raise UserError(f"{where}: rename the image {record.name!r}: lists cannot have commas and quotes in names")
        first = seen.setdefault(file_key(record.name), record)
        if first is not record:
            raise UserError(f"{where}: two images are named {record.name}: rename one of them, or leave it out")
    return records


def _natural(text: str) -> list[tuple[int, str]]:
    """The key by which names are sorted: 2 before 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part.lower()) for part in re.split(r"(\d+)", text) if part]
