"""Checkpoints that other training programs wrote: what is unwrapped, what is said, and what is refused."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from advmia.checkpoints.reading import StateDict
from advmia.checkpoints.weights import load_initial, load_model
from advmia.data.datasets import DATASETS
from advmia.errors import UserError
from advmia.models import build_model
from tests.support.networks import pixels

SPEC = DATASETS["melBin"]


@pytest.fixture(scope="module")
def state() -> StateDict:
    """The weights of a network for two classes."""
    torch.manual_seed(0)
    return build_model("mv2", 2).state_dict()


def prefixed(prefix: str, state: StateDict) -> dict[str, Any]:
    return {prefix + name: tensor for name, tensor in state.items()}


def lightning(state: StateDict) -> dict[str, Any]:
    """What Lightning keeps of a module with the network and a weighted loss."""
    weights = prefixed("network.", state) | {"loss.pos_weight": torch.ones(2)}
    return {"epoch": 3, "pytorch-lightning_version": "2.5", "state_dict": weights, "optimizer_states": [{}]}


def halved(state: StateDict, dtype: torch.dtype) -> StateDict:
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}


# {kind: (what the file holds of a state_dict, parts of the line that says what was unwrapped)}
KINDS: dict[str, tuple[Callable[[StateDict], Any], tuple[str, ...]]] = {
    "bare": (lambda state: state, ()),
    "DataParallel": (lambda state: prefixed("module.", state), ("'module.' is left out of the names",)),
    "compiled": (lambda state: prefixed("_orig_mod.", state), ("'_orig_mod.'",)),
    "state_dict": (lambda state: {"state_dict": state, "epoch": 3}, ("'state_dict'",)),
    "model": (lambda state: {"model": state, "args": argparse.Namespace(lr=0.1)}, ("'model'",)),
    "net": (lambda state: {"net": prefixed("module.", state), "acc": np.float64(0.9)}, ("'net'", "'module.'")),
    "model_state_dict": (
        lambda state: {"model_state_dict": state, "optimizer_state_dict": {}},
        ("'model_state_dict'",),
    ),
    "twice wrapped": (lambda state: {"state_dict": {"model": state}}, ("'model'",)),
    "Lightning": (lightning, ("'state_dict'", "'network.'", "loss.pos_weight left out")),
    "half": (lambda state: halved(state, torch.float16), ("float16 becomes float32",)),
    "bfloat16": (lambda state: {"model": halved(state, torch.bfloat16)}, ("'model'", "bfloat16 becomes float32")),
}


@pytest.mark.parametrize("kind", [*KINDS, "safetensors", "old format"])
def test_wrapped_checkpoints(kind: str, state: StateDict, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails if weights are not found, other ones are loaded, or it is not said what was unwrapped."""
    path = tmp_path / "checkpoint"
    make, parts = KINDS.get(kind, KINDS["bare"])
    if kind == "safetensors":
        pytest.importorskip("safetensors.torch").save_file(state, path)
    else:
        torch.save(make(state), path, _use_new_zipfile_serialization=kind != "old format")
    loaded = load_model("mv2", path, SPEC)
    line = capsys.readouterr().err
    assert all(part in line for part in parts) and bool(parts) == bool(line) and line.count("\n") <= 1
    expected = build_model("mv2", 2, mean=SPEC.mean, std=SPEC.std).eval()
    dtype = {"half": torch.float16, "bfloat16": torch.bfloat16}.get(kind, torch.float32)
    expected.load_state_dict(halved(state, dtype))
    x, _ = pixels(4, classes=2)
    with torch.no_grad():
        assert torch.equal(loaded.model.eval()(x), expected(x))
    assert loaded.classes == 2


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("executed"),)


REFUSED: dict[str, tuple[Callable[[StateDict], Any], str]] = {
    "code": (lambda state: {"state_dict": state, "hook": Malicious()}, "holds objects of .* could run code"),
    "a whole network": (lambda state: nn.Linear(2, 2), "holds objects of torch.nn.* save the network's state_dict"),
    "missing": (lambda state: {"net": dict(list(state.items())[1:])}, "unknown model, not of mv2: they lack conv1"),
    "another": (lambda state: {"net": build_model("res18", 2).state_dict()}, "weights of res18, not of mv2"),
    "two": (lambda state: prefixed("student.", state) | prefixed("ema.", state), "2 times, as student., ema.: keep"),
    "optimizer": (lambda state: {"optimizer": {"state": {}}, "epoch": 1}, "a dict of optimizer, epoch: expected"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_checkpoints(kind: str, state: StateDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if something foreign is executed, or if a file that cannot be used is not described."""
    monkeypatch.chdir(tmp_path)
    make, message = REFUSED[kind]
    torch.save(make(state), "checkpoint")
    with pytest.raises(UserError, match=message):
        load_model("mv2", Path("checkpoint"), SPEC)
    assert not Path("executed").exists()


def test_cut_safetensors(state: StateDict, tmp_path: Path) -> None:
    """Fails if a safetensors file of which a part is missing ends in a traceback."""
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(pytest.importorskip("safetensors.torch").save(state)[:-100])
    with pytest.raises(UserError, match="is no checkpoint"):
        load_model("mv2", path, SPEC)


def test_initial_weights(state: StateDict, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails if a training does not start from the weights, or keeps a last layer of other classes."""
    torch.save(state, tmp_path / "weights")
    for classes in (2, 3):
        torch.manual_seed(1)
        model = build_model("mv2", classes)
        random_head = model.get_parameter("linear.weight").clone()
        load_initial("mv2", tmp_path / "weights", classes).copy_to(model)
        started = model.state_dict()
        same = {name for name in state if started[name].shape == state[name].shape and started[name].equal(state[name])}
        head = {"linear.weight", "linear.bias"}
        assert same == (set(state) if classes == 2 else set(state) - head)
        assert torch.equal(started["linear.weight"], state["linear.weight"] if classes == 2 else random_head)
    assert "has 2 classes, not 3: the last layer starts with random weights" in capsys.readouterr().err
