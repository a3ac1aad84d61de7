"""Reads the rows of a data set's list as text, in all forms that can be read in one way only."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from advmia.data.specs import DatasetSpec
from advmia.data.tables import read_table
from advmia.errors import UserError

_QUOTED_CHARACTERS = 80  # the most characters of a cell that a message quotes
_Rows = list[tuple[int, list[str]]]


class ListedSample(NamedTuple):
    """One row of a list, as text."""

    row: int  # number in the file, from 1, header and blank rows counted
    image: str  # file name
    entry: str  # label, bits or the mask's file name


def read_list(spec: DatasetSpec, path: Path) -> tuple[list[ListedSample], tuple[str, ...]]:
    """Reads a list as text, and remarks about its form.

    Blank rows, a column of row numbers and a header are left out; the header of a multi-label list is checked. Raises
    `UserError` for a list that is missing, unreadable or empty, and for a row without exactly two columns.
    """
    second = "mask" if spec.mask_folder else "label"
    try:
        table = read_table(path)
    except FileNotFoundError:
        raise UserError(_missing_list(spec, path)) from None
    except OSError as error:
        raise UserError(f"cannot read the list {path} ({error.strerror}): check its permissions") from error
    rows, remarks = table.rows, list(table.remarks)
    if spec.findings:
        rows = _without_findings(spec, path, rows)
    if _has_row_numbers(rows):
        rows = [(number, cells[1:]) for number, cells in rows]
        remarks.append("its first column, of row numbers, is left out")
    if not spec.findings and _has_header(rows):
        remarks.append(f"its header {','.join(rows[0][1])} is left out")
        rows = rows[1:]
    samples = []
    for number, cells in rows:
        if len(cells) != 2 or not cells[0].strip() or not cells[1].strip():
            raise UserError(
                f"{path} row {number}: expected `image,{second}`, got `{quoted(','.join(cells))}`; correct the row, or"
                " leave out other columns"
            )
        samples.append(ListedSample(number, cells[0].strip(), cells[1].strip()))
    if not samples:
        raise UserError(f"{path} is empty: expected rows `image,{second}`")
    return samples, tuple(remarks)


def _missing_list(spec: DatasetSpec, path: Path) -> str:
    if spec.source:
        key = "train" if path.name == spec.train_list else "test"
        return f"{spec.source.at(key)}: {key}: there is no list {path}: expected a CSV file with rows `image,label`"
    return (
        f"no list at {path}: make it with `python -m advmia prepare --dataset {spec.download}` from the official"
        f" download, or with `python -m advmia phantoms` for generated images; --dataRoot says where to look"
    )


def _without_findings(spec: DatasetSpec, path: Path, rows: _Rows) -> _Rows:
    """Returns the rows without the header of a multi-label list. Raises `UserError` for another header."""
    number, cells = rows[0] if rows else (1, [])
    header = tuple(name.strip() for name in cells)
    # Some copies of the list have a first column for the image's name.
    if header[-len(spec.findings) :] != spec.findings:
        expected = ",".join(spec.findings)
        raise UserError(f"{path} row {number}: expected the header {expected}, got `{quoted(','.join(header))}`")
    return rows[1:]


def _has_row_numbers(rows: _Rows) -> bool:
    """Returns whether all rows have three cells, of which the first numbers the rows, but for a header.

    The numbers count from 0 or 1. They may be any below a header without a name, as pandas saves a part of a table.
    """
    if not rows or any(len(cells) != 3 for _, cells in rows):
        return False
    numbers = [cells[0].strip() for _, cells in rows]
    body = numbers if numbers[0].isdecimal() else numbers[1:]
    is_count = any(body == [str(start + index) for index in range(len(body))] for start in (0, 1))
    is_index = not numbers[0] and all(number.isdecimal() for number in body) and len(set(body)) == len(body)
    return bool(body) and (is_count or is_index)


def _has_header(rows: _Rows) -> bool:
    """Returns whether the first row has two words that are neither a file's name nor a label."""
    if not rows or len(rows[0][1]) != 2:
        return False
    return all(cell.strip() and "." not in cell and not cell.strip().lstrip("-").isdecimal() for cell in rows[0][1])


def quoted(text: str) -> str:
    """Shortens a text for a message: after a quotation mark that is never closed, a cell holds the rest of the file."""
    text = " ".join(text.split())
    return text if len(text) <= _QUOTED_CHARACTERS else f"{text[:_QUOTED_CHARACTERS]}..."
