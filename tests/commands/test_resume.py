"""A training that is stopped or killed goes on to the very end that it would have come to undisturbed."""

from __future__ import annotations

import io
import os
import pickle
import signal
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

from advmia.commands import training
from advmia.data.phantoms import make_phantoms
from advmia.models import build_model
from advmia.runtime.files import write_lock
from tests.support.kills import training_outcome
from tests.support.running import read_until, run_main, start

pytestmark = pytest.mark.usefixtures("few_steps")
EPOCHS = 3
CLS = ["trainCls.py", "--dataset", "melBin", "--model", "mv2", "--bs", "8", "--imgSize", "16"]
CHEX = ["trainChex.py", "--model", "mv2", "--bs", "8", "--imgSize", "16"]
SEG = ["trainSeg.py", "--dataset", "mel", "--model", "unet", "--bs", "8", "--imgSize", "16", "--limit", "8"]
HELPER = ["--helperModel", "mv2", "--helperWeight", "helper"]
TRAININGS = {
    "nat": [*CLS, "--method", "nat"],
    "pgdat": [*CLS, "--method", "pgdat", "--eps", "8"],
    "trades": [*CLS, "--method", "trades", "--eps", "8"],
    "mart": [*CLS, "--method", "mart", "--eps", "8"],
    "hat": [*CLS, "--method", "hat", "--eps", "8", *HELPER],
    "findings": [*CHEX, "--method", "pgdat", "--eps", "8"],
    "masks": [*SEG, "--method", "pgdat", "--eps", "8"],
}


class Killed(BaseException):
    """Stands in for a kill: nothing in the program catches it."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms and a helper for HAT."""
    folder = tmp_path_factory.mktemp("world")
    make_phantoms(folder / "data", ["mel2017", "xray"], count=24, size=32)
    torch.manual_seed(0)
    torch.save(build_model("mv2", 2).state_dict(), folder / "helper")
    return folder


