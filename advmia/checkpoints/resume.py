"""The story of training and of testing, told once for every task. Only here and in `cli` are command lines known."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from enum import Enum, auto
from pathlib import Path
from typing import Any, Protocol

import torch

from advmia.checkpoints.best import read_record
from advmia.checkpoints.paths import picture_path, record_path, state_path
from advmia.checkpoints.settings import TrainingSettings
from advmia.errors import UserError
from advmia.runtime.files import rename_existing
from advmia.runtime.sealed import DamagedError, read_sealed, write_sealed
from advmia.runtime.terminal import say


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


def save_training(checkpoint: Path, settings: Mapping[str, Any], parts: Mapping[str, Part]) -> None:
    """Writes the parts' states beside the checkpoint, whole or not at all."""
    states = {name: part.state_dict() for name, part in parts.items()}
    write_sealed(state_path(checkpoint), {"settings": json.dumps(settings), "parts": states})


def read_training(checkpoint: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The states of the parts, by name; None where no state is.

    Raises `UserError` where the file is damaged, or of a training of other settings, which it names.
    """
    path = state_path(checkpoint)
    advice = "delete it, or leave out --resume, to begin anew"
    try:
        state = read_sealed(path)
        found, parts = ({}, {}) if state is None else (json.loads(state["settings"]), dict(state["parts"]))
    except (DamagedError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged, or no training state ({error}); {advice}") from error
    if state is None:
        return None
    wanted = json.loads(json.dumps(settings))  # through JSON, as the others went
    unlike = list(_differences(found, wanted))
    if unlike:
        raise UserError(f"{path} is of another training: {'; '.join(unlike)}. Repeat its arguments, or {advice}")
    return parts


def _differences(found: Any, wanted: Any, name: str = "") -> Iterator[str]:
    """`batch_size was 32, is 16`, for each value that is not the same."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in [*found, *(key for key in wanted if key not in found)]:
            yield from _differences(found.get(key), wanted.get(key), f"{name} {key}".strip())
    elif found != wanted:
        yield f"{name} was {found}, is {wanted}"


class CheckpointStatus(Enum):
    """What is at a checkpoint's path, seen from the settings of a new run."""

    NOTHING = auto()
    FINISHED = auto()  # the network of these settings, trained to the end
    UNFINISHED = auto()  # of these settings, but its training was cut off
    ANOTHER = auto()  # of other settings, or of unknown ones


def status_of(path: Path, settings: TrainingSettings) -> CheckpointStatus:
    """How a new run of `settings` should look at `path`."""
    if not path.exists():
        return CheckpointStatus.NOTHING
    record = read_record(path)
    wanted = json.loads(json.dumps(asdict(settings)))  # through JSON, as the record went
    if record is None or record.get("settings") != wanted:
        return CheckpointStatus.ANOTHER
    return CheckpointStatus.FINISHED if record.get("finished") is True else CheckpointStatus.UNFINISHED


def rename_earlier_training(checkpoint: Path, found: CheckpointStatus | None, *, resume: bool) -> None:
    """What a training from the beginning would replace is renamed; none is lost.

    With `resume`, what the same training has left is gone on with, or made anew.
    """
    is_begun = state_path(checkpoint).exists()
    if not (resume and (is_begun or found is CheckpointStatus.UNFINISHED)):
        files = (checkpoint, record_path(checkpoint), picture_path(checkpoint), state_path(checkpoint))
        moved = ", ".join(path.name for path in rename_existing(*files))
        if is_begun:
            say(f"an unfinished training was at {checkpoint}, which --resume goes on with: kept as {moved}")
        elif moved:
            say(f"{checkpoint} was made with other settings, by another program or in part: kept as {moved}")
