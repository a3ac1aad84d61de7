"""Writes the files of a data set's layout: images and masks, markers, and the lists.

All conflicts with existing files are reported before anything is written. Running again continues an interrupted run,
or changes nothing. One run at a time writes a data folder. Lists are written last, so that no list names a missing
file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from advmia.data.markers import data_label, read_markers, write_marker
from advmia.data.prepare.archives import ALTERED
from advmia.data.prepare.contents import Content, Pixels, missing_files, write_files
from advmia.data.prepare.lists import ImageList
from advmia.data.prepare.mask_forms import describe_forms
from advmia.errors import UserError
from advmia.runtime.files import remove_leftovers, write_lock, write_text


def write_layout(
    folder: Path, lists: Sequence[ImageList], facts: dict[str, dict[str, Any]], *, source: Path, link: bool
) -> tuple[list[str], str]:
    """Writes the lists and the files that they name. If another run is writing this folder, waits for its end.

    Args:
        folder: of the layout.
        lists: all lists of one download.
        facts: for the markers, by the lists' names; their labels are one.
        source: the download, for messages.
        link: makes symbolic links to the download's files instead of copies.

    Returns: report lines about the forms of converted masks, and the report's last line. Raises `UserError` for files
    that exist and differ.
    """
    with write_lock(folder, wait=True):
        new_lists = _new_lists(folder, lists, next(iter(facts.values()))["label"])
        files = _files(folder, lists)
        _remove_leftovers(folder, lists)
        missing = missing_files(files)
        mask_forms = describe_forms(files, missing, str(source))
        write_files(missing, link=link)
        _write_markers(folder, facts)
        for image_list in new_lists:
            write_text(folder / image_list.name, image_list.text())
    return mask_forms, _written(files, missing, len(new_lists), link)


def _new_lists(folder: Path, lists: Sequence[ImageList], label: str) -> list[ImageList]:
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
        elif old_label.removesuffix(ALTERED) != label.removesuffix(ALTERED):
            conflict = f"for other images ({old_label or 'official'} there, {label or 'official'} in this run)"
        if conflict:
            raise UserError(
                f"{path} exists {conflict}; nothing was changed: move or delete the lists in that folder, or"
                " choose another --dataRoot"
            )
    return new


def _files(folder: Path, lists: Sequence[ImageList]) -> dict[Path, Content]:
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


def _remove_leftovers(folder: Path, lists: Sequence[ImageList]) -> None:
    """Removes what a killed run has left among the images."""
    names = {name for its in lists for name in (its.spec.image_folder, its.spec.mask_folder) if name}
    for place in (folder, *(folder / name for name in names)):
        remove_leftovers(place)


def _write_markers(folder: Path, facts: dict[str, dict[str, Any]]) -> None:
    """Writes the facts by list name where they have changed. Markers come before lists: no list is ever without one."""
    known = read_markers(folder)
    for name, its_facts in facts.items():
        if known.get(name) != its_facts:
            write_marker(folder, [name], its_facts)


def _written(files: dict[Path, Content], missing: dict[Path, Content], new_lists: int, link: bool) -> str:
    """Returns the report's last line: what was written, and what existed already."""
    if not missing and not new_lists:
        return f"everything is in place ({len(files)} files): nothing was written"
    converted = sum(isinstance(content, Pixels) for content in missing.values())
    return (
        f"{'linked' if link else 'copied'} {len(missing) - converted} files, converted {converted},"
        f" found {len(files) - len(missing)} in place, wrote {new_lists} lists"
    )
