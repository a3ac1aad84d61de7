"""What happens when a training is stopped or killed, and how it is resumed.

While a training runs, three files lie beside its checkpoint (see `advmia.checkpoints.paths`): the record, the picture
of its curves, and the state. The state file holds the training's settings and the state of all that changes during it.
It is written after every epoch and, with --saveEvery, within an epoch.

- Ctrl-C or SIGTERM: the training finishes the update under way, saves its state and exits.
- A kill or a power failure: the last saved state remains. Every file is written atomically, so none is ever half
  written.
- The same command with --resume reads the state and continues to the same weights, to the bit, that an undisturbed
  training would have reached.
- The same command without --resume starts a new training. It renames the existing files and deletes none.

When a training has finished, its state file is removed, and the same command does nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from enum import Enum, auto
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import torch

from advmia.checkpoints.best import read_record_of
from advmia.checkpoints.paths import all_paths, state_path
from advmia.checkpoints.settings import TrainingSettings
from advmia.errors import UserError
from advmia.runtime.files import rename_existing
from advmia.runtime.sealed import DamagedError, read_sealed, write_sealed
from advmia.runtime.terminal import say

_ADVICE = "delete it, or leave out --resume, to start a new training"


class Stateful(Protocol):
    """Something that changes during a training and is saved in its state: the network, the optimizer, ..."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Any) -> Any: ...


class RandomState:
    """The state of torch's global random generators, from which dropout draws."""

    def state_dict(self) -> dict[str, Any]:
        return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        torch.set_rng_state(state_dict["cpu"])
        if len(state_dict["cuda"]) == torch.cuda.device_count():  # with another number of GPUs the states do not fit
            torch.cuda.set_rng_state_all(state_dict["cuda"])


def save_training(checkpoint: Path, settings: TrainingSettings, parts: Mapping[str, Stateful]) -> None:
    """Writes the state of all parts beside the checkpoint, atomically. Raises `UserError` if the disk is full."""
    states = {name: part.state_dict() for name, part in parts.items()}
    write_sealed(state_path(checkpoint), {"settings": json.dumps(settings.to_json()), "parts": states})


def read_training(checkpoint: Path, settings: TrainingSettings) -> dict[str, Any] | None:
    """Returns the saved state of each part by name; None where there is no state file.

    Raises `UserError` if the file is damaged, or if it is of a training with other settings, which the error lists.
    """
    path = state_path(checkpoint)
    try:
        state = read_sealed(path)
        if state is None:
            return None
        saved_settings, parts = json.loads(state["settings"]), dict(state["parts"])
    except (DamagedError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged, or not the state of a training ({error}); {_ADVICE}") from error
    differences = list(_differences(saved_settings, _as_read(settings)))
    if differences:
        text = "; ".join(differences)
        raise UserError(f"{path} is of a training with other settings: {text}. Repeat its arguments, or {_ADVICE}")
    return parts


def _as_read(settings: TrainingSettings) -> Any:
    """Returns the settings as they are after being written to JSON and read again, e.g. lists in place of tuples."""
    return json.loads(json.dumps(settings.to_json()))


def _differences(saved: Any, current: Any, name: str = "") -> Iterator[str]:
    """Yields e.g. `batch_size was 32, is 16` for each value that differs."""
    if isinstance(saved, dict) and isinstance(current, dict):
        for key in [*saved, *(key for key in current if key not in saved)]:
            yield from _differences(saved.get(key), current.get(key), f"{name} {key}".strip())
    elif saved != current:
        yield f"{name} was {saved}, is {current}"


class CheckpointStatus(Enum):
    """What exists at a checkpoint's path, compared with the settings of a new training."""

    ABSENT = auto()
    FINISHED = auto()  # the same settings, trained to the end
    UNFINISHED = auto()  # the same settings, but the training has not reached its end
    DIFFERENT = auto()  # other or unknown settings


def status_of(checkpoint: Path, settings: TrainingSettings) -> CheckpointStatus:
    """Compares the checkpoint, if it exists, with the settings of a new training.

    The settings are those in its record. If the record is of other weights, they are unknown, and that is said.
    """
    if not checkpoint.exists():
        return CheckpointStatus.ABSENT
    try:
        record = read_record_of(checkpoint, sha256(checkpoint.read_bytes()).hexdigest())
    except OSError:  # a folder, for example
        return CheckpointStatus.DIFFERENT
    if record is None or record.get("settings") != _as_read(settings):
        return CheckpointStatus.DIFFERENT
    return CheckpointStatus.FINISHED if record.get("finished") is True else CheckpointStatus.UNFINISHED


def rename_earlier_training(checkpoint: Path, status: CheckpointStatus | None, *, resume: bool) -> None:
    """Renames existing checkpoint files so that a fresh training overwrites nothing.

    `status`: what `status_of` returns. With `resume`, the files of the same training stay: it continues from its state
    or, if no state was saved, starts again.
    """
    has_state = state_path(checkpoint).exists()
    if resume and (has_state or status is CheckpointStatus.UNFINISHED):
        return
    renamed = ", ".join(path.name for path in rename_existing(*all_paths(checkpoint)))
    if has_state:
        say(f"an unfinished training was at {checkpoint}, which --resume would continue: kept as {renamed}")
    elif renamed:
        say(f"{checkpoint} is of other settings, of another program or incomplete: kept as {renamed}")
