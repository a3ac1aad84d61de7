"""Files from which a training or an evaluation goes on where it was stopped or killed."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import torch

from advmia.errors import UserError
from advmia.files import whole_file
from advmia.runtime import say

_DIGEST_BYTES = 32  # SHA-256 of all that follows: torch reads a damaged file without a word
_SAVE_SECONDS = 5.0  # between two savings of an evaluation, which may come many times a second


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


def save_training(checkpoint: Path, settings: Mapping[str, Any], parts: Mapping[str, Part]) -> None:
    """Writes the parts' states beside the checkpoint, whole or not at all."""
    states = {name: part.state_dict() for name, part in parts.items()}
    _write(state_path(checkpoint), {"settings": json.dumps(settings), "parts": states})


def read_training(checkpoint: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The states of the parts, by name; None where no state is.

    Raises `UserError` where the file is damaged, or of a training of other settings, which it names.
    """
    path = state_path(checkpoint)
    advice = "delete it, or leave out --resume, to begin anew"
    try:
        state = _read(path)
        found, parts = ({}, {}) if state is None else (json.loads(state["settings"]), dict(state["parts"]))
    except (_DamagedError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged, or no training state ({error}); {advice}") from error
    if state is None:
        return None
    wanted = json.loads(json.dumps(settings))  # through JSON, as the others went
    unlike = list(_differences(found, wanted))
    if unlike:
        raise UserError(f"{path} is of another training: {'; '.join(unlike)}. Repeat its arguments, or {advice}")
    return parts


class Unfinished:
    """What is done of an evaluation under way, in a file that is there only until the evaluation is finished."""

    def __init__(self, path: Path, evaluation: object) -> None:
        """`evaluation`: all that its outcomes depend on, of what JSON knows."""
        self._path, self._evaluation = path, json.dumps(evaluation)
        self._saved = time.monotonic()

    def load(self) -> list[Any]:
        """The states that were saved of this very evaluation; none where nothing is, or nothing that is whole."""
        try:
            found = _read(self._path)
        except _DamagedError as error:
            say(f"{self._path} is damaged ({error}): what it kept is attacked again")
            return []
        is_ours = isinstance(found, dict) and found.get("evaluation") == self._evaluation
        return list(found.get("states", [])) if found is not None and is_ours else []

    def save_if_due(self, states: Callable[[], list[Any]]) -> None:
        """Saves, unless that was done just now: what is lost by a kill is `_SAVE_SECONDS` and a batch at the most."""
        if time.monotonic() - self._saved >= _SAVE_SECONDS:
            self.save(states())

    def save(self, states: list[Any]) -> None:
        _write(self._path, {"evaluation": self._evaluation, "states": states})
        self._saved = time.monotonic()

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


class _DamagedError(Exception):
    """A file that is not as it was written."""


def _write(path: Path, state: dict[str, Any]) -> None:
    content = io.BytesIO()
    torch.save(state, content)
    with whole_file(path) as temporary, temporary.open("wb") as file:
        file.write(hashlib.sha256(content.getbuffer()).digest())
        file.write(content.getbuffer())


def _read(path: Path) -> dict[str, Any] | None:
    """What was written; None where no file is. Executes nothing that the file says."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): check it, or delete it to begin anew") from error
    if hashlib.sha256(memoryview(raw)[_DIGEST_BYTES:]).digest() != raw[:_DIGEST_BYTES]:
        raise _DamagedError("its checksum does not fit")
    try:
        state = torch.load(io.BytesIO(memoryview(raw)[_DIGEST_BYTES:]), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever unpickling raises
        raise _DamagedError(type(error).__name__) from error
    return cast("dict[str, Any]", state)


def _differences(found: Any, wanted: Any, name: str = "") -> Iterator[str]:
    """`batch_size was 32, is 16`, for each value that is not the same."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in [*found, *(key for key in wanted if key not in found)]:
            yield from _differences(found.get(key), wanted.get(key), f"{name} {key}".strip())
    elif found != wanted:
        yield f"{name} was {found}, is {wanted}"
