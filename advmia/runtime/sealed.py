"""Files from which a training or an evaluation goes on where it was stopped or killed."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any, cast

import torch

from advmia.errors import UserError
from advmia.runtime.files import atomic_write

_DIGEST_BYTES = 32  # SHA-256 of all that follows: torch reads a damaged file without a word


class DamagedError(Exception):
    """A file that is not as it was written."""


def write_sealed(path: Path, state: dict[str, Any]) -> None:
    content = io.BytesIO()
    torch.save(state, content)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write(hashlib.sha256(content.getbuffer()).digest())
        file.write(content.getbuffer())


def read_sealed(path: Path) -> dict[str, Any] | None:
    """What was written; None where no file is. Executes nothing that the file says."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): check it, or delete it to begin anew") from error
    if hashlib.sha256(memoryview(raw)[_DIGEST_BYTES:]).digest() != raw[:_DIGEST_BYTES]:
        raise DamagedError("its checksum does not fit")
    try:
        state = torch.load(io.BytesIO(memoryview(raw)[_DIGEST_BYTES:]), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever unpickling raises
        raise DamagedError(type(error).__name__) from error
    return cast("dict[str, Any]", state)
