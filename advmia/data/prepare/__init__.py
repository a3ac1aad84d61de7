"""`python -m advmia prepare`: an official download becomes the layout that the scripts read.

One way for all: collect images and labels -> split -> lists -> place the files -> report. A download is a function
that does the first step (`DOWNLOADS`); everything after it is here and shared. Nothing is written before every
conflict with what is already there is known, no different file is replaced, and running again continues or changes
nothing. Lists come last, so that no list names a file that is not there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from advmia.data.markers import data_label, read_markers, write_marker
from advmia.data.prepare import archives, chestxray14, covid19radiography, isic2017, mesidor
from advmia.data.prepare.contents import Content, Pixels, missing_files, write_files
from advmia.data.prepare.lists import ImageList, derived_lists, describe
from advmia.data.prepare.meta import published_lists
from advmia.data.prepare.records import Collection
from advmia.errors import UserError
from advmia.runtime.files import write_text

# What --dataset takes.
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
    "patient": "all images of a patient (chestxray14), or both of a known pair of duplicates (mesidor), on one side",
}


def prepare_dataset(
    dataset: str,
    source: Path,
    data_root: Path,
    *,
    meta: Path | None = None,
    split: str = "published",
    link: bool = False,
) -> list[str]:
    """Turns the download at `source` into the layout below `data_root`; returns the lines of the report.

    `meta`: the folder of the published lists; without it lists are derived from the official labels by the rule of
    `split`. `link`: symbolic links to the download's files in place of copies. Raises `UserError` for bad input.
    """
    collection = _collect(dataset, source, data_root)
    lists, how = _lists(dataset, collection, meta, split)
    folder = data_root / collection.folder
    new_lists = _new_lists(folder, lists, collection.label)
    files = _files(folder, lists)
    missing = missing_files(files)
    write_files(missing, link=link)
    for made in lists:  # before the lists, so that none is ever there without what its images are
        facts = _facts(dataset, collection, made, source, meta, split)
        if read_markers(folder).get(made.name) != facts:
            write_marker(folder, [made.name], facts)
    for made in new_lists:
        write_text(folder / made.name, made.text())
    listed = {record.name for made in lists for record, _ in made.rows}
    lines = [f"{dataset} -> {folder}", f"split {split}, {how[0]}", *how[1:], *collection.notes]
    if len(listed) < len(collection.records):
        lines.append(f"left out {len(collection.records) - len(listed)} images of the download, which no list names")
    return [*lines, *describe(collection, lists, split), _written(files, missing, len(new_lists), link)]


def _collect(dataset: str, source: Path, data_root: Path) -> Collection:
    if dataset not in DOWNLOADS:
        raise UserError(f"unknown download {dataset!r}; known are {', '.join(DOWNLOADS)}")
    if data_root.resolve().is_relative_to(source.resolve()):
        raise UserError(
            f"--dataRoot {data_root} lies inside --source {source}, which would be read as part of the download:"
            " choose a data root outside it"
        )
    try:
        collection = DOWNLOADS[dataset](source)
    except OSError as error:
        raise UserError(f"cannot read the download at {source} ({error}): check its files and rights") from error
    names = [record.name.lower() for record in collection.records]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{twice} has more than one row in the labels of {source}; expected one: mend the label files")
    return collection


def _lists(dataset: str, collection: Collection, meta: Path | None, split: str) -> tuple[list[ImageList], list[str]]:
    """The lists, and how they were made."""
    if split not in collection.rules:
        raise UserError(f"{dataset} has no split {split!r}; it has {', '.join(collection.rules)}")
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
    """The lists that are not there yet; `UserError` for one that is there with other rows or for other images."""
    new = []
    for made in lists:
        path = folder / made.name
        if not path.exists():
            new.append(made)
            continue
        there = path.read_text(encoding="utf-8", errors="replace").splitlines()  # whatever its line ends
        mine, present = made.text().splitlines(), data_label(folder, made.name)
        conflict = ""
        if there != mine:
            conflict = f"with other rows ({len(there)} lines there, {len(mine)} in this run)"
        elif present != label:
            conflict = f"for other images ({present or 'official'} there, {label or 'official'} in this run)"
        if conflict:
            raise UserError(
                f"{path} exists {conflict}; nothing was changed: move or delete the lists in that folder, or"
                " choose another --dataRoot"
            )
    return new


def _files(folder: Path, lists: list[ImageList]) -> dict[Path, Content]:
    """Every file that the lists name, by its place in the layout."""
    files: dict[Path, Content] = {}
    for made in lists:
        for record, entry in made.rows:
            files[folder / made.spec.image_folder / record.name] = record.image
            if made.spec.mask_folder and record.mask:
                files[folder / made.spec.mask_folder / entry] = record.mask
    return files


def _facts(
    dataset: str, collection: Collection, made: ImageList, source: Path, meta: Path | None, split: str
) -> dict[str, object]:
    """What the marker keeps of a list."""
    return {
        "label": collection.label,
        "download": source.name if collection.label else dataset,
        "split": split,
        "list": made.origin if meta else f"{made.origin}: {collection.rules[split].how}",
        "rows": len(made.rows),
        "counts": made.counts(),
    }


def _written(files: dict[Path, Content], missing: dict[Path, Content], new_lists: int, link: bool) -> str:
    if not missing and not new_lists:
        return f"everything is in place ({len(files)} files): nothing was written"
    converted = sum(isinstance(content, Pixels) for content in missing.values())
    return (
        f"{'linked' if link else 'copied'} {len(missing) - converted} files, converted {converted},"
        f" found {len(files) - len(missing)} in place, wrote {new_lists} lists"
    )
