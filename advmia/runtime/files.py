"""Files are written whole or not at all, under a temporary name, then renamed; and by one run at a time."""

from __future__ import annotations

import csv
import fcntl
import glob
import io
import json
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from advmia.errors import UserError

_NAME_KEPT = 235  # of a name's characters in a temporary one: with the number of a process these have 255 at most


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, which replaces `path` when the block ends well and vanishes when not.

    Makes missing parent folders. Raises `UserError` when the disk is full, read-only or not ours to write.
    """
    temporary = path.with_name(f".{path.name[:_NAME_KEPT]}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror or error}): free space or choose another folder"
        ) from error
    finally:
        with suppress(OSError):  # nothing there, or no folder to look in: never in the way of the error above
            temporary.unlink()


@contextmanager
def write_lock(path: Path) -> Iterator[None]:
    """Inside, no other run that asks writes `path` or what stands beside it (`<path>.json`, ...).

    The system drops the lock when its holder dies, however it does; what that one was in the middle of writing is
    removed. Raises `UserError` where another run holds it.
    """
    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _locked(lock)
    except BlockingIOError:
        raise UserError(f"another run is writing {path} now: wait for its end, or write to another folder") from None
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror or error}): free space or choose another folder"
        ) from error
    with file:
        for left in path.parent.glob(f"{glob.escape(f'.{path.name}')}.*.tmp"):
            if not _has_a_writer(left):  # as one for `<path>.<more>` may have
                left.unlink(missing_ok=True)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)  # while it is still held


def _has_a_writer(temporary: Path) -> bool:
    """Whether the process that a temporary file is named after is alive on this machine."""
    try:
        os.kill(int(temporary.suffixes[-2][1:]), 0)
    except (ProcessLookupError, ValueError, IndexError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _locked(path: Path) -> IO[str]:
    """The file, open and locked. Its last holder may have removed it between our opening and our locking it."""
    while True:
        file = path.open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except FileNotFoundError:
            pass
        except OSError:
            file.close()
            raise
        file.close()


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8, whole or not at all. Of file names that are no UTF-8, the odd bytes are spelled out."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """The rows as CSV, in which no spreadsheet finds a formula."""
    lines = []
    for row in rows:
        line = io.StringIO()
        csv.writer(line, lineterminator="\r\n").writerow([_no_formula(cell) for cell in row])  # then both are quoted
        lines.append(line.getvalue().removesuffix("\r\n") + "\n")
    return "".join(lines)


def _no_formula(cell: object) -> object:
    """Text that a spreadsheet would take for a formula gets an apostrophe before it; numbers stay as they are."""
    if not isinstance(cell, str) or not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def write_json(path: Path, value: Any, *, indent: int | None = None) -> None:
    """Writes `value` as JSON, whole or not at all. JSON has no NaN: an undefined number is null."""
    write_text(path, json.dumps(_without_nan(value), indent=indent, allow_nan=False) + "\n")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def rename_existing(*paths: Path) -> list[Path]:
    """Renames those of the files that exist, all with one number, so that none is written over; returns new names."""
    number = 1
    while any(_aside(path, number).exists() for path in paths):
        number += 1
    present = [path for path in paths if path.exists()]
    return [path.rename(_aside(path, number)) for path in present]


def _aside(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.earlier-{number}")
