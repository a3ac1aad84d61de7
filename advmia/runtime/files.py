"""Atomic writes, a lock against two runs that write the same file, and the text, CSV and JSON formats."""

from __future__ import annotations

import csv
import errno
import fcntl
import glob
import hashlib
import io
import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from advmia.errors import UserError
from advmia.runtime.terminal import say

_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free space"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "change its permissions"),
    errno.EROFS: "make the disk writable",
    errno.ENAMETOOLONG: "take a shorter name",
}
NAME_BYTES = 255  # of a file's name, which file systems allow
# Bytes of a file's name that its temporary name repeats. With the dots, the process id and ".tmp" they stay within the
# limit.
_REPEATED_BYTES = 235
_DIGEST_DIGITS = 16
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")


def fitting_name(name: str, limit: int = NAME_BYTES) -> str:
    """Returns a file's name. If it has more than `limit` bytes, its end is replaced by a digest of the whole name."""
    raw = os.fsencode(name)
    if len(raw) <= limit:
        return name
    return f"{_first_bytes(name, limit - _DIGEST_DIGITS - 1)}~{hashlib.sha256(raw).hexdigest()[:_DIGEST_DIGITS]}"


def _first_bytes(name: str, limit: int) -> str:
    """Returns as many whole characters from the name's start as have at most `limit` bytes."""
    raw = os.fsencode(name)
    return name if len(raw) <= limit else raw[:limit].decode(errors="ignore")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder, and renames it to `path` at the end of the block.

    If the block raises, or the process is killed, `path` stays as it was. Missing parent folders are made. Raises
    `UserError` if the file cannot be written, for example because the disk is full.
    """
    temporary = path.with_name(f".{_first_bytes(path.name, _REPEATED_BYTES)}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # before the renaming, or a power cut could leave an empty file under the name
        temporary.replace(path)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        with suppress(OSError):  # it was renamed, or never written; another error here would hide the first
            temporary.unlink()


def write_error(path: Path, error: OSError) -> UserError:
    """Returns the `UserError` to raise when the system refuses to write `path`, with what helps against that."""
    reason, advice = error.strerror or error, _advice(path, error)
    return UserError(f"cannot write {path} ({reason}): {advice} or choose another folder")


def _advice(path: Path, error: OSError) -> str:
    """Returns what to do about an error in writing `path`."""
    # The functions of `os.path` do not raise for a path that the system refuses.
    in_the_way = next((part for part in (path, *path.parents) if os.path.exists(part)), path)  # noqa: PTH110
    if error.errno in (errno.ENOTDIR, errno.EEXIST) and os.path.isfile(in_the_way):  # noqa: PTH113
        return f"{in_the_way} is a file where a folder is needed: rename it"
    if os.path.isdir(path):  # noqa: PTH112
        return "rename the folder of that name"
    return _ADVICE.get(error.errno or 0, "check that place")


@contextmanager
def write_lock(path: Path, *, wait: bool = False) -> Iterator[IO[str]]:
    """Holds the lock for `path` during the block. It also covers files beside it, such as `<path>.json`.

    Yields the open lock file: a process that inherits it holds the lock too.

    The system releases the lock when its process ends, even if that was killed. Removes temporary files that a killed
    run has left. If another run holds the lock, says so and waits with `wait`, else raises `UserError`.
    """
    lock = path.with_name(f".{fitting_name(path.name, NAME_BYTES - len('..lock'))}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = _open_locked(lock)
        except BlockingIOError:
            if not wait:
                raise
            say(f"another run is writing {path}: waiting for its end")
            file = _open_locked(lock, fcntl.LOCK_EX)
    except BlockingIOError:
        raise UserError(f"another run is writing {path} now: wait for its end, or write to another folder") from None
    except OSError as error:
        raise write_error(path, error) from error
    with file:
        for temporary in path.parent.glob(f"{glob.escape(f'.{_first_bytes(path.name, _REPEATED_BYTES)}')}.*.tmp"):
            if not _writer_is_alive(temporary):  # it may be of another run, which writes `<path>.<more>`
                temporary.unlink(missing_ok=True)
        try:
            yield file
        finally:
            lock.unlink(missing_ok=True)  # while the lock is still held


def remove_leftovers(folder: Path) -> int:
    """Removes the temporary files of `atomic_write` in a folder; returns their number.

    Only for folders that nobody else can be writing, because the caller holds their lock.
    """
    if not folder.is_dir():
        return 0
    leftovers = [Path(entry.path) for entry in os.scandir(folder) if _TEMPORARY.fullmatch(entry.name)]
    for leftover in leftovers:
        leftover.unlink(missing_ok=True)
    return len(leftovers)


def _writer_is_alive(temporary: Path) -> bool:
    """Returns whether the process whose id is in the temporary file's name runs on this machine."""
    try:
        os.kill(int(temporary.suffixes[-2][1:]), 0)
    except (ProcessLookupError, ValueError, IndexError, OverflowError):
        return False
    except PermissionError:  # another user's process
        return True
    return True


def _open_locked(path: Path, operation: int = fcntl.LOCK_EX | fcntl.LOCK_NB) -> IO[str]:
    """Opens the lock file and locks it. Tries again if its last holder removed it in between."""
    while True:
        file = path.open("w")
        try:
            fcntl.flock(file, operation)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except FileNotFoundError:
            pass
        except OSError:
            file.close()
            raise
        file.close()


def write_text(path: Path, text: str) -> None:
    """Writes `text` atomically as UTF-8. Bytes of file names that are not UTF-8 are written as backslash escapes."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Returns the rows as CSV text. Cells that a spreadsheet would run as formulas get an apostrophe in front."""
    lines = []
    for row in rows:
        line = io.StringIO()
        # With this terminator the writer quotes cells that contain \r, not only those with \n.
        csv.writer(line, lineterminator="\r\n").writerow([_without_formula(cell) for cell in row])
        lines.append(line.getvalue().removesuffix("\r\n") + "\n")
    return "".join(lines)


def _without_formula(cell: object) -> object:
    if not isinstance(cell, str) or not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
        return cell
    try:
        float(cell)  # -0.5 is no formula
    except ValueError:
        return f"'{cell}"
    return cell


def write_json(path: Path, value: Any, *, indent: int | None = None) -> None:
    """Writes `value` atomically as JSON. JSON has no NaN, so NaN becomes null. Raises `ValueError` for infinity."""
    write_text(path, json.dumps(_without_nan(value), indent=indent, allow_nan=False) + "\n")


def read_json_object(path: Path) -> dict[str, Any] | None:
    """Returns the JSON object in the file, or None if there is no file, no JSON, or JSON of another type."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def rename_existing(*paths: Path) -> list[Path]:
    """Renames the files that exist to `<name>.earlier-<number>`, so that new ones do not replace them.

    All get the same number, the lowest that is free for all. Returns the new paths.
    """
    number = 1
    while any(_earlier_path(path, number).exists() for path in paths):
        number += 1
    present = [path for path in paths if path.exists()]
    return [path.rename(_earlier_path(path, number)) for path in present]


def _earlier_path(path: Path, number: int) -> Path:
    ending = f".earlier-{number}"
    return path.with_name(fitting_name(path.name, NAME_BYTES - len(ending)) + ending)
