"""Caches decoded, resized images: one uint8 array for each list and transform, under the data root.

An array's name depends on the files' names and on the transform. Beside it stand the fingerprints of the files, and a
JSON object with a digest of all fingerprints, the transform's remarks about the files, and a checksum of the pixels. If
a file has another content, or a check fails, the array is built again. A lock makes a second process wait for the first
one's array instead of building it too.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import PIL

from advmia.data.fingerprints import Fingerprints, digest_of, status_of
from advmia.data.readers import SampleList
from advmia.data.transforms import load_image, load_mask
from advmia.errors import UserError
from advmia.runtime.files import atomic_write, read_json_object, write_text
from advmia.runtime.progress import Bar
from advmia.runtime.terminal import say

T = TypeVar("T")
Remarks = dict[str, tuple[int, str]]  # by remark: the number of files that it is about, and the name of the first

CACHE_FOLDER = "cache"
_FILES_AT_A_TIME = 256  # limits the memory for decoded images that wait to be written
_CHECKSUM_BYTES = 1 << 24  # read at a time to compute the checksum
_NAMED_FILES = 3  # of those that have changed


@dataclass(frozen=True)
class CachedArray:
    """Pixels of a list, mapped read-only from a cache file, their checksum, and remarks about their files."""

    pixels: np.ndarray  # uint8
    crc32: int
    remarks: Remarks


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
    """Returns the list's masks, uint8 (N, S, S) of classes, in the order of `cached_images`.

    The remarks are the masks' encodings, as text.
    """
    spec = samples.spec
    form = f"classes {spec.mask_values}" if spec.mask_values else f"foreground {spec.foreground}"
    recipe = _Recipe(
        samples=samples,
        names=samples.masks,
        folder=samples.folder / str(spec.mask_folder),
        transform=f"mask: {form}, nearest {spec.size}",
        shape=(spec.size, spec.size),
        load=partial(load_mask, size=spec.size, foreground=spec.foreground, values=spec.mask_values),
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
    load: Callable[..., np.ndarray]  # takes a path, and as `note` a function that gets remarks about the file

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

    def fingerprints(self, workers: int, known: Fingerprints | None = None) -> Fingerprints:
        """Returns the fingerprints of the files. Reads only those that are not as `known` says."""
        statuses = [self._checked(index, status_of) for index in range(len(self.names))]
        moved = list(range(len(statuses))) if known is None else known.moved(statuses)
        digests = [bytes(16)] * len(statuses) if known is None else [row.tobytes() for row in known.digests]
        with ThreadPoolExecutor(workers) as pool:
            for index, digest in zip(
                moved, pool.map(lambda index: self._checked(index, digest_of), moved), strict=True
            ):
                digests[index] = digest
        return Fingerprints.of(statuses, digests)

    def load_item(self, index: int) -> tuple[np.ndarray, list[str]]:
        """Decodes one file to uint8 of shape `shape`; returns it with the remarks about the file."""
        remarks: list[str] = []
        return self._checked(index, partial(self.load, note=remarks.append)), remarks

    def _checked(self, index: int, read: Callable[[Path], T]) -> T:
        """Returns what `read` returns for a file; any error becomes a `UserError` that names the file and its row."""
        path = self.folder / self.names[index]
        try:
            return read(path)
        except Exception as error:  # Pillow raises a dozen kinds of exceptions for damaged files
            raise UserError(
                f"{self.samples.path} row {self.samples.row_numbers[index]}: cannot read {path} ({error});"
                f" replace the file or take the row out of the list"
            ) from error


def _cached(root: Path, recipe: _Recipe, workers: int) -> CachedArray:
    path = root / CACHE_FOLDER / f"{recipe.file_stem()}.npy"
    cached = _read_valid(path, recipe, workers)  # without the lock: the folder may be read-only
    if cached is None:
        with _lock(path.with_suffix(".lock")):
            cached = _read_valid(path, recipe, workers)  # another process may have built it meanwhile
            if cached is None:
                _build(path, recipe, workers)
                cached = _read_valid(path, recipe, workers)
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


def _fingerprint_path(path: Path) -> Path:
    """Returns the path of the fingerprints that belong to the array at `path`."""
    return path.with_suffix(".files.npy")


def _read_valid(path: Path, recipe: _Recipe, workers: int) -> CachedArray | None:
    """Maps the array from its file; None if it is missing, damaged, or made from other files."""
    header = recipe.header()  # compared byte by byte, so that nothing in a damaged file is parsed
    facts, known = read_json_object(path.with_suffix(".json")), Fingerprints.load(_fingerprint_path(path))
    if facts is None or known is None or len(known.statuses) != len(recipe.names):
        return None
    try:
        with path.open("rb") as file:
            same_header = file.read(len(header)) == header
        pixels = np.memmap(path, np.uint8, mode="r", offset=len(header), shape=(len(recipe.names), *recipe.shape))
        remarks = {str(remark): (int(count), str(name)) for remark, (count, name) in facts["remarks"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    now = recipe.fingerprints(workers, known)
    if not same_header or facts.get("content") != now.content() or facts.get("crc32") != _checksum(pixels):
        return None
    if not np.array_equal(now.statuses, known.statuses):
        with suppress(UserError):  # in a read-only folder, the files are read again next time
            now.save(_fingerprint_path(path))
    return CachedArray(pixels, facts["crc32"], remarks)


def _checksum(array: np.ndarray) -> int:
    checksum = 0
    flat = array.reshape(-1)
    for start in range(0, flat.size, _CHECKSUM_BYTES):
        checksum = zlib.crc32(flat[start : start + _CHECKSUM_BYTES].data, checksum)
    return checksum


def _build(path: Path, recipe: _Recipe, workers: int) -> None:
    """Decodes every file and writes the array, then the fingerprints and the facts about them.

    The old facts are removed after the last file is decoded and before the array is replaced: a kill never leaves an
    array with another one's facts, and a file that cannot be decoded costs nothing. Each file is fingerprinted before
    it is decoded, so that one that changes in between is noticed.
    """
    for leftover in path.parent.glob(f".{path.stem}.*.tmp"):  # of a killed process, since this one holds the lock
        leftover.unlink()
    known = Fingerprints.load(_fingerprint_path(path))
    fingerprints = recipe.fingerprints(workers)
    _report_changes(recipe, known, fingerprints)
    count, checksum = len(recipe.names), 0
    remarks: Remarks = {}
    bar = Bar(total=count, desc=f"caching {recipe.folder}", unit="images")
    # Written, not memory-mapped: writing to a map on a full disk would kill the process without a message.
    with atomic_write(path) as temporary, temporary.open("wb") as file, ThreadPoolExecutor(workers) as pool, bar:
        file.write(recipe.header())
        for start in range(0, count, _FILES_AT_A_TIME):
            indices = range(start, min(start + _FILES_AT_A_TIME, count))
            for index, (item, item_remarks) in zip(indices, pool.map(recipe.load_item, indices), strict=True):
                data = np.ascontiguousarray(item).tobytes()
                checksum = zlib.crc32(data, checksum)
                file.write(data)
                for remark in item_remarks:
                    number, first = remarks.get(remark, (0, recipe.names[index]))
                    remarks[remark] = (number + 1, first)
                bar.update()
        path.with_suffix(".json").unlink(missing_ok=True)
    fingerprints.save(_fingerprint_path(path))
    facts = {"content": fingerprints.content(), "crc32": checksum, "remarks": remarks}
    write_text(path.with_suffix(".json"), json.dumps(facts) + "\n")


def _report_changes(recipe: _Recipe, known: Fingerprints | None, now: Fingerprints) -> None:
    """Says which files have changed since an earlier array was built."""
    if known is None or len(known.digests) != len(now.digests):
        return
    changed = known.changed(now)
    if len(changed):
        names = ", ".join(recipe.names[index] for index in changed[:_NAMED_FILES])
        more = ", ..." if len(changed) > _NAMED_FILES else ""
        say(
            f"{len(changed)} of {len(recipe.names)} files in {recipe.folder} have changed ({names}{more}):"
            " all are decoded again"
        )
