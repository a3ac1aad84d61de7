"""Caches decoded, resized images: one uint8 array for each list and transform, under the data root.

An array's name depends on the files' names and on the transform. Beside it stand a fingerprint of the files' sizes and
modification times, and a checksum of the pixels. An array that fails either check is built again. A lock makes a second
process wait for the first one's array instead of building it too.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import PIL
from tqdm import tqdm

from advmia.data.readers import SampleList
from advmia.data.transforms import load_image, load_mask
from advmia.errors import UserError
from advmia.runtime.files import atomic_write, write_text

CACHE_FOLDER = "cache"
_FILES_AT_A_TIME = 256  # limits the memory for decoded images that wait to be written
_CHECKSUM_BYTES = 1 << 24  # read at a time to compute the checksum


@dataclass(frozen=True)
class CachedArray:
    """Pixels of a list, mapped read-only from a cache file, and their checksum."""

    pixels: np.ndarray  # uint8
    crc32: int


def cached_images(root: Path, samples: SampleList, *, workers: int) -> CachedArray:
    """Returns the list's images, decoded, resized and cropped: uint8 (N, S, S, 3).

    If the cache has to be built, `workers` threads decode. Raises `UserError` for an image that cannot be read, naming
    its row, and for a cache that cannot be written.
    """
    spec = samples.spec
    recipe = _Recipe(
        samples=samples,
        names=samples.files,
        folder=samples.folder / spec.image_folder,
        transform=f"image: RGB, bilinear {spec.resize}, crop {spec.size}",
        shape=(spec.size, spec.size, 3),
        load=partial(load_image, resize=spec.resize, size=spec.size),
    )
    return _cached(root, recipe, workers)


def cached_masks(root: Path, samples: SampleList, *, workers: int) -> CachedArray:
    """Returns the list's masks, uint8 (N, S, S) of 0 and 1, in the order of `cached_images`."""
    spec = samples.spec
    recipe = _Recipe(
        samples=samples,
        names=samples.masks,
        folder=samples.folder / str(spec.mask_folder),
        transform=f"mask: L, nearest {spec.size}, threshold",
        shape=(spec.size, spec.size),
        load=partial(load_mask, size=spec.size),
    )
    return _cached(root, recipe, workers)


@dataclass(frozen=True)
class _Recipe:
    """The files that an array is made of, and the transform that makes it."""

    samples: SampleList
    names: tuple[str, ...]  # of the files in `folder`
    folder: Path
    transform: str  # names the transform in the array's file name
    shape: tuple[int, ...]  # of one image or mask
    load: Callable[[Path], np.ndarray]

    def file_stem(self) -> str:
        """Returns a name that depends on the files, their order, the transform and Pillow's version."""
        key = json.dumps([self.transform, PIL.__version__, self.samples.spec.folder, self.names])
        return f"{self.samples.spec.folder}-{hashlib.sha256(key.encode()).hexdigest()[:20]}"

    def header(self) -> bytes:
        """Returns the first bytes of the array's .npy file."""
        header = io.BytesIO()
        shape = (len(self.names), *self.shape)
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
        return header.getvalue()

    def fingerprint(self) -> str:
        """Returns a hash of all files' sizes and modification times."""
        stats = []
        for index in range(len(self.names)):
            with self._named_errors(index) as path:
                stats.append(path.stat())
        return hashlib.sha256(json.dumps([(s.st_size, s.st_mtime_ns) for s in stats]).encode()).hexdigest()

    def load_item(self, index: int) -> np.ndarray:
        """Decodes one file to uint8 of shape `shape`."""
        with self._named_errors(index) as path:
            return self.load(path)

    @contextmanager
    def _named_errors(self, index: int) -> Iterator[Path]:
        """Yields the file's path; any error inside becomes a `UserError` that names the file and its row."""
        path = self.folder / self.names[index]
        try:
            yield path
        except Exception as error:  # Pillow raises a dozen kinds of exceptions for damaged files
            raise UserError(
                f"{self.samples.path} row {self.samples.row_numbers[index]}: cannot read {path} ({error});"
                f" fetch the file again or take the row out of the list"
            ) from error


def _cached(root: Path, recipe: _Recipe, workers: int) -> CachedArray:
    path = root / CACHE_FOLDER / f"{recipe.file_stem()}.npy"
    cached = _read_valid(path, recipe, recipe.fingerprint())  # without the lock: the folder may be read-only
    if cached is None:
        with _lock(path.with_suffix(".lock")):
            fingerprint = recipe.fingerprint()
            cached = _read_valid(path, recipe, fingerprint)  # another process may have built it meanwhile
            if cached is None:
                _build(path, recipe, fingerprint, workers)
                cached = _read_valid(path, recipe, fingerprint)
    if cached is None:
        raise UserError(f"{path} does not read back as it was written: check the disk, or change --dataRoot")
    return cached


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Holds the lock file during the block; one process at a time can. The system releases it if the process dies."""
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fcntl.flock(stack.enter_context(path.open("w")), fcntl.LOCK_EX)
        except OSError as error:
            raise UserError(
                f"cannot write the image cache at {path.parent} ({error.strerror}): make it writable,"
                f" or choose another --dataRoot"
            ) from error
        yield


def _read_valid(path: Path, recipe: _Recipe, fingerprint: str) -> CachedArray | None:
    """Maps the array from its file; None if it is missing, damaged, or made from other versions of the images."""
    header = recipe.header()  # compared byte by byte, so that nothing in a damaged file is parsed
    try:
        facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        with path.open("rb") as file:
            same_header = file.read(len(header)) == header
        shape = (len(recipe.names), *recipe.shape)
        pixels = np.memmap(path, np.uint8, mode="r", offset=len(header), shape=shape)
    except (OSError, ValueError, RecursionError):
        return None
    if not same_header or not isinstance(facts, dict) or facts.get("fingerprint") != fingerprint:
        return None
    checksum = _checksum(pixels)
    return CachedArray(pixels, checksum) if facts.get("crc32") == checksum else None


def _checksum(array: np.ndarray) -> int:
    checksum = 0
    flat = array.reshape(-1)
    for start in range(0, flat.size, _CHECKSUM_BYTES):
        checksum = zlib.crc32(flat[start : start + _CHECKSUM_BYTES].data, checksum)
    return checksum


def _build(path: Path, recipe: _Recipe, fingerprint: str, workers: int) -> None:
    """Decodes every file and writes the array, then its fingerprint and checksum.

    The old fingerprint is removed after the last file is decoded and before the array is replaced: a kill never leaves
    an array with another one's fingerprint, and a file that cannot be decoded costs nothing.
    """
    for leftover in path.parent.glob(f".{path.stem}.*.tmp"):  # of a killed process, since this one holds the lock
        leftover.unlink()
    count, checksum = len(recipe.names), 0
    bar = tqdm(total=count, desc=f"caching {recipe.folder}", unit="img", disable=None)
    # Written, not memory-mapped: writing to a map on a full disk would kill the process without a message.
    with atomic_write(path) as temporary, temporary.open("wb") as file, ThreadPoolExecutor(workers) as pool, bar:
        file.write(recipe.header())
        for start in range(0, count, _FILES_AT_A_TIME):
            for item in pool.map(recipe.load_item, range(start, min(start + _FILES_AT_A_TIME, count))):
                data = np.ascontiguousarray(item).tobytes()
                checksum = zlib.crc32(data, checksum)
                file.write(data)
                bar.update()
        path.with_suffix(".json").unlink(missing_ok=True)
    write_text(path.with_suffix(".json"), json.dumps({"fingerprint": fingerprint, "crc32": checksum}) + "\n")
