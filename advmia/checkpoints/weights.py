"""Weights on disk: written as a bare state_dict of tensors, as the published code does, and read into a network."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from advmia.checkpoints.reading import StateDict, Weights, few, load_weights
from advmia.data.specs import DatasetSpec
from advmia.errors import UserError
from advmia.models import MODELS, build_model, classes_of_weights, head_of, state_dict_names, unused_names
from advmia.runtime.files import atomic_write
from advmia.runtime.terminal import say


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


def digest_weights(model: nn.Module) -> str:
    """Returns the SHA-256 of a network's weights, which does not depend on the file that holds them."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _weights_of(name: str, path: Path) -> tuple[StateDict, str]:
    """Returns the weights at `path` of the network `name`, and the SHA-256 of the file; says what was unwrapped.

    Raises `UserError` if the file is no checkpoint, if its weights are of another network, or if one is not finite.
    """
    weights = load_weights(path)
    for candidate in (name, *(other for other in MODELS if other != name)):
        found = weights.of(state_dict_names(candidate), unused_names(candidate))
        if found and candidate != name:
            raise UserError(f"{path} holds weights of {candidate}, not of {name}: name the model of the weights")
        if found:
            break
    else:
        raise UserError(f"{path} holds weights of an unknown model, not of {name}: {_odd_names(name, weights)}")
    own, notes = found
    if notes:
        say(f"{path}: {'; '.join(notes)}")
    not_finite = [entry for entry, tensor in own.items() if not tensor.isfinite().all()]
    if not_finite:
        raise UserError(
            f"{path} holds numbers that are not finite ({not_finite[0]}; {len(not_finite)} tensors in all):"
            " train it again"
        )
    return own, weights.sha256


def _odd_names(name: str, weights: Weights) -> str:
    """Returns which entries of the weights the network `name` does not have, and which it has that are missing."""
    with torch.device("meta"):
        expected = list(build_model(name, 1).state_dict())
    texts = {
        "they have": [key for key in weights.state_dict if key not in expected],
        "they lack": [key for key in expected if key not in weights.state_dict],
    }
    return "; ".join(f"{text} {few(names)}" for text, names in texts.items() if names)


def _fill(model: nn.Module, weights: StateDict, name: str, path: Path) -> None:
    """Loads the weights into the model. Raises `UserError` if a shape does not fit."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"{path} does not fit {name}: {reason}") from error


class InitialWeights(NamedTuple):
    """Weights from which a training starts."""

    model: str
    path: Path
    state_dict: StateDict  # without the head's if it has another number of classes
    sha256: str  # of the file

    def copy_to(self, model: nn.Module) -> None:
        """Copies the weights into a network. Raises `UserError` if a shape does not fit."""
        _fill(model, model.state_dict() | self.state_dict, self.model, self.path)


def load_initial(name: str, path: Path, classes: int) -> InitialWeights:
    """Reads weights of the network `name` from which a training for `classes` classes starts.

    If they have another number of classes, the head's weights are left out, and this is said. Raises `UserError` as
    `load_model` does.
    """
    weights, sha256 = _weights_of(name, path)
    actual_classes = classes_of_weights(name, weights)
    if actual_classes != classes:
        head = head_of(name).rpartition(".")[0] + "."
        weights = {entry: tensor for entry, tensor in weights.items() if not entry.startswith(head)}
        say(f"{path} has {actual_classes} classes, not {classes}: the last layer starts with random weights")
    return InitialWeights(name, path, weights, sha256)


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
    weights, sha256 = _weights_of(name, path)
    actual_classes = classes_of_weights(name, weights)
    if classes is not None and actual_classes != classes:
        raise UserError(
            f"{path} has {actual_classes} classes, but {spec.name} has {classes}: use weights trained on {spec.name}"
        )
    model = build_model(name, actual_classes, mean=spec.mean, std=spec.std)
    _fill(model, weights, name, path)
    return LoadedModel(model, actual_classes, sha256)
