"""Reads text tables as people save them: CSV with commas in UTF-8, and the forms that spreadsheets write instead."""

from __future__ import annotations

import csv
import io
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from dataclasses import dataclass
from pathlib import Path

from advmia.errors import UserError

_BINARY = "it is no text: save it as CSV in UTF-8"


@dataclass(frozen=True)
class Table:
    """The rows of a text table."""

    rows: list[tuple[int, list[str]]]  # each row's number in the file, from 1, and its cells; without blank rows
    remarks: tuple[str, ...]  # how the file differs from CSV with commas in UTF-8


def read_table(path: Path) -> Table:
    """Reads a table in UTF-8, UTF-16 or Latin-1, whose columns are separated by commas, semicolons or tabs.

    Raises `UserError` for a file that is no such table, and `OSError` for one that cannot be read.
    """
    text, remarks = _decode(path)
    delimiter = _delimiter(text)
    if delimiter != ",":
        remarks.append(f"its columns are separated by {'tabs' if delimiter == chr(9) else 'semicolons'}")
    try:
        rows = list(enumerate(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), start=1))
    except csv.Error as error:
        raise UserError(f"cannot read {path} as CSV ({error}): save it as CSV in UTF-8") from error
    return Table([(number, cells) for number, cells in rows if any(cell.strip() for cell in cells)], tuple(remarks))


def _decode(path: Path) -> tuple[str, list[str]]:
    """Returns the file's text, and a remark if it is not in UTF-8."""
    raw = path.read_bytes()
    try:
        if raw.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
            return raw.decode("utf-16"), ["it is in UTF-16"]
        if b"\0" in raw:  # UTF-16 without a mark, if every other byte of its beginning is 0
            encoding = "utf-16-le" if not any(raw[1:9:2]) else "utf-16-be"
            text = raw.decode(encoding)
            if "\0" in text or not text[:4].isascii():
                raise UserError(f"cannot read {path}: {_BINARY}")
            return text, ["it is in UTF-16"]
    except UnicodeDecodeError:
        raise UserError(f"cannot read {path}: {_BINARY}") from None
    try:
        return raw.decode("utf-8-sig"), []
    except UnicodeDecodeError:
        return raw.decode("latin-1"), ["it is not in UTF-8, and read as Latin-1"]


def _delimiter(text: str) -> str:
    """Returns the tab or the semicolon if it is in every line of a table, else the comma.

    A table is most lines of the text, up to its end: titles may stand above it.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    for character in "\t;":
        titles = next((index for index, line in enumerate(lines) if character in line), len(lines))
        if titles < len(lines) - titles and all(character in line for line in lines[titles:]):
            return character
    return ","
