"""Decoded, resized images, kept as one uint8 array per list under the data root.

An array's name comes from the files' names and the transform; beside it stand the files' sizes and times and a
checksum. An array that does not fit them, or does not read back as it was written, is built again. A lock makes a
second process wait for the first one's work instead of repeating it.
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
_FILES_AT_A_TIME = 256  # bounds the memory that decoded images wait in
_CHECKSUM_BYTES = 1 << 24  # read at a time


@dataclass(frozen=True)
class CachedArray:
    """Pixels mapped read-only from a cache file, and what tells them from any others."""

    pixels: np.ndarray  # uint8
    crc32: int


def cached_images(root: Path, samples: SampleList, *, workers: int) -> CachedArray:
    """The list's images, decoded, resized and cropped: uint8 (N, S, S, 3).

    `workers`: threads that decode when the cache has to be built. Raises `UserError` naming the row of an image that
    cannot be read.
    """
    spec = samples.spec
    job = _Job(
        samples=samples,
        names=samples.files,
        folder=samples.folder / spec.image_folder,
        recipe=f"image: RGB, bilinear {spec.resize}, crop {spec.size}",
        shape=(spec.size, spec.size, 3),
        load=partial(load_image, resize=spec.resize, size=spec.size),
    )
    return _cached(root, job, workers)


def cached_masks(root: Path, samples: SampleList, *, workers: int) -> CachedArray:
    """The list's masks: uint8 (N, S, S) of 0 and 1, row for row with `cached_images`."""
    spec = samples.spec
    job = _Job(
        samples=samples,
        names=samples.masks,
        folder=samples.folder / str(spec.mask_folder),
        recipe=f"mask: L, nearest {spec.size}, threshold",
        shape=(spec.size, spec.size),
        load=partial(load_mask, size=spec.size),
    )
    return _cached(root, job, workers)


@dataclass(frozen=True)
class _Job:
    """What one cache array holds."""

    samples: SampleList
    names: tuple[str, ...]
    folder: Path
    recipe: str
    shape: tuple[int, ...]  # of one item
    load: Callable[[Path], np.ndarray]

    def file_stem(self) -> str:
        """Depends on which files in which order, and on the transform; Pillow's release is part of the transform."""
        key = json.dumps([self.recipe, PIL.__version__, self.samples.spec.folder, self.names])
        return f"{self.samples.spec.folder}-{hashlib.sha256(key.encode()).hexdigest()[:20]}"

    def header(self) -> bytes:
        """What the array's .npy file begins with."""
        header = io.BytesIO()
        shape = (len(self.names), *self.shape)
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
        return header.getvalue()

    def fingerprint(self) -> str:
        """Changes with any input file's size or modification time."""
        stats = []
        for position in range(len(self.names)):
            with self._reading(position) as path:
                stats.append(path.stat())
        return hashlib.sha256(json.dumps([(s.st_size, s.st_mtime_ns) for s in stats]).encode()).hexdigest()

    def load_item(self, position: int) -> np.ndarray:
        with self._reading(position) as path:
            return self.load(path)

    @contextmanager
    def _reading(self, position: int) -> Iterator[Path]:
        path = self.folder / self.names[position]
        try:
            yield path
        except Exception as error:  # Pillow meets damaged files with exceptions of a dozen kinds
            raise UserError(
                f"{self.samples.path} row {self.samples.row_numbers[position]}: cannot read {path} ({error});"
                f" fetch the file again or take the row out of the list"
            ) from error


def _cached(root: Path, job: _Job, workers: int) -> CachedArray:
    path = root / CACHE_FOLDER / f"{job.file_stem()}.npy"
    cached = _read(path, job, job.fingerprint())  # a finished array needs no lock: a read-only folder will do
    if cached is None:
        with _locked(path.with_suffix(".lock")):
            fingerprint = job.fingerprint()
            cached = _read(path, job, fingerprint)
            if cached is None:
                _build(path, job, fingerprint, workers)
                cached = _read(path, job, fingerprint)
    if cached is None:
        raise UserError(f"{path} does not read back as it was written: check the disk, or change --dataRoot")
    return cached


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time; the system drops the lock when its holder dies."""
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


def _read(path: Path, job: _Job, fingerprint: str) -> CachedArray | None:
    """The array, if it is there, whole, and made from the files as they are now."""
    header = job.header()  # known to the byte: nothing in a damaged file is parsed
    try:
        facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        with path.open("rb") as file:
            is_ours = file.read(len(header)) == header
        pixels = np.memmap(path, np.uint8, mode="r", offset=len(header), shape=(len(job.names), *job.shape))
    except (OSError, ValueError, RecursionError):
        return None
    if not is_ours or not isinstance(facts, dict) or facts.get("fingerprint") != fingerprint:
        return None
    checksum = _checksum(pixels)
    return CachedArray(pixels, checksum) if facts.get("crc32") == checksum else None


def _checksum(array: np.ndarray) -> int:
    checksum = 0
    flat = array.reshape(-1)
    for start in range(0, flat.size, _CHECKSUM_BYTES):
        checksum = zlib.crc32(flat[start : start + _CHECKSUM_BYTES].data, checksum)
    return checksum


def _build(path: Path, job: _Job, fingerprint: str, workers: int) -> None:
    """Decodes every file and writes array and facts. Old facts go first, so that a kill leaves nothing half true; but
    not before all is decoded, so that nothing is lost for a file that cannot be."""
    for leftover in path.parent.glob(f".{path.stem}.*.tmp"):  # of a killed build; the lock is ours
        leftover.unlink()
    count, checksum = len(job.names), 0
    bar = tqdm(total=count, desc=f"caching {job.folder}", unit="img", disable=None)
    # Plain writes, not a memory map: on a full disk a map would end the process without a word.
    with atomic_write(path) as temporary, temporary.open("wb") as file, ThreadPoolExecutor(workers) as pool, bar:
        file.write(job.header())
        for start in range(0, count, _FILES_AT_A_TIME):
            for item in pool.map(job.load_item, range(start, min(start + _FILES_AT_A_TIME, count))):
                data = np.ascontiguousarray(item).tobytes()
                checksum = zlib.crc32(data, checksum)
                file.write(data)
                bar.update()
        path.with_suffix(".json").unlink(missing_ok=True)
    write_text(path.with_suffix(".json"), json.dumps({"fingerprint": fingerprint, "crc32": checksum}) + "\n")
