"""`<checkpoint>.state`: what a training needs to go on where it was stopped or killed."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch

from advmia.checkpoints import TrainingSettings
from advmia.errors import UserError
from advmia.files import whole_file

_DIGEST_BYTES = 32  # SHA-256 of all that follows: torch reads a damaged file without a word


class Part(Protocol):
    """One thing that changes during a training: the network, the optimizer, ..."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Any) -> Any: ...


class Generators:
    """The global random generators, of which dropout draws."""

    def state_dict(self) -> dict[str, Any]:
        return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        torch.set_rng_state(state_dict["cpu"])
        if len(state_dict["cuda"]) == torch.cuda.device_count():  # elsewhere there is nothing that they would fit
            torch.cuda.set_rng_state_all(state_dict["cuda"])


def state_path(checkpoint: Path) -> Path:
    """`<checkpoint>.state`; the name is full of dots, so it is appended, not replaced."""
    return checkpoint.with_name(checkpoint.name + ".state")


def save_state(checkpoint: Path, settings: TrainingSettings, parts: Mapping[str, Part]) -> None:
    """Writes the parts' states beside the checkpoint, whole or not at all."""
    content = io.BytesIO()
    states = {name: part.state_dict() for name, part in parts.items()}
    torch.save({"settings": json.dumps(asdict(settings)), "parts": states}, content)
    with whole_file(state_path(checkpoint)) as temporary, temporary.open("wb") as file:
        file.write(hashlib.sha256(content.getbuffer()).digest())
        file.write(content.getbuffer())


def read_state(checkpoint: Path, settings: TrainingSettings) -> dict[str, Any] | None:
    """The states of the parts, by name; None where no state is. Executes nothing that the file says.

    Raises `UserError` where the file is damaged, or of a training of other settings, which it names.
    """
    path = state_path(checkpoint)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): check it, or leave out --resume") from error
    advice = "delete it, or leave out --resume, to begin anew"
    if hashlib.sha256(memoryview(raw)[_DIGEST_BYTES:]).digest() != raw[:_DIGEST_BYTES]:
        raise UserError(f"{path} is damaged: its checksum does not fit; {advice}")
    try:
        state = torch.load(io.BytesIO(memoryview(raw)[_DIGEST_BYTES:]), map_location="cpu", weights_only=True)
        found, parts = json.loads(state["settings"]), state["parts"]
    except Exception as error:  # whatever unpickling raises
        raise UserError(f"{path} is no training state of this program ({type(error).__name__}); {advice}") from error
    wanted = json.loads(json.dumps(asdict(settings)))  # through JSON, as the others went
    unlike = list(_differences(found, wanted))
    if unlike:
        raise UserError(f"{path} is of another training: {'; '.join(unlike)}. Repeat its arguments, or {advice}")
    return dict(parts)


def _differences(found: Any, wanted: Any, name: str = "") -> Iterator[str]:
    """`batch_size was 32, is 16`, for each value that is not the same."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in [*found, *(key for key in wanted if key not in found)]:
            yield from _differences(found.get(key), wanted.get(key), f"{name} {key}".strip())
    elif found != wanted:
        yield f"{name} was {found}, is {wanted}"
