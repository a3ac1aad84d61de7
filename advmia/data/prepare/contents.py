"""Files of the layout: what each holds, and how it gets there without ever replacing a different one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from advmia.errors import UserError
from advmia.runtime.files import atomic_write

# Each file is synced to disk before it gets its name. Waiting for eight at a time takes a tenth of the time of waiting
# for one after the other (800 radiographs of 64 pixels: 0.5 s for 4.4 s).
THREADS = 8
BATCH = 128


@dataclass(frozen=True)
class Original:
    """A file of the download, taken over byte by byte."""

    path: Path

    def same_as(self, existing: Path) -> bool:
        """Whether `existing` holds the same bytes; sizes first, they tell most differences at once."""
        if existing.stat().st_size != self.path.stat().st_size:
            return False
        return existing.samefile(self.path) or existing.read_bytes() == self.path.read_bytes()

    def loaded(self) -> Original:
        return self

    def write(self, target: Path, link: bool) -> None:
        if link:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)  # only ever a link whose file is gone: see `missing_files`
            target.symlink_to(self.path.resolve())
            return
        with self.path.open("rb") as source, atomic_write(target) as temporary, temporary.open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)


@dataclass(frozen=True)
class Pixels:
    """An image that the download holds in another form; written as PNG, which loses nothing."""

    make: Callable[[], np.ndarray]  # H W (grey) or H W 3, uint8

    def same_as(self, existing: Path) -> bool:
        """Whether `existing` shows the same pixels: encoded bytes differ between versions of the PNG library."""
        try:
            with Image.open(existing) as image:
                return np.array_equal(np.asarray(image), self.make())
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # no image at all
            return False

    def loaded(self) -> Pixels:
        """With the pixels in memory: archives have to be read in order, and by one thread."""
        pixels = self.make()
        return Pixels(lambda: pixels)

    def write(self, target: Path, link: bool) -> None:
        image = Image.fromarray(self.make())
        with atomic_write(target) as temporary:
            image.save(temporary, format="PNG")


Content = Original | Pixels


def missing_files(files: dict[Path, Content]) -> dict[Path, Content]:
    """Those of `files` (target: content) that have to be written.

    Raises `UserError` for the first target that exists with other content, so that a conflict is known before
    anything is written. A link whose file is gone holds nothing, and counts as missing.
    """
    missing = {}
    for target, content in tqdm(files.items(), desc="checking", unit="file", disable=None):
        if not target.exists():
            missing[target] = content
        elif not target.is_file() or not _same(content, target):
            raise UserError(
                f"{target} exists and differs from the download's file of that name; nothing was changed:"
                " move or delete it, or choose another --dataRoot"
            )
    return missing


def _same(content: Content, existing: Path) -> bool:
    try:
        return content.same_as(existing)
    except OSError as error:
        raise UserError(f"cannot compare {existing} with the download ({error}): check both and run again") from error


def write_files(files: dict[Path, Content], *, link: bool) -> None:
    """Writes every content to its target: copies, or with `link` makes links to the download's own files."""

    def write(file: tuple[Path, Content]) -> None:
        target, content = file
        try:
            content.write(target, link)
        except OSError as error:
            raise UserError(f"cannot make {target} ({error}): mend that and run again, it continues") from error

    pending = list(files.items())
    with (
        tqdm(total=len(pending), desc="linking" if link else "copying", unit="file", disable=None) as progress,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        for start in range(0, len(pending), BATCH):
            batch = [(target, content.loaded()) for target, content in pending[start : start + BATCH]]
            for _ in pool.map(write, batch):
                progress.update()


def open_image(path: Path) -> Image.Image:
    """The decoded image; `UserError` for a damaged one."""
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except Exception as error:  # Pillow meets damaged files with exceptions of a dozen kinds
        raise UserError(f"{path} is not a readable image ({error}): download or unpack it again") from error
