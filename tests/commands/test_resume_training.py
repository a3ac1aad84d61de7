"""A training that is stopped or killed continues, and ends with the checkpoint of an undisturbed one."""

from __future__ import annotations

import csv
import json
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from advmia import budgets
from advmia.checkpoints.paths import record_path
from advmia.commands import settings, training
from advmia.evaluation.loop import evaluate
from advmia.evaluation.tally import Evaluation
from advmia.models import build_model
from advmia.training import logs, validation
from advmia.training.loop import Epoch, Training, fit
from tests.support.kills import Killed, Outcome, training_outcome
from tests.support.networks import same_tensors
from tests.support.running import read_until, run_main, start
from tests.support.world import TRAININGS

pytestmark = pytest.mark.usefixtures("few_steps", "small_networks")
EPOCHS = 3
Train = Callable[..., int]


@pytest.fixture
def train(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Runs a training of TRAININGS in this process and returns its exit status.

    Called with the training's name, the folder in `tmp_path` for its checkpoint, and further arguments.
    """
    monkeypatch.chdir(world)
    monkeypatch.setattr(budgets, "TRAINING_STEPS", 2)

    def run(name: str, out: str, *more: object) -> int:
        words = [*TRAININGS[name], "--epoch", EPOCHS, "--gpu", "cpu", "--saveDir", tmp_path / out, *more]
        return run_main(monkeypatch, words)

    return run


@pytest.fixture
def undisturbed(train: Train, tmp_path: Path) -> Callable[..., Outcome]:
    """Returns the outcome of an undisturbed training, called with its name and further arguments."""

    def outcome(name: str, *more: object) -> Outcome:
        assert train(name, "undisturbed", *more) == 0
        return training_outcome(tmp_path / "undisturbed")

    return outcome


@pytest.fixture
def train_until_save(train: Train, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs a training that dies as soon as it has saved its state `last` times; takes the arguments of `train`."""

    def run(last: int, *words: object) -> None:
        saves, save = 0, training.save_training

        def save_and_die(*args: Any, **options: Any) -> None:
            nonlocal saves
            save(*args, **options)
            saves += 1
            if saves == last:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(training, "save_training", save_and_die)
            with pytest.raises(Killed):
                train(*words)

    return run


# TRADES, MART and PGD-AT have no state but what these have: an optimizer, random streams, a task's best score.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["nat", "hat", "findings", "masks"])
def test_killed_after_an_epoch(
    name: str,
    train: Train,
    train_until_save: Callable[..., None],
    undisturbed: Callable[..., Outcome],
    tmp_path: Path,
) -> None:
    """Fails if any part of the state is not saved: the weights' bytes, the record and the epochs must be equal."""
    train_until_save(1, name, "killed")
    assert train(name, "killed", "--resume") == 0
    assert training_outcome(tmp_path / "killed") == undisturbed(name)


@pytest.mark.slow
def test_killed_within_epochs(train: Train, train_until_save: Callable[..., None], tmp_path: Path) -> None:
    """Fails if a step is repeated or left out, draws another coin or eps, or the loss or the average so far is lost.

    Its log must be that of an undisturbed training too. It is killed after its steps 1, 2, 4 and 6: within the first
    epoch, which is not validated, within the second, and at its end. An epoch has three steps; of MPAdvT's batches,
    some are attacked and some are clean.
    """
    name, thinned = "awp and ema", ("--validateEvery", 2, "--log", "csv")
    for saves in (1, 1, 2, 2):
        train_until_save(saves, name, "killed", *thinned, "--saveEvery", "1e-9", "--resume")
    assert train(name, "killed", *thinned, "--resume") == 0
    assert train(name, "undisturbed", *thinned) == 0
    killed, expected = ((tmp_path / folder) for folder in ("killed", "undisturbed"))
    assert taken_log(killed) == taken_log(expected)
    assert training_outcome(killed) == training_outcome(expected)


def taken_log(folder: Path) -> list[dict[str, str]]:
    """Returns the lines of the only log in the folder without seconds, and removes it."""
    (path,) = folder.glob("*.log.csv")
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    path.unlink()
    for line in lines:
        assert float(line.pop("seconds")) > 0 and line.pop("validation_seconds")
    assert [line["epoch"] for line in lines] == [str(number) for number in range(1, EPOCHS + 1)]
    return lines


def test_a_log_is_no_setting(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails if a log makes another training of it, or a package that it lacks is noticed after work has begun."""
    monkeypatch.setattr(logs, "find_spec", lambda _: None)
    assert train("nat", "out", "--log", "csv,tensorboard") == 2
    assert "needs the package tensorboard" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert train("nat", "out", "--epoch", 1) == 0
    assert train("nat", "out", "--epoch", 1, "--log", "csv") == 0
    assert "is trained already with these settings" in capsys.readouterr().out


def test_fewer_validations(
    train: Train, train_until_save: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails if losses or scores differ from those of a training that validates after each epoch, or if a training that
    is killed before its first validation leaves a record without a checkpoint."""
    assert train("pgdat", "all", "--epoch", 2) == 0
    assert "not validated" not in capsys.readouterr().out
    train_until_save(1, "pgdat", "last", "--epoch", 2, "--validateEvery", 5)
    assert [path.suffix for path in (tmp_path / "last").iterdir() if path.suffix != ".png"] == [".state"]
    assert train("pgdat", "last", "--epoch", 2, "--validateEvery", 5, "--resume") == 0
    assert re.search(r"^epoch 1/2 loss [\d.]+ training [\d.]+ s, not validated$", capsys.readouterr().out, re.M)
    (_, every), (_, last) = training_outcome(tmp_path / "all"), training_outcome(tmp_path / "last")
    assert last["settings"].pop("validate_every") == 5 and last["settings"] == every["settings"]
    not_validated = {"clean": None, "robust": None, "warning": "", "one_class": False}
    assert last["epochs"] == [every["epochs"][0] | not_validated, every["epochs"][1]]
    assert last["best_epoch"] == 2


def test_the_average_is_kept(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if the weights themselves are validated or kept instead of their average, or a file name does not say so.

    The attack in training must still run on the network itself.
    """
    trainings: list[Training] = []
    validated: list[object] = []

    def recording_fit(given: Training, *args: Any, **options: Any) -> Iterator[Epoch]:
        trainings.append(given)
        return fit(given, *args, **options)

    def recording_evaluate(model: torch.nn.Module, *args: Any, **options: Any) -> Evaluation:
        validated.append(model)
        return evaluate(model, *args, **options)

    monkeypatch.setattr(training, "fit", recording_fit)
    monkeypatch.setattr(validation, "evaluate", recording_evaluate)
    assert train("nat", "out", "--epoch", 1, "--awp", "0.005", "--awpWarmUp", 1, "--ema", "0.9") == 0
    (given,) = trainings
    assert given.average is not None and validated == [given.average.model]
    (path,) = (path for path in (tmp_path / "out").iterdir() if path.suffix not in (".json", ".png"))
    assert path.name.endswith("_weightDecay0.001_awp0.005_ema0.9")
    kept = torch.load(path, weights_only=True)
    assert same_tensors(kept, given.average.model.state_dict())
    assert not same_tensors(kept, given.model.state_dict())
    settings = json.loads(record_path(path).read_text())["settings"]
    assert (settings["awp"], settings["awp_warm_up"], settings["ema"]) == (0.005, 1, 0.9)


@pytest.mark.slow
def test_initial_weights_are_fetched_once(
    train: Train,
    train_until_save: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Fails if a training that resumes, or is finished, asks for ImageNet weights: a node may be offline."""
    inits: list[str] = []

    def build(*args: Any, init: str, **more: Any) -> torch.nn.Module:
        inits.append(init)
        return build_model(*args, **more)

    monkeypatch.setattr(training, "build_model", build)
    words = ["nat", "chexnet", "--model", "chexnet", "--imgSize", "32", "--limit", "4", "--bs", "4"]
    train_until_save(1, *words)
    for _ in range(2):
        assert train(*words, "--resume") == 0
    assert inits == ["imagenet", "random"] and "trained already" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_the_state(
    number: int, status: int, world: Path, tmp_path: Path, warm_interpreter: Path
) -> None:
    """Fails if a signal cuts a step short, loses it, or ends a real process in a traceback without advice."""
    words = [*TRAININGS["mart"], "--epoch", "400", "--gpu", "cpu", "--saveDir", tmp_path / "stopped"]
    running = start(words, world, warm_interpreter)
    read_until(running, "epoch 2/")
    running.send_signal(number)
    _, stderr = running.communicate(timeout=60)
    assert running.returncode == status, stderr
    last_line = stderr.strip().splitlines()[-1]
    assert "stopped; " in last_line and "--resume continues" in last_line and "Traceback" not in stderr
    (state,) = (tmp_path / "stopped").glob("*.state")
    assert str(state) in last_line
    if number == signal.SIGTERM:
        resumed = start([*words, "--resume"], world, warm_interpreter)
        assert "resuming at epoch " in read_until(resumed, "resuming", resumed.stderr)
        resumed.kill()
        resumed.communicate()


def test_a_state_of_another_training_is_refused(
    train: Train, train_until_save: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails if a training resumes with other arguments or data than it started with, or changes a file."""
    train_until_save(1, "nat", "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    for change, message in (
        (["--bs", 4], "batch_size was 8, is 4"),
        (["--limit", 16], "train_data images was 18, is 16"),
        (["--epoch", 9], "epochs was 3, is 9"),
        (["--validateEvery", 2], "validate_every was None, is 2"),
    ):
        assert train("nat", "out", *change, "--resume") == 2
        last_line = capsys.readouterr().err.strip().splitlines()[-1]
        assert message in last_line and "leave out --resume" in last_line
        assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_training_with_another_generator_is_refused(
    train: Train,
    train_until_save: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Fails if a training goes on with random numbers of another generator than it began with.

    Also fails if a natural training, which draws none, is not resumed.
    """
    with monkeypatch.context() as earlier:
        earlier.setattr(settings, "GENERATOR", None)  # records of earlier versions do not have it
        train_until_save(1, "mart", "out")
        train_until_save(1, "nat", "natural")
    assert train("mart", "out", "--resume") == 2
    assert "generator was None, is splitmix64" in capsys.readouterr().err.strip().splitlines()[-1]
    assert train("nat", "natural", "--resume") == 0
    assert "resuming" in capsys.readouterr().err


def test_without_resume_old_files_are_renamed(
    train: Train, train_until_save: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails if an unfinished training is overwritten, or no line says that --resume would have continued it."""
    train_until_save(1, "nat", "out")
    (state,) = (tmp_path / "out").glob("*.state")
    before = state.read_bytes()
    assert train("nat", "out") == 0
    assert "--resume would continue" in capsys.readouterr().err
    assert state.with_name(f"{state.name}.earlier-1").read_bytes() == before and not state.exists()


def test_resume_from_nothing(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails if --resume is refused, or complained of, where there is nothing to resume: sweeps always give it."""
    assert train("nat", "new", "--resume") == 0
    assert "--resume" not in capsys.readouterr().err
    assert train("nat", "new", "--resume") == 0
    assert "trained already" in capsys.readouterr().out
