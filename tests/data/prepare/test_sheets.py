"""Messidor's annotation sheets in all forms that programs save them in, whatever their extension says."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import openpyxl
import pandas as pd
import pytest

from advmia.data.prepare import prepare_dataset
from advmia.errors import UserError
from tests.support.downloads import line_with, make_mesidor, read_list, write_xls

Rows = list[list[str | float]]
STEM = "20060410_58736_0200_PP"
TABLE: Rows = [["image NAME", "", "Retinopathy  Grade"], [STEM, "Lille", 2.0]]
TITLED: Rows = [["Messidor, base 12"], [], *TABLE]


def write_xlsx(path: Path, *sheets: Rows) -> None:
    book = openpyxl.Workbook()
    book.remove(book.worksheets[0])
    for rows in sheets:
        sheet = book.create_sheet()
        for row in rows:
            sheet.append(row)
    book.save(path)


def write_html(path: Path, rows: Rows) -> None:
    frame = pd.DataFrame(rows[1:], columns=rows[0])
    path.write_text(f"<html><body>{frame.to_html(index=False)}</body></html>", encoding="utf-8")


def write_tabs(path: Path, rows: Rows) -> None:
    path.write_text("".join("\t".join(map(str, row)) + "\r\n" for row in rows), encoding="utf-16")


def write_semicolons(path: Path, rows: Rows) -> None:
    path.write_text("".join(";".join(map(str, row)).replace("2.0", "2,0") + "\n" for row in rows), encoding="latin-1")


FORMS: list[tuple[str, Callable[[Path], None], str]] = [
    ("xlsx", lambda path: write_xlsx(path, TABLE), ""),
    (
        "xls",
        lambda path: write_xlsx(path, [["Read me"]], TITLED),
        "in the form of .xlsx, a table is in sheet 2, its header is in row 3",
    ),
    ("xls", lambda path: write_xls(path, TITLED), "its header is in row 3"),
    ("xls", lambda path: write_html(path, TABLE), "a page in HTML"),
    ("xls", lambda path: write_tabs(path, TABLE), "a text table; it is in UTF-16; its columns are separated by tabs"),
    ("csv", lambda path: write_semicolons(path, TABLE), "separated by semicolons"),
    ("csv", lambda path: write_semicolons(path, [["Messidor, base 12"], [], *TABLE, ["x", "", 0.0]]), "is in row 3"),
    ("xlsx", lambda path: write_xlsx(path, TABLE[:1], TITLED), "a table is in sheet 2, its header is in row 3"),
    ("xlsx", lambda path: write_xlsx(path, [TABLE[0], ["x", "", 0.0]], TABLE), "a table is in sheet 2"),
]


@pytest.mark.parametrize(("extension", "write", "remark"), FORMS, ids=range(len(FORMS)))
def test_forms_of_sheets(tmp_path: Path, extension: str, write: Callable[[Path], None], remark: str) -> None:
    """Fails if a sheet is refused, or its image left out, because of how it was saved."""
    source = make_mesidor(tmp_path / "source", {"20060411_58736_0200_PP": 1.0, STEM: 0.0})
    next(source.rglob("Annotation Base12.xls")).unlink()  # the one with the second image
    write(source / f"Annotation_Base12.{extension}")
    lines = prepare_dataset("mesidor", source, tmp_path / "data")
    folder = tmp_path / "data/mesidor"
    rows = dict(read_list(folder / "train.csv") + read_list(folder / "test.csv"))
    assert rows == {"20060411_58736_0200_PP.tif": "1", f"{STEM}.tif": "2"}
    remarks = [line for line in lines if line.startswith("Annotation_Base12")]
    assert len(remarks) == bool(remark) and all(remark in line for line in remarks), lines


def boolean_xls(path: Path) -> None:
    """Writes a grade of TRUE, whose value in the file is 1."""
    write_xls(path, TABLE[:1])
    cell = struct.pack("<HHHH3xBB", 0x0005, 9, 1, 2, 1, 0)  # BOOLERR
    name = struct.pack("<HHHH3xB", 0x0004, 8 + len(STEM), 1, 0, len(STEM)) + STEM.encode()
    path.write_bytes(path.read_bytes()[:-4] + name + cell + path.read_bytes()[-4:])


BAD: list[tuple[str, Callable[[Path], object], str]] = [
    ("xls", boolean_xls, "row 2: expected a retinopathy grade of 0 to 3, got 'TRUE'"),
    (
        "xlsx",
        lambda path: write_xlsx(path, [*TABLE[:1], [STEM, "", True]]),
        "got 'TRUE'",
    ),
    ("xlsx", lambda path: path.write_bytes(b"PK\x03\x04 and then nothing"), "is not a readable .xlsx spreadsheet"),
    ("xls", lambda path: path.write_text("<html>rate limit</html>"), "a page in HTML without a table"),
    (
        "xlsx",
        lambda path: write_xlsx(path, [["Name", "Grade"]]),
        "expected the columns 'Image name' and 'Retinopathy grade' in one of its sheets, got Name, Grade",
    ),
    ("xls", lambda path: path.unlink(missing_ok=True), "lacks Annotation_Base12.xls: complete the download"),
    (
        "ods",
        lambda path: path.touch(),
        "lacks Annotation_Base12.xls (not read: 1 .ods (Annotation_Base12.ods)): complete",
    ),
    (
        "xlsx",
        lambda path: write_xlsx(path, TABLE, [*TABLE[:1], [STEM, "", 1.0]]),
        "Annotation_Base12.xlsx sheet 2 row 2: 20060410_58736_0200_PP has grade 1 here and 2 in another row",
    ),
]


@pytest.mark.parametrize(("extension", "write", "message"), BAD, ids=range(len(BAD)))
def test_bad_sheets(tmp_path: Path, extension: str, write: Callable[[Path], object], message: str) -> None:
    """Fails if a truth value passes for a grade, a sheet is missing without a word, or a message does not say why."""
    source = make_mesidor(tmp_path / "source", {"20060411_58736_0200_PP": 1.0})
    next(source.rglob("Annotation Base12.xls")).unlink()
    write(source / f"Annotation_Base12.{extension}")
    with pytest.raises(UserError) as caught:
        prepare_dataset("mesidor", source, tmp_path / "data")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_what_lies_there_is_named(tmp_path: Path) -> None:
    """Fails if "found none" does not name the files that lie there."""
    source = make_mesidor(tmp_path / "source", {STEM: 1.0})
    for path in list(source.rglob("*.xls")):
        path.unlink()
    for name in ("grades.ods", "more.ods", "README"):
        (source / name).write_text("text")
    with pytest.raises(UserError) as caught:
        prepare_dataset("mesidor", source, tmp_path / "data")
    assert "found 2 .ods (grades.ods), 1 without extension (README): give" in str(caught.value)
    line_with([str(caught.value)], "Annotation_Base11.xls to Annotation_Base34.xls")
