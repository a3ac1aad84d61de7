"""Weights on disk: a bare state_dict, as the reference writes it, and beside it a record of how it came about."""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
from dataclasses import asdict, dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from advmia import processes
from advmia.budgets import grey_token
from advmia.data.specs import DatasetSpec
from advmia.errors import UserError
from advmia.files import whole_file, write_json
from advmia.models import MODELS, build_model, count_classes, identify

StateDict = dict[str, Tensor]


@dataclass(frozen=True)
class TrainingSettings:
    """All that shapes a trained network; a checkpoint of other settings is another network."""

    dataset: str
    model: str
    method: str
    classes: int
    eps: float  # grey levels, as step_size; 0 for natural training
    steps: int
    step_size: float
    beta: float
    gamma: float  # hat; 0 for the others, as hat_step
    hat_step: float
    helper: str | None  # SHA-256 of hat's helper's weights
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    init: str
    seed: int
    size: int  # pixels
    precision: str
    val_fraction: float | None
    processes: int  # each batch norm saw its process' share of a batch
    train_data: dict[str, object]
    test_data: dict[str, object]


def classification_name(settings: TrainingSettings) -> str:
    """The reference's file name, e.g. `ResNet_melBin_nat_class2_maxLR0.01_weightDecay0.001`."""
    head = f"{MODELS[settings.model].class_name}_{settings.dataset}_{settings.method}"
    tail = f"maxLR{settings.lr}_weightDecay{settings.weight_decay}"
    if settings.method == "nat":
        return f"{head}_class{settings.classes}_{tail}"
    attack = f"ADV{grey_token(settings.eps)}-255_{settings.steps}_{grey_token(settings.step_size)}-255"
    return f"{head}_beta{settings.beta:g}_class{settings.classes}_{attack}_{tail}"


def segmentation_name(settings: TrainingSettings) -> str:
    """The reference's file name, e.g. `UNet_mel_PGDAT_CrossEntropyLoss_Adam_eps8-255_step10_stepSize2-255`."""
    name = f"{MODELS[settings.model].class_name}_{settings.dataset}_{settings.method.upper()}_CrossEntropyLoss_Adam"
    if settings.method == "nat":
        return name
    eps, step_size = grey_token(settings.eps), grey_token(settings.step_size)
    return f"{name}_eps{eps}-255_step{settings.steps}_stepSize{step_size}-255"


def save_weights(path: Path, weights: StateDict) -> None:
    """The bare state_dict, whole or not at all."""
    # By its path, torch would write the temporary name into the file: equal weights are equal files. And of a disk that
    # fills up it tells in words of its own.
    content = io.BytesIO()
    torch.save(weights, content)
    with whole_file(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def _weights_of(model: nn.Module) -> StateDict:
    """A copy in plain layout on the CPU."""
    plain = torch.contiguous_format
    return {name: tensor.detach().cpu().clone(memory_format=plain) for name, tensor in model.state_dict().items()}


def load_weights(path: Path) -> tuple[StateDict, str]:
    """Reads a bare state_dict of tensors and executes nothing; the second is the file's SHA-256.

    Both from one reading, since a training may be replacing the file. Raises `UserError` for any other or a damaged
    file.
    """
    try:
        content = path.read_bytes()
        weights = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        damaged = _damaged_part(content)
    except FileNotFoundError:
        raise UserError(f"no checkpoint at {path}: train one, or check the path") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder: expected a checkpoint file") from None
    except Exception as error:  # whatever unpickling raises
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{path} is no checkpoint: expected a state_dict of tensors saved by torch.save ({reason[:120]})"
        ) from error
    if damaged:
        raise UserError(f"{path} is damaged: the checksum of {damaged} does not fit; fetch it again, or train anew")
    if not isinstance(weights, dict) or not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        held = (
            f"a dict of {', '.join(map(str, list(weights)[:3]))}"
            if isinstance(weights, dict)
            else type(weights).__name__
        )
        raise UserError(f"{path} holds {held}: expected a bare state_dict of tensors")
    return weights, hashlib.sha256(content).hexdigest()


def _damaged_part(content: bytes) -> str | None:
    """What of a checkpoint does not fit its checksum: torch reads a damaged file without a word.

    Torch's older format, which is no zip archive, has no checksums.
    """
    if not content.startswith(b"PK\x03\x04"):
        return None
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.testzip()


