"""Contents of the layout's files. Writing them never replaces a different file."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from advmia.errors import UserError
from advmia.runtime.files import atomic_write, write_error
from advmia.runtime.progress import Bar

# Each file is synced to disk before it gets its name. With eight threads, 800 radiographs of 64 pixels take 0.5 s
# instead of 4.4 s.
THREADS = 8
BATCH = 128  # files in memory at a time


@functools.cache
def _folder_facts(folder: Path) -> tuple[str, frozenset[str]]:
    """Returns a folder's absolute path without links, and the names of the links in it.

    A download has many files in few folders: to ask the system about each file takes most of the time of a second run.
    """
    return str(folder.resolve()), frozenset(entry.name for entry in os.scandir(folder) if entry.is_symlink())


def _resolved(path: Path) -> str:
    """Returns the absolute path of a file of the download, without links."""
    folder, links = _folder_facts(path.parent.absolute())
    return str(path.resolve()) if path.name in links else f"{folder}{os.sep}{path.name}"


def _link_target(path: Path) -> str:
    """Returns where a link points to, "" for a file that is no link or is not there."""
    try:
        return os.readlink(path)  # noqa: PTH115 - Path.readlink takes three times as long
    except OSError:
        return ""


@dataclass(frozen=True)
class Original:
    """A file of the download, which is copied byte by byte or linked."""

    path: Path

    def same_as(self, existing: Path) -> bool:
        """Returns whether `existing` has the same bytes. Compares sizes first, because they are fast to read."""
        if existing.stat().st_size != self.path.stat().st_size:
            return False
        return existing.samefile(self.path) or existing.read_bytes() == self.path.read_bytes()

    def loaded(self) -> Original:
        """Returns itself: copying needs no pixels in memory."""
        return self

    def write(self, target: Path, link: bool) -> None:
        """Copies the file to `target`, atomically, or makes a symbolic link there. The folder must exist for a link."""
        if link:
            try:
                target.symlink_to(_resolved(self.path))
            except FileExistsError:  # at most a broken link is there: see `missing_files`
                target.unlink()
                target.symlink_to(_resolved(self.path))
            return
        with self.path.open("rb") as source, atomic_write(target) as temporary, temporary.open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)


@dataclass(frozen=True)
class Pixels:
    """An image that the download holds in another form; it is written as PNG, without loss."""

    compute: Callable[[], np.ndarray]  # returns uint8 (H, W) or (H, W, 3)
    form: Callable[[], str] | None = None  # of a converted mask: returns how the download's file marks the foreground

    def same_as(self, existing: Path) -> bool:
        """Returns whether `existing` has the same pixels; the bytes of a PNG depend on the version of its library."""
        try:
            with Image.open(existing) as image:
                return np.array_equal(np.asarray(image), self.compute())
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # not an image
            return False

    def loaded(self) -> Pixels:
        """Returns the content with its pixels in memory, because archives must be read in order, by one thread."""
        pixels = self.compute()
        return Pixels(lambda: pixels)

    def write(self, target: Path, link: bool) -> None:
        """Writes the pixels to `target` as PNG, atomically; there is nothing to link."""
        image = Image.fromarray(self.compute())
        with atomic_write(target) as temporary:
            image.save(temporary, format="PNG")


Content = Original | Pixels


def missing_files(files: dict[Path, Content]) -> dict[Path, Content]:
    """Returns those of `files` (content by target path) that have to be written. A broken link counts as missing.

    Raises `UserError` for a target that exists with other content, before anything is written.
    """
    missing = {}
    _folder_facts.cache_clear()
    present: dict[str, set[str]] = {}
    for target, content in Bar(files.items(), desc="checking", unit="files"):
        folder, _, name = str(target).rpartition(os.sep)
        if folder not in present:
            present[folder] = _names_in(Path(folder))
        if name not in present[folder]:
            missing[target] = content
        elif isinstance(content, Original) and _link_target(target) == _resolved(content.path):
            continue
        elif not target.exists():
            missing[target] = content
        elif not target.is_file() or not _same(content, target):
            raise UserError(
                f"{target} exists and differs from the download's file of that name; nothing was changed:"
                " move or delete it, or choose another --dataRoot"
            )
    return missing


def _names_in(folder: Path) -> set[str]:
    """Returns the names in a folder, and none for a missing one: one look instead of one for each file."""
    try:
        return {entry.name for entry in os.scandir(folder)}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def _same(content: Content, existing: Path) -> bool:
    try:
        return content.same_as(existing)
    except OSError as error:
        raise UserError(f"cannot compare {existing} with the download ({error}): check both and run again") from error


def write_files(files: dict[Path, Content], *, link: bool) -> None:
    """Writes every content to its target: as a copy or, with `link`, as a link to the download's file."""

    def write(file: tuple[Path, Content]) -> None:
        target, content = file
        try:
            content.write(target, link)
        except OSError as error:
            raise UserError(
                f"cannot write {target} ({error}): remove the cause and run again, which continues"
            ) from error

    def write_all(share: list[tuple[Path, Content]]) -> None:
        for file in share:
            write(file)

    pending = list(files.items())
    for folder in {target.parent for target in files}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(folder, error) from error
    with (
        Bar(total=len(pending), desc="linking" if link else "copying", unit="files") as progress,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        for start in range(0, len(pending), BATCH):
            batch = [(target, content.loaded()) for target, content in pending[start : start + BATCH]]
            for _ in pool.map(write_all, [batch[first::THREADS] for first in range(THREADS)]):
                pass
            progress.update(len(batch))


def open_image(path: Path) -> Image.Image:
    """Returns the decoded image. Raises `UserError` for a damaged file."""
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except Exception as error:  # Pillow raises a dozen kinds of exceptions for damaged files
        raise UserError(f"{path} is not a readable image ({error}): download or unpack it again") from error
