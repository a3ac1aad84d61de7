"""Weights on disk: a bare state_dict of tensors, as the published code writes it."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from advmia.data.specs import DatasetSpec
from advmia.errors import UserError
from advmia.models import build_model, classes_of_weights, identify
from advmia.runtime.files import atomic_write

StateDict = dict[str, Tensor]


def save_weights(path: Path, weights: StateDict) -> str:
    """Writes a bare state_dict, atomically, and returns the SHA-256 of the file. Equal weights give equal files.

    Raises `UserError` if the disk is full.
    """
    # Given a path, torch.save would store the temporary file's name in the file, and report a full disk in its own way.
    content = io.BytesIO()
    torch.save(weights, content)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content.getbuffer())
    return hashlib.sha256(content.getbuffer()).hexdigest()


def copy_weights(model: nn.Module) -> StateDict:
    """Returns a copy of the model's state_dict on the CPU, in plain (contiguous) memory layout."""
    plain = torch.contiguous_format
    return {name: tensor.detach().cpu().clone(memory_format=plain) for name, tensor in model.state_dict().items()}


def load_weights(path: Path) -> tuple[StateDict, str]:
    """Reads a bare state_dict of tensors; returns it with the SHA-256 of the file. Executes nothing from the file.

    Both come from one reading, since a training may replace the file at any time. Raises `UserError` for a damaged file
    and for any other file.
    """
    try:
        content = path.read_bytes()
        weights = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        damaged_part = _damaged_part(content)
    except FileNotFoundError:
        raise UserError(f"no checkpoint at {path}: train one, or check the path") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder: expected a checkpoint file") from None
    except Exception as error:  # unpickling may raise anything
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{path} is no checkpoint: expected a state_dict of tensors saved by torch.save ({reason[:120]})"
        ) from error
    if damaged_part:
        raise UserError(
            f"{path} is damaged: the checksum of {damaged_part} does not match; download it again, or train it again"
        )
    if isinstance(weights, dict) and weights and all(isinstance(value, Tensor) for value in weights.values()):
        return weights, hashlib.sha256(content).hexdigest()
    raise UserError(f"{path} holds {_description(weights)}: expected a bare state_dict of tensors")


def _description(content: object) -> str:
    """Returns what a file holds that is no state_dict: its type, and the entries that are no tensors."""
    if not isinstance(content, dict):
        return type(content).__name__
    odd = [f"{name} ({type(value).__name__})" for name, value in content.items() if not isinstance(value, Tensor)]
    if len(odd) == len(content):
        return f"a dict of {_few(map(str, content))}"
    return f"entries that are no tensors, {_few(odd)}"


def _few(names: Iterable[str]) -> str:
    """Returns the first three names and how many more there are."""
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _damaged_part(content: bytes) -> str | None:
    """Returns the name of the first part that does not match its checksum, which torch.load does not verify.

    None for a file in torch's older format, which is no zip archive and has no checksums.
    """
    if not content.startswith(b"PK\x03\x04"):
        return None
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.testzip()


def _odd_names(name: str, weights: StateDict) -> str:
    """Returns which entries of the weights the network `name` does not have, and which it has that are missing."""
    with torch.device("meta"):
        expected = list(build_model(name, 1).state_dict())
    texts = {
        "they have": [str(key) for key in weights if key not in expected],
        "they lack": [key for key in expected if key not in weights],
    }
    return "; ".join(f"{text} {_few(names)}" for text, names in texts.items() if names)


class LoadedModel(NamedTuple):
    """A network with the weights of a checkpoint."""

    model: nn.Module
    classes: int
    sha256: str  # of the checkpoint file


def load_model(name: str, path: Path, spec: DatasetSpec, *, classes: int | None = None) -> LoadedModel:
    """Builds the network `name` with the weights at `path`; it normalises its input as `spec` states.

    `classes`: the number of classes of the data; None accepts any. Raises `UserError` if the file is no checkpoint, if
    its weights are of another network or of another number of classes, or if a weight is not finite.
    """
    weights, sha256 = load_weights(path)
    actual_name = identify(weights)
    if actual_name is None:
        raise UserError(f"{path} holds weights of an unknown model, not of {name}: {_odd_names(name, weights)}")
    if actual_name != name:
        raise UserError(f"{path} holds weights of {actual_name}, not of {name}: name the model of the weights")
    actual_classes = classes_of_weights(name, weights)
    if classes is not None and actual_classes != classes:
        raise UserError(
            f"{path} has {actual_classes} classes, but {spec.name} has {classes}: use weights trained on {spec.name}"
        )
    model = build_model(name, actual_classes, mean=spec.mean, std=spec.std)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"{path} does not fit {name}: {reason}") from error
    not_finite = [name for name, tensor in model.state_dict().items() if not tensor.isfinite().all()]
    if not_finite:
        raise UserError(
            f"{path} holds numbers that are not finite ({not_finite[0]}; {len(not_finite)} tensors in all):"
            " train it again"
        )
    return LoadedModel(model, actual_classes, sha256)
