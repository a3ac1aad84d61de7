"""What every download is turned into before anything is written: records, and the rules that split them."""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
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
    entries: dict[str, str]  # spec name: what the list says of it, a label, bits or the mask's name; no key: not listed
    mask: Content | None = None
    kind: str = ""  # what lists of masks are counted by, as others are by their labels
    part: str = ""  # of the official split; "" where there is none
    group: str = ""  # what images that leak into each other share (the patient); "" where the download does not say
    corrected: dict[str, str] = field(default_factory=dict)  # spec name: an entry that is as right (published errata)


Division = tuple[list[Record], list[Record]]  # train, test


@dataclass(frozen=True)
class Rule:
    """One way to split a download (`--split`)."""

    divide: Callable[[DatasetSpec, list[Record]], Division]
    how: str  # one sentence for the report: what it does, and how it differs from the published lists


@dataclass(frozen=True)
class Collection:
    """A download, understood: nothing is written yet."""

    folder: str  # of the layout, below the data root
    records: list[Record]
    rules: dict[str, Rule]  # by --split; the first is the default's
    meanings: dict[str, str]  # of the entries, by spec name: these are the lists that the download fills
    notes: list[str]  # what was skipped and why, and what else is worth knowing
    groups: str = ""  # what `Record.group` is, in the plural
    label: str = ""  # what the images really are, when not the layout's own data set


def walk(source: Path) -> list[Path]:
    """All files below `source`, sorted, without what operating systems leave behind in archives."""
    if not source.is_dir():
        raise UserError(f"expected --source to be the folder of the unpacked download, got {source}: no such folder")
    files = []
    for folder, subfolders, names in os.walk(source, followlinks=True):
        subfolders[:] = sorted(name for name in subfolders if name != "__MACOSX" and not name.startswith("."))
        here = Path(folder)
        if here.resolve() in [above.resolve() for above in here.parents]:  # a link to a folder that it lies in
            subfolders.clear()
            continue
        files += [Path(folder) / name for name in sorted(names) if not name.startswith(".")]
    return files


def index(files: Iterable[Path], pattern: str) -> dict[str, Path]:
    """Files whose whole name matches `pattern`, letter case ignored, by lower-case name.

    The same file twice (a download unpacked twice) counts once; two different ones of one name are an error.
    """
    found: dict[str, Path] = {}
    for path in files:
        if not re.fullmatch(pattern, path.name, re.IGNORECASE):
            continue
        first = found.setdefault(path.name.lower(), path)
        if first != path and first.read_bytes() != path.read_bytes():
            raise UserError(f"{first} and {path} have one name but differ: leave the right one below --source")
    return found


def require(found: Iterable[object], what: str, source: Path, files: Iterable[Path]) -> None:
    """`UserError` when nothing was found; it tells an archive that was not unpacked from a wrong folder."""
    if any(True for _ in found):
        return
    packed = [path for path in files if path.name.lower().endswith(PACKED)]
    if packed:
        raise UserError(
            f"expected {what} below {source}, got archives that are not unpacked ({packed[0].name},"
            f" {len(packed)} in all): unpack them there and run again"
        )
    raise UserError(f"expected {what} below {source}, found none: give the folder of the official download")


def plain_name(text: str, where: str) -> str:
    """`text`, stripped, when it is a plain file name; a path or a character that would break a list is an error."""
    name = text.strip()
    if not re.fullmatch(r"\w[\w .()+-]*", name):
        raise UserError(f"{where}: expected a plain file name, got {name!r}; mend the row")
    return name


def read_csv(path: Path) -> list[list[str]]:
    """All rows of a CSV file, the header first."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path} as CSV ({error}): download it again") from error


def columns(path: Path, rows: Sequence[Sequence[str]], names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The named columns of a table whose first row is the header: ("FILE row N", values) for each row not empty.

    Columns are found by name, spaces at the ends ignored, so that columns added or garbled further right do no harm.
    """
    header = [name.strip() for name in rows[0]] if rows else []
    missing = [name for name in names if name not in header]
    if missing:
        raise UserError(
            f"{path} row 1: expected a column {missing[0]!r}, got the columns {', '.join(header) or '(none)'};"
            " give the official file"
        )
    places = [header.index(name) for name in names]
    table = []
    for number, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) <= max(places):
            raise UserError(f"{path} row {number}: expected {len(header)} columns, got {len(row)}; mend the row")
        table.append((f"{path} row {number}", [row[place].strip() for place in places]))
    return table


def skipped(names: Sequence[str], why: str) -> list[str]:
    """One report line about what was left out; none when nothing was."""
    return [f"skipped {len(names)}: {why} (e.g. {names[0]})"] if names else []


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def hash_split(records: Sequence[Record], test_share: float, *, by_group: bool = False) -> Division:
    """A split that is random to the eye and the same everywhere: images ranked by the SHA-256 of their names.

    The first `test_share` of the ranking are test. With `by_group`, groups are ranked, and none is cut: the test part
    grows to the end of its last group.
    """

    def unit(record: Record) -> str:
        return record.group if by_group and record.group else record.name

    ranked = sorted(records, key=lambda record: (digest(unit(record)), digest(record.name)))
    cut = min(max(1, round(len(ranked) * test_share)), len(ranked))
    while by_group and cut < len(ranked) and unit(ranked[cut]) == unit(ranked[cut - 1]):
        cut += 1
    return ranked[cut:], ranked[:cut]


def sample(records: Sequence[Record], count: int) -> list[Record]:
    """`count` of the records, drawn by the hash of their names; all of them when there are fewer."""
    return sorted(records, key=lambda record: digest(record.name))[:count] if len(records) > count else list(records)
