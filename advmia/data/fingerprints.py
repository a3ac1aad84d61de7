"""Fingerprints of files: a digest of each file's content, computed again only for files that may have changed.

A file whose inode, size, modification time and change time are those of its fingerprint has the same content: a
replaced file has another inode, and writing into a file, or setting its modification time back, moves its change time.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from advmia.runtime.files import atomic_write

Status = tuple[int, int, int, int]  # a file's inode, size, and modification and change time in nanoseconds


def status_of(path: Path) -> Status:
    """Returns a file's status; of a link, that of its target."""
    status = path.stat()
    inode = status.st_ino & (2**63 - 1)  # some file systems use all 64 bits
    return inode, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def digest_of(path: Path) -> bytes:
    """Returns the 128-bit BLAKE2b digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()


@dataclass(frozen=True)
class Fingerprints:
    """The fingerprints of N files, in the order of a list."""

    statuses: np.ndarray  # int64 (N, 4), see `Status`
    digests: np.ndarray  # int64 (N, 2): 128 bits of each file

    @classmethod
    def of(cls, statuses: list[Status], digests: list[bytes]) -> Fingerprints:
        """Returns the fingerprints of files with these statuses and digests of 16 bytes."""
        bits = np.frombuffer(b"".join(digests), dtype=np.int64)
        return cls(np.array(statuses, dtype=np.int64).reshape(-1, 4), bits.reshape(-1, 2))

    @classmethod
    def load(cls, path: Path) -> Fingerprints | None:
        """Reads fingerprints from a file; None if there is none, or it is damaged."""
        try:
            table = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        if table.dtype != np.int64 or table.ndim != 2 or table.shape[1] != 6:
            return None
        return cls(table[:, :4], table[:, 4:])

    def save(self, path: Path) -> None:
        """Writes the fingerprints atomically. Raises `UserError` if the file cannot be written."""
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.save(file, np.hstack([self.statuses, self.digests]))

    def moved(self, statuses: list[Status]) -> np.ndarray:
        """Returns the indices of the files whose status is another now: their content may have changed."""
        now = np.array(statuses, dtype=np.int64).reshape(-1, 4)
        return np.flatnonzero((now != self.statuses).any(axis=1))

    def changed(self, other: Fingerprints) -> np.ndarray:
        """Returns the indices of the files whose content is another one in `other`."""
        return np.flatnonzero((self.digests != other.digests).any(axis=1))

    def content(self) -> str:
        """Returns the SHA-256 of all digests: it identifies the content of all files, in their order."""
        return hashlib.sha256(np.ascontiguousarray(self.digests).tobytes()).hexdigest()
