"""Finds the published lists below `--meta`, checks them, and matches them with the images of the download."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import get_args

from advmia.data.datasets import DATASETS
from advmia.data.list_rows import ListedSample, read_list
from advmia.data.prepare.lists import ImageList, list_name
from advmia.data.prepare.records import Collection, Record
from advmia.data.prepare.sources import NAMED, file_key, other_unicode, plain_name
from advmia.data.specs import DatasetSpec, Split
from advmia.errors import UserError


def published_lists(collection: Collection, meta: Path) -> tuple[list[ImageList], list[str]]:
    """Returns the published lists below `meta`, without rows whose image is not in the download, and report lines.

    Raises `UserError` if there is no such list, or no listed image is in the download.
    """
    if not meta.is_dir():
        raise UserError(f"expected --meta to be the folder of the published lists, got {meta}: no such folder")
    by_name = _by_name(collection.records)
    expected = [(DATASETS[name], split) for name in collection.meanings for split in get_args(Split)]
    lists, notes = [], []
    for spec, split in expected:
        name = list_name(spec, split)
        path = _find_list(meta, name, spec)
        if path is None:
            notes.append(f"{name}: not below {meta}, not written")
            continue
        listed, remarks = _read_list(path, spec, spec.classes or collection.classes.get(spec.name))
        rows, more = _match(listed, spec, by_name)
        remarks += more
        notes += [f"{name}: {remark}" for remark in remarks]
        checksum = hashlib.sha256(path.read_bytes()).hexdigest()
        lists.append(ImageList(spec, split, rows, f"published list, sha256 {checksum}"))
    filled = [image_list for image_list in lists if image_list.rows]
    if not filled:
        names = ", ".join(list_name(spec, split) for spec, split in expected)
        raise UserError(
            f"expected {names} below {meta}, naming images of the download;"
            f" got {len(lists)} such lists and no row whose image is there: check --meta and --source"
        )
    return filled, notes


def _find_list(meta: Path, name: str, spec: DatasetSpec) -> Path | None:
    """Returns the list of this name that belongs to the data set, or None. Raises `UserError` if several differ."""
    ranked = [(_rank(meta, path, spec), path) for path in sorted(meta.rglob(name))]
    best = min((rank for rank, _ in ranked if rank is not None), default=None)
    candidates = [path for rank, path in ranked if rank is not None and rank == best]
    if len({path.read_bytes() for path in candidates}) > 1:
        raise UserError(
            f"expected one {name} for {spec.folder} below {meta}, got {', '.join(map(str, candidates))}, which differ:"
            " give the folder of one of them as --meta"
        )
    return candidates[0] if candidates else None


def _rank(meta: Path, path: Path, spec: DatasetSpec) -> int | None:
    """Rates how well the folder of a list fits the data set, 0 best; None for a list of another data set.

    Data sets share list names. So the folder decides: the nearest one above the list, up to `meta` itself, that has a
    data set's name in its own.
    """
    own = {spec.folder.lower(), (spec.download or "").lower()}
    foreign = {name.lower() for other in DATASETS.values() for name in (other.folder, other.download) if name} - own
    above = [meta.resolve().name.lower(), *(part.lower() for part in path.relative_to(meta).parts[:-1])]
    if above[-1] == spec.folder.lower():
        return 0
    for folder in reversed(above):
        if any(name in folder for name in own):
            return 1
        if any(name in folder for name in foreign):
            return None
    return 2


def _by_name(records: list[Record]) -> dict[str, Record]:
    """Returns the records by the `file_key` of their names, their official names and their names without extension."""
    stems = {file_key(Path(record.name).stem): record for record in records}
    official = {file_key(record.official_name): record for record in records}
    return stems | official | {file_key(record.name): record for record in records}


def _match(
    listed: list[tuple[str, str]], spec: DatasetSpec, by_name: dict[str, Record]
) -> tuple[list[tuple[Record, str]], list[str]]:
    """Returns the rows whose image the download has, and remarks about other rows and about differing labels.

    Where a label differs, the published list's is kept. Masks are listed by their names in the layout.
    """
    rows, absent, disagreements, errata, other_format = [], [], [], 0, 0
    for name, entry in listed:
        record = by_name.get(file_key(name)) or by_name.get(file_key(Path(name).stem))
        if record is None or spec.name not in record.entries:
            absent.append(name)
            continue
        other_format += file_key(name) != file_key(record.name)
        official = record.entries[spec.name]
        if entry.lower() != official.lower():
            if record.corrected.get(spec.name) == entry:
                errata += 1
            else:
                disagreements.append(f"{name}: {entry} in the list, {official} in the download")
        rows.append((record, official if spec.mask_folder else entry))
    remarks = []
    if other_format:
        remarks.append(f"{other_format} images have another extension in the download than in the list")
    if absent:
        missing = "image or mask" if spec.mask_folder else "image"
        remarks.append(
            f"left out {len(absent)} rows whose {missing} is not in the download (e.g. {', '.join(absent[:NAMED])})"
        )
    if disagreements:
        remarks.append(
            f"{len(disagreements)} rows disagree with the download, the list stands (e.g. {disagreements[0]})"
        )
    if errata:
        remarks.append(f"{errata} rows differ from the download by a published erratum, the list stands")
    return rows, remarks


def _read_list(path: Path, spec: DatasetSpec, classes: int | None) -> tuple[list[tuple[str, str]], list[str]]:
    """Reads (image, entry) of each row, and remarks about the list's form.

    Raises `UserError` for an entry that does not fit the task, a class that is not 0 to `classes` - 1, and an image
    with two labels: the readers would refuse such a list later.
    """
    pattern, form = {
        "single-label": (r"\d+([.,]0*)?", "a class number"),  # spreadsheets write 1.0
        "multi-label": (rf"b[01]{{{len(spec.findings)}}}", f"the letter b and {len(spec.findings)} bits"),
        "segmentation": (r".+", "its mask's file name"),
    }[spec.task]
    samples, remarks = read_list(spec, path)
    rows: list[tuple[str, str]] = []
    first_of: dict[str, ListedSample] = {}
    in_folder = decimals = 0
    for sample in samples:
        where, entry = f"{path} row {sample.row}", sample.entry
        if not re.fullmatch(pattern, entry):
            raise UserError(
                f"{where}: expected an image's file name and {form}, got '{sample.image},{entry}'; correct the row"
            )
        plain = _without_folder(sample.image, spec.folder, spec.image_folder)
        in_folder += plain != sample.image
        image = plain_name(plain, where)
        if spec.mask_folder:
            entry = plain_name(_without_folder(entry, spec.folder, spec.mask_folder), where)
        elif spec.task == "single-label":
            decimals += not entry.isdecimal()
            entry = str(int(re.split("[.,]", entry)[0]))
            if classes is not None and int(entry) >= classes:
                raise UserError(
                    f"{where}: {image} has label {entry}, but {spec.name} has {classes} classes, so labels are 0 to"
                    f" {classes - 1}; correct the row"
                )
        first = first_of.setdefault(file_key(image), sample._replace(entry=entry))
        if first.entry != entry and not spec.mask_folder:
            raise UserError(f"{where}: {image} is {entry} here and {first.entry} in row {first.row}; keep one of them")
        rows.append((image, entry))
    notes = [f"{in_folder} image names have their folder before them"] if in_folder else []
    notes += [f"{decimals} labels are written with a decimal point"] if decimals else []
    return rows, [*remarks, *notes, *other_unicode(sample.image for sample in samples)]


def _without_folder(name: str, *folders: str) -> str:
    """Returns the name without `./` and the folders that it lies in: img/a.png, mel2017/img/a.png, img\\a.png."""
    parts = tuple(part for part in name.replace("\\", "/").split("/") if part != ".")
    above = parts[:-1]
    return parts[-1] if parts and above == folders[len(folders) - len(above) :] else name
