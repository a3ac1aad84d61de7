"""Weights on disk: a bare state_dict, as the reference writes it, and beside it a record of how it came about."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from advmia.data.specs import DatasetSpec
from advmia.errors import UserError
from advmia.models import build_model, classes_of_weights, identify
from advmia.runtime.files import atomic_write

StateDict = dict[str, Tensor]


def save_weights(path: Path, weights: StateDict) -> None:
    """The bare state_dict, whole or not at all."""
    # By its path, torch would write the temporary name into the file: equal weights are equal files. And of a disk that
    # fills up it tells in words of its own.
    content = io.BytesIO()
    torch.save(weights, content)
    with atomic_write(path) as temporary:
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


class LoadedModel(NamedTuple):
    """A network from a checkpoint."""

    model: nn.Module
    classes: int
    digest: str  # SHA-256 of the file


def load_model(name: str, path: Path, spec: DatasetSpec, *, classes: int | None = None) -> LoadedModel:
    """The network `name` with the weights at `path`, for images of `spec`.

    `classes`: what the data needs. Raises `UserError` when the weights are another model's or of other classes.
    """
    weights, digest = load_weights(path)
    held = identify(weights)
    if held != name:
        raise UserError(
            f"{path} holds weights of {held or 'no known model'}, not of {name}: name the model they belong to"
        )
    found = classes_of_weights(name, weights)
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
    return LoadedModel(model, found, digest)
