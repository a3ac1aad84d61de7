"""Reads the cells of .xlsx workbooks (ECMA-376): they are archives of XML files."""

from __future__ import annotations

import posixpath
import re
import zipfile
from pathlib import Path
from xml.etree import ElementTree

from advmia.data.prepare.sources import Row
from advmia.errors import UserError

_MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_ID = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
_MOST_BYTES = 1 << 26  # of one unpacked part: a small archive can unpack to more than the memory holds


def read_xlsx(path: Path) -> list[list[Row]]:
    """Reads the cells of all sheets as text, in the workbook's order. Raises `UserError` for a damaged file."""
    try:
        with zipfile.ZipFile(path) as archive:
            texts = _shared_texts(archive)
            return [_rows(_part(archive, name), texts) for name in _sheet_names(archive)]
    except UserError:
        raise
    except Exception as error:  # damaged archives raise a dozen kinds of exceptions
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not a readable .xlsx spreadsheet ({reason}): download it again") from error


def _part(archive: zipfile.ZipFile, name: str) -> ElementTree.Element:
    if archive.getinfo(name).file_size > _MOST_BYTES:
        raise ValueError(f"{name} is larger than {_MOST_BYTES >> 20} MiB")
    return ElementTree.fromstring(_in_transitional_form(archive.read(name)))


def _in_transitional_form(xml: bytes) -> bytes:
    """Returns XML with the usual namespaces: workbooks in the strict form have others."""
    return xml.replace(b"http://purl.oclc.org/ooxml/spreadsheetml/main", _MAIN[1:-1].encode()).replace(
        b"http://purl.oclc.org/ooxml/officeDocument/relationships", _ID.partition("}")[0][1:].encode()
    )


def _sheet_names(archive: zipfile.ZipFile) -> list[str]:
    """Returns the names of the sheets' parts, in the order of the workbook."""
    relations = {node.get("Id"): node.get("Target", "") for node in _part(archive, "xl/_rels/workbook.xml.rels")}
    sheets = _part(archive, "xl/workbook.xml").iter(f"{_MAIN}sheet")
    targets = [relations[sheet.get(_ID)] for sheet in sheets]
    return [posixpath.normpath(posixpath.join("/xl", target)).lstrip("/") for target in targets]


def _shared_texts(archive: zipfile.ZipFile) -> list[str]:
    name = "xl/sharedStrings.xml"
    if name not in archive.namelist():
        return []
    return [_text(item) for item in _part(archive, name).iter(f"{_MAIN}si")]


def _text(node: ElementTree.Element) -> str:
    """Returns the text of a string, whose formatted parts are separate nodes, without readings of Japanese words."""
    readings = {text for reading in node.iter(f"{_MAIN}rPh") for text in reading.iter(f"{_MAIN}t")}
    return "".join(text.text or "" for text in node.iter(f"{_MAIN}t") if text not in readings)


def _rows(sheet: ElementTree.Element, texts: list[str]) -> list[Row]:
    """Returns the rows of a sheet. Empty rows and cells are not in the file: empty cells are filled in."""
    rows: list[Row] = []
    for node in sheet.iter(f"{_MAIN}row"):
        number = int(node.get("r") or (rows[-1][0] + 1 if rows else 1))
        cells: list[str] = []
        for cell in node.iter(f"{_MAIN}c"):
            column = _column(cell.get("r", ""))
            cells += [""] * ((len(cells) if column is None else column) - len(cells))
            cells.append(_value(cell, texts))
        rows.append((number, cells))
    return rows


def _column(reference: str) -> int | None:
    """Returns the column of a reference such as B7, from 0; None for a cell without reference."""
    letters = re.match(r"[A-Z]+", reference)
    if letters is None:
        return None
    number = 0
    for letter in letters[0]:
        number = 26 * number + ord(letter) - ord("A") + 1
    return number - 1


def _value(cell: ElementTree.Element, texts: list[str]) -> str:
    kind, value = cell.get("t", "n"), cell.find(f"{_MAIN}v")
    if kind == "inlineStr":
        return _text(cell)
    text = (value.text or "") if value is not None else ""
    if kind == "s" and text:
        return texts[int(text)]
    if kind == "b":
        return "TRUE" if text == "1" else "FALSE"
    return text
