"""Files of tensors with a checksum, in which a run keeps the progress that it resumes from."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any, cast

import torch

from advmia.errors import UserError
from advmia.runtime.files import atomic_write

_DIGEST_BYTES = 32  # a file begins with the SHA-256 of the rest, because torch reads damaged tensors without an error


class DamagedError(Exception):
    """The error of a file whose content is not what was written."""


def write_sealed(path: Path, state: dict[str, Any]) -> None:
    """Writes the state atomically, with its checksum. `state`: what `torch.load(weights_only=True)` can read."""
    content = io.BytesIO()
    torch.save(state, content)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write(hashlib.sha256(content.getbuffer()).digest())
        file.write(content.getbuffer())


def read_sealed(path: Path) -> dict[str, Any] | None:
    """Returns the state that `write_sealed` wrote, with tensors on the CPU, or None if there is no file.

    Raises `DamagedError` if the content has changed, and `UserError` if the file cannot be read. Runs no code from the
    file.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): check it, or delete it to begin anew") from error
    if hashlib.sha256(memoryview(content)[_DIGEST_BYTES:]).digest() != content[:_DIGEST_BYTES]:
        raise DamagedError("its checksum does not fit")
    try:
        state = torch.load(io.BytesIO(memoryview(content)[_DIGEST_BYTES:]), map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling may raise anything
        raise DamagedError(type(error).__name__) from error
    return cast("dict[str, Any]", state)
