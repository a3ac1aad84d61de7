"""Records of a download's images, the rules that split them, and helpers to read a download."""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path

from advmia.data.prepare.contents import Content
from advmia.data.specs import DatasetSpec
from advmia.errors import UserError

PACKED = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar")


@dataclass(frozen=True)
class Record:
    """One image of a download."""

    name: str  # file name in the layout's image folder
    image: Content
    entries: dict[str, str]  # label, bits or mask name, by spec name; without a key the image is not in those lists
    mask: Content | None = None
    kind: str = ""  # class of an image with a mask, for counting; "" where it is unknown
    part: str = ""  # of the official split; "" where there is none
    group: str = ""  # the patient, or whatever connects images that must not be split; "" where it is unknown
    corrected: dict[str, str] = field(default_factory=dict)  # by spec name: the entry before or after an erratum


Division = tuple[list[Record], list[Record]]  # train, test


@dataclass(frozen=True)
class Rule:
    """One way to split a download, as `--split` selects it."""

    divide: Callable[[DatasetSpec, list[Record]], Division]
    how: str  # sentence for the report: what the rule does, and how its lists differ from the published ones


@dataclass(frozen=True)
class Collection:
    """All that is read from a download, before anything is written."""

    folder: str  # of the layout, below the data root
    records: list[Record]
    rules: dict[str, Rule]  # by --split
    meanings: dict[str, str]  # what the entries mean, by spec name: the data sets whose lists the download fills
    notes: list[str]  # for the report: what was skipped, and why
    groups: str = ""  # what `Record.group` names, in the plural
    label: str = ""  # what the images really are, where they are not the layout's own data set


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
        files += [Path(folder) / name for name in sorted(names) if not name.startswith(".")]
    return files


def index(files: Iterable[Path], pattern: str) -> dict[str, Path]:
    """Returns the files whose whole name matches `pattern`, in any letter case, by lower-case name.

    Identical files of one name count once (a download unpacked twice). Raises `UserError` for different ones.
    """
    by_name: dict[str, Path] = {}
    for path in files:
        if not re.fullmatch(pattern, path.name, re.IGNORECASE):
            continue
        first = by_name.setdefault(path.name.lower(), path)
        if first != path and first.read_bytes() != path.read_bytes():
            raise UserError(f"{first} and {path} have one name but differ: leave the right one below --source")
    return by_name


def require(items: Sized, what: str, source: Path, files: Iterable[Path]) -> None:
    """Raises `UserError` if there are no items; the message says whether archives below `source` are not unpacked.

    `what`: the items' name for the message. `files`: all files below `source`.
    """
    if len(items):
        return
    packed = [path for path in files if path.name.lower().endswith(PACKED)]
    if packed:
        raise UserError(
            f"expected {what} below {source}, got archives that are not unpacked ({packed[0].name},"
            f" {len(packed)} in all): unpack them there and run again"
        )
    raise UserError(f"expected {what} below {source}, found none: give the folder of the official download")


def plain_name(text: str, where: str) -> str:
    """Returns `text`, stripped. Raises `UserError` for a path, and for characters that would break a CSV list."""
    name = text.strip()
    if not re.fullmatch(r"\w[\w .()+-]*", name):
        raise UserError(f"{where}: expected a plain file name, got {name!r}; correct the row")
    return name


def read_csv(path: Path) -> list[list[str]]:
    """Reads all rows of a CSV file, the header first. Raises `UserError` for a file that is not CSV in UTF-8."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path} as CSV ({error}): download it again") from error


def columns(path: Path, rows: Sequence[Sequence[str]], names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Returns the named columns of a table: ("FILE row N", values in the order of `names`) for each row with text.

    The first row is the header. Columns are looked up by name, without spaces at the ends, so that additional or
    damaged columns do not matter. Raises `UserError` for a missing column and for a row that is too short.
    """
    header = [name.strip() for name in rows[0]] if rows else []
    missing = [name for name in names if name not in header]
    if missing:
        raise UserError(
            f"{path} row 1: expected a column {missing[0]!r}, got the columns {', '.join(header) or '(none)'};"
            " give the official file"
        )
    indices = [header.index(name) for name in names]
    table = []
    for number, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) <= max(indices):
            raise UserError(f"{path} row {number}: expected {len(header)} columns, got {len(row)}; correct the row")
        table.append((f"{path} row {number}", [row[index].strip() for index in indices]))
    return table


def skipped(names: Sequence[str], why: str) -> list[str]:
    """Returns a report line about names that were left out, or no line if there are none."""
    return [f"skipped {len(names)}: {why} (e.g. {names[0]})"] if names else []


def digest(text: str) -> str:
    """Returns the SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def hash_split(records: Sequence[Record], test_fraction: float, *, by_group: bool = False) -> Division:
    """Splits records by the SHA-256 of their names: as good as random, and the same on every machine.

    The first `test_fraction` in the order of the hashes are test. With `by_group` the groups' names are hashed, and the
    test part grows until its last group is complete.
    """

    def unit(record: Record) -> str:
        return record.group if by_group and record.group else record.name

    ranked = sorted(records, key=lambda record: (digest(unit(record)), digest(record.name)))
    cut = min(max(1, round(len(ranked) * test_fraction)), len(ranked))
    while by_group and cut < len(ranked) and unit(ranked[cut]) == unit(ranked[cut - 1]):
        cut += 1
    return ranked[cut:], ranked[:cut]


def sample(records: Sequence[Record], count: int) -> list[Record]:
    """Returns the first `count` records in the order of their names' hashes; all as they are if there are no more."""
    return sorted(records, key=lambda record: digest(record.name))[:count] if len(records) > count else list(records)
