"""`python -m advmia prepare`: turns an official download into the layout that the scripts read.

The steps are the same for all downloads: collect images and labels, split, make lists, write the files, report. Each
download has its own function for the first step (`DOWNLOADS`); the other steps are here. All conflicts with existing
files are reported before anything is written, and no file is replaced by a different one: see `layout`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict, Unpack

from advmia.data.prepare import archives, chestxray14, covid19radiography, isic2017, mesidor
from advmia.data.prepare.completeness import check_complete, unchecked_lines
from advmia.data.prepare.layout import write_layout
from advmia.data.prepare.lists import ImageList, derived_lists, describe_lists
from advmia.data.prepare.meta import published_lists
from advmia.data.prepare.patients import with_patients
from advmia.data.prepare.records import Collection
from advmia.data.prepare.sources import NAMED
from advmia.errors import UserError
from advmia.runtime.garbage import paused_collection

# What --dataset takes, and the function that reads each download.
DOWNLOADS: dict[str, Callable[[Path], Collection]] = {
    "mesidor": mesidor.collect,
    "isic2017": isic2017.collect,
    "chestxray14": chestxray14.collect,
    "covid19radiography": covid19radiography.collect,
    "medmnist": archives.medmnist,
    "medsegbench": archives.medsegbench,
}
SPLITS = {  # what --split takes, and how it divides; each download has some of them
    "published": "as the survey, image by image; where its lists were drawn at random, by a hash of the image's name",
    "official": "the data set's own parts (chestxray14, patient by patient; isic2017, without its validation part)",
    "patient": "all images of a patient (chestxray14, or any with --patients), or both of a known pair of duplicates"
    " (mesidor), on one side",
}


class Options(TypedDict, total=False):
    """What a user may choose for `prepare_dataset`."""

    meta: Path | None  # the folder of the published lists; without it, lists are derived from the official labels
    split: str  # how derived lists are split, a key of `SPLITS`; "published" if left out
    link: bool  # makes symbolic links to the download's files instead of copies
    partial: bool  # the download is meant to lack classes, sheets or parts
    patients: Path | None  # a table of file names and patients


def prepare_dataset(dataset: str, source: Path, data_root: Path, **options: Unpack[Options]) -> list[str]:
    """Turns a download into the layout below `data_root`.

    If another run is writing this data folder, waits for its end.

    Args:
        dataset: the download, a key of `DOWNLOADS`.
        source: its folder, or the .npz archive of a stand-in.
        data_root: where the layout is made.
        options: see `Options`.

    Returns: the lines of the report. Raises `UserError` for bad input, and for files that exist and differ.
    """
    meta, split, link = options.get("meta"), options.get("split", "published"), options.get("link", False)
    collection = _collect(dataset, source, data_root)
    patients = options.get("patients")
    if patients is not None:
        collection = with_patients(collection, patients)
    if split not in collection.rules:
        raise UserError(f"{dataset} has no split {split!r}; it has {', '.join(collection.rules)}")
    lacking = check_complete(dataset, collection, collection.rules[split], partial=options.get("partial", False))
    lists, remarks = _lists(dataset, collection, meta, split)
    facts = {
        "label": collection.label,
        "download": source.name if collection.label else dataset,
        "split": split,
    }
    folder = data_root / collection.folder
    its_facts = {image_list.name: facts | _facts(collection, image_list, split) for image_list in lists}
    mask_forms, written = write_layout(folder, lists, its_facts, source=source, link=link)
    lines = [f"{dataset} -> {folder}", f"split {split}, {remarks[0]}", *remarks[1:], *lacking, *collection.notes]
    lines += [*mask_forms, *_unlisted(collection, lists), *describe_lists(collection, lists, split)]
    lines += unchecked_lines(collection)
    return [*lines, written]


def _facts(collection: Collection, image_list: ImageList, split: str) -> dict[str, Any]:
    """Returns what a list's marker says about the list."""
    rule, spec, is_derived = collection.rules[split], image_list.spec, image_list.origin == "derived"
    rows = rule.rows.get(spec.name, spec.published_rows)
    return {
        "list": f"{image_list.origin}: {rule.how}" if is_derived else image_list.origin,
        "rows": len(image_list.rows),
        "published": None if rows is None or collection.label else list(rows),  # rows of the whole data set's lists
        "counts": image_list.counts(),
    }


def _unlisted(collection: Collection, lists: list[ImageList]) -> list[str]:
    """Returns a report line about the images of the download that are in no list, or no line."""
    listed = {record.name for image_list in lists for record, _ in image_list.rows}
    names = [record.name for record in collection.records if record.name not in listed]
    if not names:
        return []
    return [f"left out {len(names)} images of the download, which no list names (e.g. {', '.join(names[:NAMED])})"]


@paused_collection()
def _collect(dataset: str, source: Path, data_root: Path) -> Collection:
    """Reads the download. Raises `UserError` if it is unknown or unreadable, or labels an image twice."""
    if dataset not in DOWNLOADS:
        raise UserError(f"unknown download {dataset!r}: choose from {', '.join(DOWNLOADS)}")
    if data_root.resolve().is_relative_to(source.resolve()):
        raise UserError(
            f"--dataRoot {data_root} lies inside --source {source}, which would be read as part of the download:"
            " choose a data root outside it"
        )
    try:
        collection = DOWNLOADS[dataset](source)
    except OSError as error:
        raise UserError(f"cannot read the download at {source} ({error}): check its files and permissions") from error
    seen: set[str] = set()
    for record in collection.records:
        key = record.name.lower()
        if key in seen:
            raise UserError(f"{key} has more than one row in the labels of {source}: keep only one in the label files")
        seen.add(key)
    return collection


@paused_collection()
def _lists(dataset: str, collection: Collection, meta: Path | None, split: str) -> tuple[list[ImageList], list[str]]:
    """Returns the lists, and remarks for the report; the first remark says how the lists were made."""
    if meta is None:
        lists = derived_lists(collection, collection.rules[split])
        if not lists:
            raise UserError(f"split {split} of {dataset} leaves every list empty: complete the download")
        return lists, [collection.rules[split].how]
    if split != "published" or collection.label:
        raise UserError(
            "--meta takes the published lists of the survey's four data sets; leave out --meta, or take an official"
            " download and --split published"
        )
    lists, remarks = published_lists(collection, meta)
    return lists, [f"lists taken from {meta}", *remarks]
