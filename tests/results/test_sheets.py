"""Reading the index of the contact sheets beside a result file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from advmia.results.sheets import INDEX_NAME, pictures_folder, read_pictures

RUN = {"seed": 0}
IMAGE = {"index": 3, "file": "a.png", "why": "first, worst"}
ENTRY = {"file": "pgd-x5.png", "attack": "pgd", "restarts": 5, "eps": [2.0, 8.0], "images": [IMAGE], "alt": "A sheet."}
DAMAGES: list[Any] = [
    "text",
    {"run": RUN, "sheets": [{**ENTRY, "eps": None}]},
    {"run": RUN, "sheets": [{key: value for key, value in ENTRY.items() if key != "alt"}]},
    {"run": RUN, "sheets": [{**ENTRY, "file": "../pgd-x5.png"}]},
    {"run": RUN, "sheets": [{**ENTRY, "images": [3]}]},
    {"run": RUN, "sheets": 3},
]


def write_sheet(folder: Path, content: Any) -> Path:
    """Writes an index and one sheet beside `<folder>/a.b.json`; returns the path of that file."""
    result_file = folder / "a.b.json"
    pictures_folder(result_file).mkdir(exist_ok=True)
    for place in (folder, pictures_folder(result_file)):
        (place / "pgd-x5.png").write_bytes(b"")
    (pictures_folder(result_file) / INDEX_NAME).write_text(json.dumps(content))
    return result_file


def test_a_sheet_is_read(tmp_path: Path) -> None:
    """Fails if a fact of a sheet is lost, or a sheet of another run, or one whose PNG is gone, is returned."""
    result_file = write_sheet(tmp_path, {"run": RUN, "dataset": "melBin[phantom]", "sheets": [ENTRY]})
    (sheet,) = read_pictures(result_file)
    assert sheet.path == tmp_path / "a.b.pictures" / "pgd-x5.png" and sheet.label == "pgd (5 restarts)"
    assert (sheet.grey_eps, sheet.alt, vars(sheet.images[0])) == ((2.0, 8.0), "A sheet.", IMAGE)
    assert read_pictures(result_file, RUN) == [sheet] and not read_pictures(result_file, {"seed": 1})
    sheet.path.unlink()
    assert read_pictures(result_file) == []


@pytest.mark.parametrize("content", DAMAGES, ids=str)
def test_a_damaged_index_has_no_sheets(content: Any, tmp_path: Path) -> None:
    """Fails if a missing or damaged index raises, or a file outside of the folder counts as a sheet."""
    assert read_pictures(tmp_path / "a.b.json") == []
    assert read_pictures(write_sheet(tmp_path, content)) == []


def test_long_names(tmp_path: Path) -> None:
    """Fails if the folder's name is longer than file systems allow, or equal for two result files."""
    names = {pictures_folder(tmp_path / f"{'x' * 249}{end}.json").name for end in "ab"}
    assert len(names) == 2 and max(map(len, names)) <= 255
