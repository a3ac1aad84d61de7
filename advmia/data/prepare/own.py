"""`python -m advmia prepare --dataset folder`: turns a user's own images into the layout, with their declaration."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from advmia.data.datasets import DATASETS
from advmia.data.declarations import FILE_NAME, parse_declaration, read_declaration
from advmia.data.prepare.division import PARTS, as_given, connected, describe_duplicates, divide, pixel_digests
from advmia.data.prepare.folder import OwnImages, read_images
from advmia.data.prepare.layout import write_layout
from advmia.data.prepare.lists import ImageList
from advmia.data.prepare.records import Record
from advmia.data.specs import DatasetSpec
from advmia.errors import UserError
from advmia.runtime.files import write_text
from advmia.runtime.garbage import paused_collection

OWN = "folder"  # what --dataset takes for images of the user's own
_COMPARED = ("task", "classes", "class_names", "findings", "mask_values", "train_list", "test_list", "val_list")


@dataclass(frozen=True)
class OwnOptions:
    """What a user may choose for `prepare_own`."""

    labels: Path | None = None  # the table of labels; None: a folder for each class
    classes: Sequence[str] | None = None  # names of the classes or findings, in the order of their numbers
    val_fraction: float = 0.0
    test_fraction: float = 0.2
    size: int = 224  # pixels a side, for the declaration
    link: bool = False  # makes symbolic links to the images instead of copies


@paused_collection()
def prepare_own(name: str, source: Path, data_root: Path, options: OwnOptions) -> list[str]:
    """Turns a user's images into `<data_root>/<name>`, with its lists and its declaration `dataset.toml`.

    Returns: the lines of the report. Raises `UserError` for bad input, for files that exist and differ, and for a name
    that a data set of the survey has.
    """
    folder = data_root / name
    taken = {word.lower() for spec in DATASETS.values() for word in (spec.name, spec.folder, *spec.aliases)}
    if name.lower() in taken:
        raise UserError(f"--name {name}: a data set of the survey is named so, or its folder: choose another name")
    if data_root.resolve().is_relative_to(source.resolve()):
        raise UserError(f"--dataRoot {data_root} lies inside --source {source}: choose a data root outside it")
    images = read_images(source, name, options.labels, options.classes)
    digests = pixel_digests(images.records)
    parts, how = _parts(images, connected(images.records, digests), name, options)
    text = _declaration(images, options.size, has_val=bool(parts["val"]))
    spec = _declared(folder / FILE_NAME, text)
    rows = {part: [(record, record.entries[name]) for record in its] for part, its in parts.items() if its}
    lists = [ImageList(spec, "train", rows["train"], "derived"), ImageList(spec, "test", rows["test"], "derived")]
    if "val" in rows:
        lists.insert(1, ImageList(replace(spec, test_list=spec.val_list or ""), "test", rows["val"], "derived"))
    facts = {"label": "", "download": "folder", "split": how, "published": None}
    folder.mkdir(parents=True, exist_ok=True)
    _, written = write_layout(
        folder,
        lists,
        {its.name: facts | {"rows": len(its.rows), "counts": its.counts()} for its in lists},
        source=source,
        link=options.link,
    )
    if not (folder / FILE_NAME).exists():
        write_text(folder / FILE_NAME, text)
    lines = [f"{source} -> {folder}", f"{spec.task}, {how}", *images.notes]
    lines += [_described(its, spec, images.names) for its in lists]
    lines += [*_leakage(images.records, parts), *describe_duplicates(images.records, digests, name), written]
    return [*lines, f"{folder / FILE_NAME} declares it: size, augmentation and normalisation can be changed there"]


def _parts(
    images: OwnImages, joined: Sequence[Record], name: str, options: OwnOptions
) -> tuple[dict[str, list[Record]], str]:
    """Returns the images of each part, and how they were divided."""
    original = {record.name: record for record in images.records}
    if any(record.part for record in images.records):
        parts, how = as_given(images.records), "divided as the table says"
    else:
        is_single = images.task == "single-label"
        strata = [record.entries[name] if is_single else "" for record in images.records]
        parts = divide(joined, strata, {"val": options.val_fraction, "test": options.test_fraction})
        parts = {part: [original[record.name] for record in its] for part, its in parts.items()}
        unit = "patients" if any(record.group for record in images.records) else "images"
        how = f"divided by the hash of the names of {unit}{', class by class' if is_single else ''}"
    for part in ("train", "test"):
        if not parts[part]:
            raise UserError(f"no image is left for the {part} list: take more images, or change the fractions")
    return parts, how


def _declaration(images: OwnImages, size: int, *, has_val: bool) -> str:
    """Returns the text of the declaration."""
    keys: dict[str, Any] = {"task": images.task, "train": "train.csv"}
    keys |= ({"val": "val.csv"} if has_val else {}) | {"test": "test.csv"}
    if images.names:
        keys["findings" if images.task == "multi-label" else "classes"] = list(images.names)
    if images.mask_values:
        keys["mask_values"] = list(images.mask_values)
    keys["size"] = size
    # A text of JSON without control characters is one of TOML.
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in keys.items()]
    return "# docs/data.md of advmia describes the keys.\n" + "\n".join(lines) + "\n"


def _declared(path: Path, text: str) -> DatasetSpec:
    """Returns what the file declares, or the text if there is no file yet.

    Raises `UserError` if the file declares other classes or lists.
    """
    spec = parse_declaration(path, text)
    if not path.exists():
        return spec
    existing = read_declaration(path)
    for key in _COMPARED:
        if getattr(existing, key) != getattr(spec, key):
            raise UserError(
                f"{path} exists and declares another {key} ({getattr(existing, key)!r} there, {getattr(spec, key)!r} in"
                " this run); nothing was changed: move that folder, or choose another --name"
            )
    return existing


def _described(its: ImageList, spec: DatasetSpec, names: Sequence[str]) -> str:
    """Returns the rows of a list, and how many have each class or finding."""
    counts = its.counts()
    if spec.task == "single-label":
        counts = {name: counts.get(str(label), 0) for label, name in enumerate(names)}
    numbers = ", ".join(f"{name}: {count}" for name, count in counts.items())
    return f"{its.name}: {len(its.rows)} rows" + (f"; {numbers}" if numbers else "")


def _leakage(records: Sequence[Record], parts: dict[str, list[Record]]) -> list[str]:
    """Returns report lines about patients and equal images on several sides."""
    sides: dict[str, set[str]] = {}
    for part in PARTS:
        for record in parts[part]:
            if record.group:
                sides.setdefault(record.group, set()).add(part)
    if not sides:
        return ["leakage: patients unknown, so a patient's images on both sides would not be noticed"]
    shared = Counter(len(its) > 1 for its in sides.values())[True]
    return [f"leakage: {shared} of {len(sides)} patients are in more than one list"]
