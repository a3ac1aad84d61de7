"""Reads spreadsheets by what they are, whatever their extension: .xls, .xlsx, HTML or text named .xls."""

from __future__ import annotations

import io
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from advmia.data.prepare.sources import Row, heading, read_rows
from advmia.errors import UserError

_XLS_BOOLEAN, _XLS_ERROR = 4, 5  # xlrd's types of cells
_ROWS_ABOVE_HEADER = 20  # titles, empty rows and remarks that may stand above a table


def find_tables(path: Path, names: Sequence[str]) -> tuple[list[tuple[str, list[Row]]], list[str]]:
    """Returns the tables that have the named columns, and remarks for the report.

    Of each table, returns its place, for messages, and its rows, the header first. Each sheet of the file may have one,
    with titles above it. Raises `UserError` for a file that cannot be read, and for one without such a table.
    """
    sheets, kind = _read_sheets(path)
    tables: list[tuple[str, list[Row]]] = []
    places = []
    for number, rows in enumerate(sheets, start=1):
        start = _header_position(rows, names)
        if start is not None:
            tables.append((str(path) if len(sheets) == 1 else f"{path} sheet {number}", rows[start:]))
            places += [f"a table is in sheet {number}"] if number > 1 else []
            places += [f"its header is in row {rows[start][0]}"] if rows[start][0] > 1 else []
    if not tables:
        first = next((cells for rows in sheets for _, cells in rows if any(cell.strip() for cell in cells)), [])
        found = ", ".join(cell.strip() for cell in first) or "(none)"
        raise UserError(
            f"{path} row 1: expected the columns {' and '.join(map(repr, names))} in one of its sheets, got {found};"
            " give the official file"
        )
    remarks = [f"it is {kind}", *places] if kind else places
    return tables, [f"{path.name}: {', '.join(remarks)}"] if remarks else []


def _header_position(rows: list[Row], names: Sequence[str]) -> int | None:
    """Returns the index of the row that has the named columns, None if none of the first rows has."""
    wanted = {heading(name) for name in names}
    for index, (_, cells) in enumerate(rows[:_ROWS_ABOVE_HEADER]):
        if wanted <= {heading(cell) for cell in cells}:
            return index
    return None


def _read_sheets(path: Path) -> tuple[list[list[Row]], str]:
    """Returns the rows of all sheets, and what the file is; "" if it is what its extension says."""
    start = path.read_bytes()[:512]
    if start.startswith(b"PK"):
        return _read_xlsx(path), "" if path.suffix.lower() in (".xlsx", ".xlsm") else "in the form of .xlsx"
    if start.startswith((b"\xd0\xcf\x11\xe0", b"\x09")) and path.suffix.lower() not in (".csv", ".tsv", ".txt"):
        return _read_xls(path), "" if path.suffix.lower() == ".xls" else "in the form of .xls"
    text = start.removeprefix(b"\xef\xbb\xbf").decode("latin-1").replace("\0", "").lstrip("\xff\xfe \r\n\t").lower()
    if text.startswith("<"):
        return _read_html(path), "" if path.suffix.lower().startswith(".htm") else "a page in HTML"
    rows, remarks = read_rows(path)
    if path.suffix.lower() == ".csv" and not remarks:
        return [rows], ""
    return [rows], "a text table" + "".join(f"; {remark.partition(': ')[2]}" for remark in remarks)


def _read_xls(path: Path) -> list[list[Row]]:
    """Reads the cells of all sheets as text. Raises `UserError` for a damaged file or a missing package."""
    try:
        import xlrd  # here, so that only this download needs it; pandas deprecates its own use of xlrd for .xls
    except ImportError as error:
        raise UserError(f"cannot read {path}: the package xlrd is missing ({error}); pip install xlrd") from error
    try:
        with xlrd.open_workbook(path, logfile=io.StringIO()) as book:  # its remarks about odd files are dropped
            return [
                [(number + 1, [_cell_text(cell) for cell in sheet.row(number)]) for number in range(sheet.nrows)]
                for sheet in book.sheets()
            ]
    except Exception as error:  # xlrd raises a dozen kinds of exceptions for damaged files
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not a readable .xls spreadsheet ({reason}): download it again") from error


def _read_xlsx(path: Path) -> list[list[Row]]:
    """Reads the cells of all sheets as text. Raises `UserError` for a damaged file or a missing package."""
    try:
        import openpyxl  # here, so that only this download needs it
    except ImportError as error:
        raise UserError(f"cannot read {path}: the package openpyxl is missing; pip install openpyxl") from error
    try:
        book = openpyxl.load_workbook(io.BytesIO(path.read_bytes()), read_only=True, data_only=True)
        return [
            [(number, [_value_text(value) for value in values]) for number, values in enumerate(rows, start=1)]
            for rows in (sheet.iter_rows(values_only=True) for sheet in book.worksheets)
        ]
    except Exception as error:  # openpyxl raises a dozen kinds of exceptions for damaged files
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not a readable .xlsx spreadsheet ({reason}): download it again") from error


def _value_text(value: Any) -> str:
    """Returns the text of a value of openpyxl: truth values in capitals, nothing for an empty cell."""
    if isinstance(value, bool):
        return str(value).upper()
    return "" if value is None else str(value)


def _cell_text(cell: Any) -> str:
    """Returns the text of a cell of xlrd. Truth values and errors are numbers there, which must not pass for grades."""
    if cell.ctype == _XLS_BOOLEAN:
        return "TRUE" if cell.value else "FALSE"
    return "#ERROR" if cell.ctype == _XLS_ERROR else str(cell.value)


def _read_html(path: Path) -> list[list[Row]]:
    """Reads all tables of a page in HTML, which many programs save as .xls."""
    raw = path.read_bytes()
    encoding = "utf-16" if raw.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    reader = _TableReader()
    reader.feed(text)
    if not reader.tables:
        raise UserError(f"{path} is a page in HTML without a table, not a spreadsheet: download it again")
    return reader.tables


class _TableReader(HTMLParser):
    """Collects the cells of all tables of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[Row]] = []
        self._in_cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr" and self.tables:
            self.tables[-1].append((len(self.tables[-1]) + 1, []))
        elif tag in ("td", "th") and self.tables and self.tables[-1]:
            self.tables[-1][-1][1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "tr", "table"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            cells = self.tables[-1][-1][1]
            cells[-1] = " ".join(f"{cells[-1]} {data}".split())