@pytest.fixture
def train(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs a training of `TRAININGS` in this process, its checkpoints in `tmp_path/<where>`."""
    monkeypatch.chdir(world)

    def run(name: str, where: str, *more: object) -> int:
        words = [*TRAININGS[name], "--epoch", EPOCHS, "--gpu", "cpu", "--saveDir", tmp_path / where, *more]
        return run_main(monkeypatch, words)

    return run


def stop_at_save(monkeypatch: pytest.MonkeyPatch, last: int) -> None:
    """The program dies when it has saved its state so many times."""
    saves, save = 0, training.save_training

    def save_and_die(*args: Any) -> None:
        nonlocal saves
        save(*args)
        saves += 1
        if saves == last:
            raise Killed

    monkeypatch.setattr(training, "save_training", save_and_die)


@pytest.mark.parametrize("name", TRAININGS)
def test_killed_after_an_epoch(
    name: str, train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when any part of the state is left out: the weights' bytes, the record and the epochs must be the same."""
    assert train(name, "undisturbed") == 0
    with monkeypatch.context() as patch:
        stop_at_save(patch, 1)
        with pytest.raises(Killed):
            train(name, "killed")
    assert train(name, "killed", "--resume") == 0
    assert training_outcome(tmp_path / "killed") == training_outcome(tmp_path / "undisturbed")


@pytest.mark.parametrize("step", [1, 2, 4, 6])
def test_killed_within_an_epoch(
    step: int, train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when a step is repeated or left out, or the loss so far is forgotten. An epoch has three steps."""
    assert train("pgdat", "undisturbed") == 0
    with monkeypatch.context() as patch:
        stop_at_save(patch, step)
        with pytest.raises(Killed):
            train("pgdat", "killed", "--saveEvery", "1e-9")
    assert train("pgdat", "killed", "--resume") == 0
    assert training_outcome(tmp_path / "killed") == training_outcome(tmp_path / "undisturbed")


def test_weights_to_begin_with_are_fetched_once(
    train: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Fails when a training that goes on, or is finished, wants ImageNet's weights again: a node may be offline."""
    asked: list[str] = []

    def build(*args: Any, init: str, **more: Any) -> torch.nn.Module:
        asked.append(init)
        return build_model(*args, **more)

    monkeypatch.setattr(training, "build_model", build)
    words = ["--model", "chexnet", "--imgSize", "32", "--limit", "4", "--bs", "4"]
    with monkeypatch.context() as patch:
        stop_at_save(patch, 1)
        with pytest.raises(Killed):
            train("nat", "chexnet", *words)
    for _ in range(2):
        assert train("nat", "chexnet", *words, "--resume") == 0
    assert asked == ["imagenet", "random"] and "trained already" in capsys.readouterr().out


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_says_how_to_go_on(
    number: int, status: int, train: Callable[..., int], world: Path, tmp_path: Path
) -> None:
    """Fails when a signal tears a step apart, loses it, or leaves the person with a traceback: a real process."""
    words = [*TRAININGS["mart"], "--epoch", "400", "--gpu", "cpu", "--saveDir", tmp_path / "stopped"]
    running = start(words, world)
    read_until(running, "epoch 2/")
    running.send_signal(number)
    _, told = running.communicate(timeout=60)
    assert running.returncode == status, told
    last = told.strip().splitlines()[-1]
    assert "stopped; " in last and "--resume continues" in last and "Traceback" not in told
    (state,) = (tmp_path / "stopped").glob("*.state")
    assert str(state) in last
    # The same training to an end that can be waited for: the state knows no number of epochs, but for its settings.
    again = start([*words, "--resume"], world)
    assert "resuming at epoch " in read_until(again, "resuming", again.stderr)
    again.kill()
    again.communicate()


def begun(train: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves a natural training behind that has come through one epoch."""
    with monkeypatch.context() as patch:
        stop_at_save(patch, 1)
        with pytest.raises(Killed):
            train("nat", "there")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["--bs", 4], "batch_size was 8, is 4"),
        (["--seed", 5], "seed was 0, is 5"),
        (["--limit", 16], "train_data images was 18, is 16"),
        (["--epoch", 9], "epochs was 3, is 9"),
    ],
    ids=lambda part: str(part[0]) if isinstance(part, list) else "",
)
def test_a_state_of_another_training_is_refused(
    change: list[object],
    named: str,
    train: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """Fails when a training goes on with other arguments or data than it began with, or a file is touched."""
    begun(train, monkeypatch)
    before = {path: path.read_bytes() for path in (tmp_path / "there").iterdir()}
    assert train("nat", "there", *change, "--resume") == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert named in told and "leave out --resume" in told
    assert {path: path.read_bytes() for path in (tmp_path / "there").iterdir()} == before


def test_without_resume_what_is_there_makes_way(
    train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Fails when an unfinished training is written over, or nobody says that it could have been gone on with."""
    begun(train, monkeypatch)
    (state,) = (tmp_path / "there").glob("*.state")
    before = state.read_bytes()
    assert train("nat", "there") == 0
    assert "--resume would continue" in capsys.readouterr().err
    assert state.with_name(f"{state.name}.earlier-1").read_bytes() == before and not state.exists()


def test_resume_where_there_is_nothing(train: Callable[..., int], capsys: pytest.CaptureFixture) -> None:
    """Fails when sweeps, which always resume, could not begin."""
    assert train("nat", "new", "--resume") == 0
    assert "starting a new training" in capsys.readouterr().err
    assert train("nat", "new", "--resume") == 0
    assert "trained already" in capsys.readouterr().out


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("harm",)


def damaged(raw: bytes, how: str) -> bytes:
    """A state file spoilt; the last three carry a right checksum."""
    if how == "cut short":
        return raw[: len(raw) // 2]
    if how == "one bit":
        return raw[:1000] + bytes([raw[1000] ^ 1]) + raw[1001:]
    if how == "a part less":
        state = torch.load(io.BytesIO(raw[32:]), weights_only=True)
        del state["parts"]["schedule"]
        torch.save(state, file := io.BytesIO())
        return sha256(file.getvalue()).digest() + file.getvalue()
    content = pickle.dumps(Malicious()) if how == "a pickle" else b"not torch"
    return b"" if how == "empty" else sha256(content).digest() + content


@pytest.mark.parametrize("how", ["cut short", "one bit", "empty", "a pickle", "text", "a part less"])
def test_a_damaged_state_is_refused(
    how: str,
    train: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """Fails when a state that is not whole is gone on with, or what a foreign file says is executed."""
    begun(train, monkeypatch)
    (state,) = (tmp_path / "there").glob("*.state")
    state.write_bytes(damaged(state.read_bytes(), how))
    assert train("nat", "there", "--resume") == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert str(state) in told and "leave out --resume" in told
    assert not Path("harm").exists()


def test_two_trainings_of_one_checkpoint(
    train: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Fails when a second run writes what a first is writing."""
    assert train("nat", "shared") == 0
    (record,) = (tmp_path / "shared").glob("*.json")
    with write_lock(record.with_suffix("")):
        assert train("nat", "shared") == 2
    assert "another run is writing" in capsys.readouterr().err
