"""Reads a download: finds its files, says what lies there if they are missing, and reads its tables."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence, Sized
from pathlib import Path

from advmia.data.tables import read_table
from advmia.errors import UserError

PACKED = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar", ".gz", ".bz2")
NAMED = 3  # left-out files that a report line names
_KINDS_NAMED = 4  # kinds of files that an error line names
Row = tuple[int, list[str]]  # a row's number in its file, from 1, and its cells


def walk(source: Path) -> list[Path]:
    """Returns all files below `source`, sorted, without hidden files and the `__MACOSX` folders of archives."""
    if not source.is_dir():
        raise UserError(f"expected --source to be the folder of the unpacked download, got {source}: no such folder")
    files = []
    for folder, subfolders, names in os.walk(source, followlinks=True):
        subfolders[:] = sorted(name for name in subfolders if name != "__MACOSX" and not name.startswith("."))
        here = Path(folder)
        if here.resolve() in [above.resolve() for above in here.parents]:  # a link to a folder above itself
            subfolders.clear()
            continue
        files += [here / name for name in sorted(names) if not name.startswith(".")]
    return files


def packed_files(files: Iterable[Path]) -> list[Path]:
    """Returns the archives among the files of a download."""
    return [path for path in files if path.name.lower().endswith(PACKED)]


def file_key(name: str) -> str:
    """Returns what identifies a file's name, whatever its letter case and Unicode form: macOS writes other forms."""
    return unicodedata.normalize("NFC", name).lower()


def index(files: Iterable[Path], pattern: str) -> dict[str, Path]:
    """Returns the files whose whole name matches `pattern`, in any letter case, by `file_key`.

    Identical files of one name count once (a download unpacked twice). Raises `UserError` for different ones.
    """
    expression = re.compile(pattern, re.IGNORECASE)
    by_name: dict[str, Path] = {}
    for path in files:
        key = file_key(path.name)
        if expression.fullmatch(key):
            first = by_name.setdefault(key, path)
            check_same(first, path)
    return by_name


def check_same(first: Path, second: Path) -> None:
    """Raises `UserError` if two files of one name differ: which of them is right cannot be known."""
    if first != second and first.read_bytes() != second.read_bytes():
        raise UserError(f"{first} and {second} have one name but differ: leave the right one below --source")


def require(items: Sized, what: str, source: Path, files: Sequence[Path]) -> None:
    """Raises `UserError` if there are no items; the message says what lies there instead.

    `what`: the items' name for the message. `files`: all files below `source`.
    """
    if len(items):
        return
    packed = packed_files(files)
    if packed:
        raise UserError(
            f"expected {what} below {source}, got archives that are not unpacked ({packed[0].name},"
            f" {len(packed)} in all): unpack them there and run again"
        )
    raise UserError(
        f"expected {what} below {source}, found {kinds_of(files) or 'none'}: give the folder of the official download"
    )


def kinds_of(files: Iterable[Path]) -> str:
    """Describes the kinds of files, most frequent first: "3 .xlsx (a.xlsx), 1 .PNG (b.PNG)"; "" for no files."""
    first: dict[str, Path] = {}
    counts: Counter[str] = Counter()
    for path in files:
        kind = path.suffix or "without extension"
        first.setdefault(kind, path)
        counts[kind] += 1
    named = [f"{count} {kind} ({first[kind].name})" for kind, count in counts.most_common(_KINDS_NAMED)]
    others = len(counts) - len(named)
    return ", ".join(named) + (f" and {others} other kinds" if others > 0 else "")


def plain_name(text: str, where: str) -> str:
    """Returns `text`, stripped and in NFC. Raises `UserError` for a path, and for characters that break a CSV list."""
    name = unicodedata.normalize("NFC", text.strip())
    if not re.fullmatch(r"\w[\w .()+-]*", name):
        raise UserError(f"{where}: expected a plain file name, got {name!r}; correct the row")
    return name


def read_rows(path: Path) -> tuple[list[Row], list[str]]:
    """Reads all rows of a text table, the header first, and remarks about its form for the report.

    Raises `UserError` for a file that is no such table.
    """
    try:
        table = read_table(path)
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): check its permissions") from error
    return table.rows, [f"{path.name}: {remark}" for remark in table.remarks]


def columns(place: Path | str, rows: Sequence[Row], names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Returns the named columns of a table: ("FILE row N", values in the order of `names`) for each row with text.

    The first row is the header. Columns are looked up by name in any letter case, without spaces at the ends, so that
    additional or damaged columns do not matter. `place`: the file, for messages. Raises `UserError` for a missing
    column and a row that is too short.
    """
    number, cells = rows[0] if rows else (1, [])
    header = [heading(name) for name in cells]
    missing = [name for name in names if heading(name) not in header]
    if missing:
        raise UserError(
            f"{place} row {number}: expected a column {missing[0]!r}, got the columns"
            f" {', '.join(name.strip() for name in cells) or '(none)'}; give the official file"
        )
    indices = [header.index(heading(name)) for name in names]
    table = []
    for number, row in rows[1:]:
        if not any(cell.strip() for cell in row):
            continue
        if len(row) <= max(indices):
            raise UserError(f"{place} row {number}: expected {len(header)} columns, got {len(row)}; correct the row")
        table.append((f"{place} row {number}", [row[index].strip() for index in indices]))
    return table


def heading(text: str) -> str:
    """Returns a column's name as it is compared: in one letter case, with single spaces."""
    return " ".join(text.split()).casefold()


def other_unicode(names: Iterable[str]) -> list[str]:
    """Returns a report line about names whose letters are in another Unicode form than lists have, or no line."""
    odd = [name for name in names if not unicodedata.is_normalized("NFC", name)]
    return [f"{len(odd)} names have another Unicode form, and get the usual one (e.g. {odd[0]})"] if odd else []


def skipped(names: Sequence[str], why: str) -> list[str]:
    """Returns a report line about files that were left out, naming the first three, or no line if there are none."""
    if not names:
        return []
    return [f"skipped {len(names)}: {why} (e.g. {', '.join(names[:NAMED])})"]
