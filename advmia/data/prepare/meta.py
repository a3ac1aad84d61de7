"""The published lists: found below `--meta`, checked, and matched with what the download holds."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import get_args

from advmia.data.prepare.lists import ImageList, list_name
from advmia.data.prepare.records import Collection, Record, plain_name
from advmia.data.readers import read_list
from advmia.data.specs import DATASETS, DatasetSpec, Split
from advmia.errors import UserError


def published_lists(collection: Collection, meta: Path) -> tuple[list[ImageList], list[str]]:
    """The published lists below `meta` as far as the download has their images, and report lines."""
    if not meta.is_dir():
        raise UserError(f"expected --meta to be the folder of the published lists, got {meta}: no such folder")
    by_name = {record.name.lower(): record for record in collection.records}
    wanted = [(DATASETS[name], split) for name in collection.meanings for split in get_args(Split)]
    lists, notes = [], []
    for spec, split in wanted:
        name = list_name(spec, split)
        path = _find_list(meta, name, spec)
        if path is None:
            notes.append(f"{name}: not below {meta}, not written")
            continue
        rows, remarks = _match(path, spec, by_name)
        notes += [f"{name}: {remark}" for remark in remarks]
        checksum = hashlib.sha256(path.read_bytes()).hexdigest()
        lists.append(ImageList(spec, split, rows, f"published list, sha256 {checksum}"))
    kept = [made for made in lists if made.rows]
    if not kept:
        raise UserError(
            f"expected {', '.join(list_name(*each) for each in wanted)} below {meta}, naming images of the download;"
            f" got {len(lists)} such lists and no row whose image is there: check --meta and --source"
        )
    return kept, notes


def _find_list(meta: Path, name: str, spec: DatasetSpec) -> Path | None:
    """The list of that name that belongs to the spec's folder; None where there is none."""
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
    """How well a list's place fits the spec, 0 best; None for a list of another data set: data sets share list names.

    The nearest folder above, `meta` itself included, that has any data set's name in it decides.
    """
    own = {spec.folder.lower(), spec.download.lower()}
    foreign = {name.lower() for known in DATASETS.values() for name in (known.folder, known.download)} - own
    above = [meta.resolve().name.lower(), *(part.lower() for part in path.relative_to(meta).parts[:-1])]
    if above[-1] == spec.folder.lower():
        return 0
    for folder in reversed(above):
        if any(name in folder for name in own):
            return 1
        if any(name in folder for name in foreign):
            return None
    return 2


def _match(path: Path, spec: DatasetSpec, by_name: dict[str, Record]) -> tuple[list[tuple[Record, str]], list[str]]:
    """The list's rows whose image the download has; and remarks on the others, and on disagreements.

    The published label stands; a mask is listed by the name under which it is placed.
    """
    rows, absent, disagreements, errata = [], [], [], 0
    for name, entry in _read_list(path, spec):
        record = by_name.get(name.lower())
        if record is None or spec.name not in record.entries:
            absent.append(name)
            continue
        official = record.entries[spec.name]
        if entry.lower() != official.lower():
            if record.corrected.get(spec.name) == entry:
                errata += 1
            else:
                disagreements.append(f"{name}: {entry} in the list, {official} in the download")
        rows.append((record, official if spec.mask_folder else entry))
    remarks = []
    if absent:
        missing = "image or mask" if spec.mask_folder else "image"
        remarks.append(f"left out {len(absent)} rows whose {missing} is not in the download (e.g. {absent[0]})")
    if disagreements:
        remarks.append(
            f"{len(disagreements)} rows disagree with the download, the list stands (e.g. {disagreements[0]})"
        )
    if errata:
        remarks.append(f"{errata} rows differ from the download by a published erratum, the list stands")
    return rows, remarks


def _read_list(path: Path, spec: DatasetSpec) -> list[tuple[str, str]]:
    """(image, entry) of each row, checked."""
    pattern, form = {
        "single-label": (r"\d+", "a class number"),
        "multi-label": (rf"b[01]{{{len(spec.findings)}}}", f"the letter b and {len(spec.findings)} bits"),
        "segmentation": (r".+", "its mask's file name"),
    }[spec.task]
    rows = []
    for number, image, entry in read_list(spec, path):
        where = f"{path} row {number}"
        if not re.fullmatch(pattern, entry):
            raise UserError(f"{where}: expected an image's file name and {form}, got '{image},{entry}'; mend the row")
        rows.append((plain_name(image, where), plain_name(entry, where) if spec.mask_folder else entry))
    return rows
