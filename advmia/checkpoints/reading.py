"""Reads the weights in a checkpoint file: a bare state_dict, or one that a training program has wrapped.

Nothing from the file is executed: torch.load reads tensors, plain Python values and the harmless types `_SAFE_TYPES`.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import re
import zipfile
from collections.abc import Iterable, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advmia.errors import UserError

StateDict = dict[str, Tensor]

# The entries under which training programs keep a state_dict, beside the epoch, the optimizer's state and the like.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")

# What programs often keep beside the weights: their flags, and scores as NumPy numbers.
_NUMBERS = (np.float64, np.float32, np.int64)
_SAFE_TYPES: list[Any] = [
    argparse.Namespace,
    np.dtype,
    np.float64(0).__reduce__()[0],  # the function that makes a NumPy number
    *(type(np.dtype(number)) for number in _NUMBERS),
]


@dataclass(frozen=True)
class Weights:
    """The state_dict in a checkpoint file."""

    path: Path
    state_dict: StateDict
    sha256: str  # of the file
    wrappers: tuple[str, ...] = ()  # the entries in which it lay, from the outside

    def of(self, expected: Set[str], unused: Set[str] = frozenset()) -> tuple[StateDict, list[str]] | None:
        """Returns the entries of a network, without a prefix such as `module.`, and what was done, in words.

        `expected`: the names of the network's state_dict entries. `unused`: further ones, all of which may be there and
        are left out. None if the file does not have exactly these names after some prefix. Raises `UserError` if it has
        them after several.
        """
        first = min(expected)
        prefixes = [name.removesuffix(first) for name in self.state_dict if name.endswith(first)]
        found = {}
        for prefix in prefixes:
            own = {name.removeprefix(prefix): name for name in self.state_dict if name.startswith(prefix)}
            if own.keys() in (expected, expected | unused) and (not prefix or prefix.endswith(".")):
                found[prefix] = {name: self.state_dict[full] for name, full in own.items()}
        if len(found) > 1:
            raise UserError(f"{self.path} holds this network {len(found)} times, as {', '.join(found)}: keep one")
        for prefix, entries in found.items():
            notes = self._notes(prefix, entries)
            left_out = [name for name in entries if name in unused]
            if left_out:
                notes.append(f"{few(left_out)} left out, since the network never uses them")
            return {name: tensor for name, tensor in entries.items() if name not in unused}, notes
        return None

    def _notes(self, prefix: str, own: StateDict) -> list[str]:
        """Returns what was unwrapped, left out and converted."""
        notes = [f"its entry {key!r} is used" for key in self.wrappers[-1:]]
        if prefix:
            notes.append(f"{prefix!r} is left out of the names")
        others = len(self.state_dict) - len(own)
        if others:
            notes.append(f"{few(name for name in self.state_dict if not name.startswith(prefix))} left out")
        types = {tensor.dtype for tensor in own.values() if tensor.is_floating_point()} - {torch.float32}
        notes += [f"{str(dtype).removeprefix('torch.')} becomes float32" for dtype in sorted(types, key=str)]
        return notes


def load_weights(path: Path) -> Weights:
    """Reads the state_dict in a checkpoint file. Executes nothing from the file.

    Weights and SHA-256 come from one reading, since a training may replace the file at any time. Raises `UserError` for
    a damaged file and for any other file.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"no checkpoint at {path}: train one, or check the path") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder: expected a checkpoint file") from None
    saved, wrappers = _parse(path, content), []
    while isinstance(saved, dict):
        key = next((key for key in WRAPPERS if isinstance(saved.get(key), dict)), None)
        if key is None:
            break
        saved = saved[key]
        wrappers.append(key)
    if isinstance(saved, dict) and saved and all(isinstance(value, Tensor) for value in saved.values()):
        named = {str(name): tensor for name, tensor in saved.items()}
        return Weights(path, named, hashlib.sha256(content).hexdigest(), tuple(wrappers))
    raise UserError(f"{path} holds {_description(saved)}: expected a state_dict of tensors")


def _parse(path: Path, content: bytes) -> object:
    """Returns the object that the file's content states."""
    try:
        if content[8:9] == b"{":  # after the length of a header in JSON
            return _parse_safetensors(path, content)
        with torch.serialization.safe_globals(_SAFE_TYPES):
            saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        damaged_part = _damaged_part(content)
    except UserError:
        raise
    except Exception as error:  # unpickling may raise anything
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if found:
            raise UserError(
                f"{path} holds objects of {found[1]} besides tensors, and reading these could run code: save the"
                " network's state_dict alone, with torch.save(network.state_dict(), ...)"
            ) from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{path} is no checkpoint: expected a state_dict of tensors saved by torch.save ({reason[:120]})"
        ) from error
    if damaged_part:
        raise UserError(
            f"{path} is damaged: the checksum of {damaged_part} does not match; download it again, or train it again"
        )
    return saved


def _parse_safetensors(path: Path, content: bytes) -> StateDict:
    try:
        import safetensors.torch
    except ImportError:
        raise UserError(f"{path} is a safetensors file: to read it, run `pip install safetensors`") from None
    return safetensors.torch.load(content)


def _description(content: object) -> str:
    """Returns what a file holds that is no state_dict: its type, and the entries that are no tensors."""
    if not isinstance(content, dict):
        return type(content).__name__
    odd = [f"{name} ({type(value).__name__})" for name, value in content.items() if not isinstance(value, Tensor)]
    if len(odd) == len(content):
        return f"a dict of {few(map(str, content))}"
    return f"entries that are no tensors, {few(odd)}"


def few(names: Iterable[str]) -> str:
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
