"""The contact sheets of attacked images beside a result file: where they lie, and the index that lists them.

`advmia.pictures` writes them, to the folder `<stem>.pictures` beside `<stem>.json`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advmia.results.rows import attack_label
from advmia.runtime.files import NAME_BYTES, fitting_name, read_json_object

INDEX_NAME = "pictures.json"
_PICTURES = ".pictures"


@dataclass(frozen=True)
class SheetImage:
    """An image on a contact sheet."""

    index: int  # in the test list
    file: str
    why: str  # "first", "worst", "median" or "best"; several with ", " between them


@dataclass(frozen=True)
class Sheet:
    """A contact sheet: a PNG with a row for each of a few images, clean and under one attack at each eps."""

    path: Path  # of the PNG
    attack: str
    restarts: int
    grey_eps: tuple[float, ...]  # in grey levels, ascending
    images: tuple[SheetImage, ...]  # in the order of the rows
    alt: str  # a sentence that says what the sheet shows

    @property
    def label(self) -> str:
        """The attack's name as tables state it: `pgd`, or `pgd (5 restarts)`."""
        return attack_label(self.attack, self.restarts)


def folder_beside(result_file: Path, ending: str) -> Path:
    """Returns the folder `<stem><ending>` beside the result file `<stem>.json`. A name that is too long is shortened.

    `ending`: such as `.pictures`.
    """
    name = fitting_name(result_file.name.removesuffix(".json"), NAME_BYTES - len(ending))
    return result_file.with_name(name + ending)


def pictures_folder(result_file: Path) -> Path:
    """Returns the folder of the contact sheets that belong to a result file."""
    return folder_beside(result_file, _PICTURES)


def read_pictures(result_file: Path, run: dict[str, Any] | None = None) -> list[Sheet]:
    """Returns the contact sheets beside a result file, in the order of the tables. Those that are missing are left out.

    `run`: the result file's (`RunRecord.run`); sheets of another run are then left out too. Returns [] where there is
    no index, or a damaged one.
    """
    folder = pictures_folder(result_file)
    content = read_json_object(folder / INDEX_NAME) or {}
    try:
        if run is not None and content.get("run") != run:
            return []
        sheets = [_parse_sheet(folder, entry) for entry in content.get("sheets", ())]
    except (KeyError, TypeError, ValueError, AttributeError):
        return []
    return [sheet for sheet in sheets if sheet.path.is_file()]


def _parse_sheet(folder: Path, entry: dict[str, Any]) -> Sheet:
    """Returns a sheet from its entry in the index. Raises what reading a damaged entry raises."""
    name = entry["file"]
    if Path(name).name != name:
        raise ValueError(f"{name} is not in the folder")
    return Sheet(
        path=folder / name,
        attack=str(entry["attack"]),
        restarts=int(entry["restarts"]),
        grey_eps=tuple(map(float, entry["eps"])),
        images=tuple(
            SheetImage(int(image["index"]), str(image["file"]), str(image["why"])) for image in entry["images"]
        ),
        alt=str(entry["alt"]),
    )