class Loaded(NamedTuple):
    """A network from a checkpoint."""

    model: nn.Module
    classes: int
    digest: str  # SHA-256 of the file


def load_model(name: str, path: Path, spec: DatasetSpec, *, classes: int | None = None) -> Loaded:
    """The network `name` with the weights at `path`, for images of `spec`.

    `classes`: what the data needs. Raises `UserError` when the weights are another model's or of other classes.
    """
    weights, digest = load_weights(path)
    held = identify(weights)
    if held != name:
        raise UserError(
            f"{path} holds weights of {held or 'no known model'}, not of {name}: name the model they belong to"
        )
    found = count_classes(name, weights)
    if classes is not None and found != classes:
        raise UserError(f"{path} tells {found} classes apart, but {spec.name} has {classes}: use weights trained on it")
    model = build_model(name, found, mean=spec.mean, std=spec.std)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"{path} does not fit {name}: {reason}") from error
    odd = [name for name, tensor in model.state_dict().items() if not tensor.isfinite().all()]
    if odd:
        raise UserError(
            f"{path} holds numbers that are not finite ({odd[0]}, {len(odd)} tensors in all): train it anew"
        )
    return Loaded(model, found, digest)


def record_path(checkpoint: Path) -> Path:
    """`<checkpoint>.json`; the name is full of dots, so it is appended, not replaced."""
    return checkpoint.with_name(checkpoint.name + ".json")


def read_record(checkpoint: Path) -> dict[str, Any] | None:
    """What is recorded of a checkpoint; None where nothing readable is (the reference's own weights have none)."""
    try:
        record = json.loads(record_path(checkpoint).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


class BestCheckpoint:
    """Keeps a network's weights at the best epoch so far, and after every epoch the record."""

    def __init__(self, path: Path, settings: TrainingSettings, facts: dict[str, Any], model: nn.Module) -> None:
        """`facts`: what else the record says, beside the settings, the epochs and the best of them."""
        self._path, self._model = path, model
        self._epochs: list[dict[str, Any]] = []
        self._record = {"settings": asdict(settings), **facts}
        self.epoch = 0  # the best; 0 before the first
        self.score = -math.inf
        self._weights: StateDict | None = None  # of the best epoch

    def offer(self, epoch: dict[str, Any], score: float) -> bool:
        """Records an epoch; keeps the weights when its score is the highest so far. Says whether it was."""
        self._epochs.append(epoch)
        is_best = score > self.score
        if is_best:
            self.epoch, self.score, self._weights = epoch["number"], score, _weights_of(self._model)
            self._save_weights()
        self._write(finished=False)
        return is_best

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` goes on from. The epochs are JSON, which has room for any kind of number."""
        return {
            "epochs": json.dumps(self._epochs),
            "epoch": self.epoch,
            "score": float(self.score),
            "weights": self._weights,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from an earlier run's epochs, and writes its files again: they may have got ahead of its state."""
        self._epochs = json.loads(state_dict["epochs"])
        self.epoch, self.score, self._weights = (state_dict[name] for name in ("epoch", "score", "weights"))
        if self._weights is not None:
            self._save_weights()
            self._write(finished=False)

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """What `offer` was given, from the first epoch on."""
        return list(self._epochs)

    def finish(self) -> None:
        self._write(finished=True)

    def _save_weights(self) -> None:
        if processes.is_first() and self._weights is not None:
            save_weights(self._path, self._weights)

    def _write(self, *, finished: bool) -> None:
        record = {**self._record, "finished": finished, "best_epoch": self.epoch, "epochs": self._epochs}
        if processes.is_first():
            write_json(record_path(self._path), record, indent=2)


class Standing(Enum):
    """What is at a checkpoint's path, seen from the settings of a new run."""

    NOTHING = auto()
    FINISHED = auto()  # the network of these settings, trained to the end
    UNFINISHED = auto()  # of these settings, but its training was cut off
    ANOTHER = auto()  # of other settings, or of unknown ones


def standing(path: Path, settings: TrainingSettings) -> Standing:
    """How a new run of `settings` should look at `path`."""
    if not path.exists():
        return Standing.NOTHING
    record = read_record(path)
    wanted = json.loads(json.dumps(asdict(settings)))  # through JSON, as the record went
    if record is None or record.get("settings") != wanted:
        return Standing.ANOTHER
    return Standing.FINISHED if record.get("finished") is True else Standing.UNFINISHED
