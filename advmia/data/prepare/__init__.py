"""`python -m advmia prepare`: turns an official download into the layout that the scripts read.

The steps are the same for all downloads: collect images and labels, split, make lists, write the files, report. Each
download has its own function for the first step (`DOWNLOADS`); the other steps are here. All conflicts with existing
files are reported before anything is written, and no file is replaced by a different one. Running again continues an
interrupted run, or changes nothing. One run at a time writes a data folder. Lists are written last, so that no list
names a missing file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict, Unpack

from advmia.data.markers import data_label, read_markers, write_marker
from advmia.data.prepare import archives, chestxray14, covid19radiography, isic2017, mesidor
from advmia.data.prepare.completeness import check_complete, unchecked_lines
from advmia.data.prepare.contents import Content, Pixels, missing_files, write_files
from advmia.data.prepare.lists import ImageList, derived_lists, describe_lists
from advmia.data.prepare.mask_forms import describe_forms
from advmia.data.prepare.meta import published_lists
from advmia.data.prepare.patients import with_patients
from advmia.data.prepare.records import Collection
from advmia.data.prepare.sources import NAMED
from advmia.errors import UserError
from advmia.runtime.files import remove_leftovers, write_lock, write_text
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
    with write_lock(folder, wait=True):
        new_lists = _new_lists(folder, lists, collection.label)
        files = _files(folder, lists)
        _remove_leftovers(folder, lists)
        missing = missing_files(files)
        mask_forms = describe_forms(files, missing, str(source))
        write_files(missing, link=link)
        _write_markers(folder, {image_list.name: facts | _facts(collection, image_list, split) for image_list in lists})
        for image_list in new_lists:
            write_text(folder / image_list.name, image_list.text())
    lines = [f"{dataset} -> {folder}", f"split {split}, {remarks[0]}", *remarks[1:], *lacking, *collection.notes]
    lines += [*mask_forms, *_unlisted(collection, lists), *describe_lists(collection, lists, split)]
    lines += unchecked_lines(collection)
    return [*lines, _written(files, missing, len(new_lists), link)]


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


def _write_markers(folder: Path, facts: dict[str, dict[str, Any]]) -> None:
    """Writes the facts by list name where they have changed. Markers come before lists: no list is ever without one."""
    known = read_markers(folder)
    for name, its_facts in facts.items():
        if known.get(name) != its_facts:
            write_marker(folder, [name], its_facts)


def _remove_leftovers(folder: Path, lists: list[ImageList]) -> None:
    """Removes what a killed run has left among the images."""
    names = {name for its in lists for name in (its.spec.image_folder, its.spec.mask_folder) if name}
    for place in (folder, *(folder / name for name in names)):
        remove_leftovers(place)


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


def _new_lists(folder: Path, lists: list[ImageList], label: str) -> list[ImageList]:
    """Returns the lists that do not exist yet.

    Raises `UserError` for a list that exists with other rows or for other images.
    """
    new = []
    for image_list in lists:
        path = folder / image_list.name
        if not path.exists():
            new.append(image_list)
            continue
        old_lines = path.read_text(encoding="utf-8", errors="replace").splitlines()  # any kind of line end
        new_lines, old_label = image_list.text().splitlines(), data_label(folder, image_list.name)
        conflict = ""
        if old_lines != new_lines:
            conflict = f"with other rows ({len(old_lines)} lines there, {len(new_lines)} in this run)"
        elif old_label.removesuffix(archives.ALTERED) != label.removesuffix(archives.ALTERED):
            conflict = f"for other images ({old_label or 'official'} there, {label or 'official'} in this run)"
        if conflict:
            raise UserError(
                f"{path} exists {conflict}; nothing was changed: move or delete the lists in that folder, or"
                " choose another --dataRoot"
            )
    return new


def _files(folder: Path, lists: list[ImageList]) -> dict[Path, Content]:
    """Returns the content of every file that the lists name, by the file's path in the layout."""
    files: dict[Path, Content] = {}
    seen: set[str] = set()  # most images are in several lists
    for image_list in lists:
        images, masks = folder / image_list.spec.image_folder, folder / (image_list.spec.mask_folder or "")
        for record, entry in image_list.rows:
            if record.name not in seen:
                seen.add(record.name)
                files[images / record.name] = record.image
            if image_list.spec.mask_folder and record.mask:
                files[masks / entry] = record.mask
    return files


def _written(files: dict[Path, Content], missing: dict[Path, Content], new_lists: int, link: bool) -> str:
    """Returns the report's last line: what was written, and what existed already."""
    if not missing and not new_lists:
        return f"everything is in place ({len(files)} files): nothing was written"
    converted = sum(isinstance(content, Pixels) for content in missing.values())
    return (
        f"{'linked' if link else 'copied'} {len(missing) - converted} files, converted {converted},"
        f" found {len(files) - len(missing)} in place, wrote {new_lists} lists"
    )
