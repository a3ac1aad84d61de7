"""The logs of a training: what they hold after it was stopped, and what they need."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from advmia.checkpoints.paths import events_path, log_path
from advmia.errors import UserError
from advmia.runtime import distributed
from advmia.training import curves, logs
from advmia.training.loop import Epoch
from tests.training.test_curves import FRAME, NAME, epoch

Points = dict[str, list[tuple[int, float]]]


@pytest.fixture(autouse=True)
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the picture, which takes longest, by a small one."""
    monkeypatch.setattr(curves, "draw_curves", lambda *words: Image.new("RGB", (4, 3)).save(words[-1], "PNG"))


def log(folder: Path, epochs: Sequence[Epoch], earlier: Sequence[Epoch] = (), names: Sequence[str] = ("csv",)) -> None:
    with logs.reported_epochs(folder / NAME, replace(FRAME, epochs=9), names, earlier, len(earlier)) as report:
        for new in epochs:
            report(new, new.number)


def lines_of(folder: Path) -> list[dict[str, str]]:
    with log_path(folder / NAME).open(newline="") as file:
        return list(csv.DictReader(file))


def points_of(folder: Path) -> tuple[Points, list[int]]:
    """Returns what TensorBoard reads: the points of each curve, and the epochs of the pictures."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(events_path(folder / NAME))).Reload()
    tags = events.Tags()
    points = {name: [(point.step, point.value) for point in events.Scalars(name)] for name in tags["scalars"]}
    return points, [image.step for name in tags["images"] for image in events.Images(name)]


def test_the_numbers_of_each_epoch(tmp_path: Path) -> None:
    """Fails if a number is missing, rounded or another epoch's, or one that is not there is written as one."""
    first = replace(epoch(1), clean=None, robust=None)
    second = replace(epoch(2), clean={"accuracy": 0.1 + 0.2, "auroc": math.nan}, warning="no skill")
    log(tmp_path, [first, second], names=("csv", "tensorboard"))
    common = {"lr": "0.01", "seconds": "1.0", "validation_seconds": "0.0"}
    scores = {"clean_accuracy": "0.30000000000000004", "clean_auroc": "", "robust_accuracy": repr(0.5 - 0.4**2)}
    assert lines_of(tmp_path) == [
        {"epoch": "1", "loss": "1.0", **common, **dict.fromkeys(scores, ""), "warning": ""},
        {"epoch": "2", "loss": "0.5", **common, **scores, "warning": "no skill"},
    ]
    points, pictures = points_of(tmp_path)
    assert points["loss"] == [(1, 1.0), (2, 0.5)] and points["clean/accuracy"] == [(2, pytest.approx(0.3))]
    assert points.keys() == {*logs.scalars(second)} and pictures == [2]


def test_a_resumed_training_has_the_logs_of_an_undisturbed_one(tmp_path: Path) -> None:
    """Fails if an epoch that the state does not know stays, is there twice, or one from before the stop is lost.

    The training logs epoch 3 and is killed before it saves the state, so that it is resumed from epoch 2. It has not
    logged its first epoch, as if it had begun without --log.
    """
    both, epochs = ("csv", "tensorboard"), [epoch(number) for number in range(1, 5)]
    log(tmp_path / "undisturbed", epochs, names=both)
    log(tmp_path / "killed", [epochs[1], replace(epochs[2], loss=9.0)], names=both)
    log(tmp_path / "killed", epochs[2:], epochs[:2], names=both)
    assert lines_of(tmp_path / "killed") == lines_of(tmp_path / "undisturbed")
    assert points_of(tmp_path / "killed") == points_of(tmp_path / "undisturbed")
    assert [step for step, _ in points_of(tmp_path / "killed")[0]["loss"]] == [1, 2, 3, 4]


def test_each_epoch_is_on_disk_when_it_ends(tmp_path: Path) -> None:
    """Fails if a kill loses what was reported."""
    with logs.reported_epochs(tmp_path / NAME, replace(FRAME, epochs=9), ("csv", "tensorboard")) as report:
        for number in (1, 2):
            report(epoch(number), 1)
            assert len(lines_of(tmp_path)) == len(points_of(tmp_path)[0]["loss"]) == number


def test_a_log_that_fails_stops_no_training(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Fails if a log that cannot be written ends the training, is reported twice, or takes the other one with it."""
    log_path(tmp_path / NAME).mkdir()
    log(tmp_path, [epoch(1), epoch(2)], names=("csv", "tensorboard"))
    message = capsys.readouterr().err
    assert message.startswith(f"no csv log of {tmp_path}/{NAME}: cannot write ") and message.count("\n") == 1
    assert len(points_of(tmp_path)[0]["loss"]) == 2


def test_only_the_main_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if another rank writes a log."""
    monkeypatch.setattr(distributed, "is_main", lambda: False)
    log(tmp_path, [epoch(1)], names=("csv", "tensorboard"))
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a missing package is noticed only when it is imported, or keeps csv from being used."""
    monkeypatch.setattr(logs, "find_spec", lambda name: None)
    logs.check_logs(["csv"])
    with pytest.raises(UserError, match="--log tensorboard needs the package tensorboard: run `pip install"):
        logs.check_logs(["csv", "tensorboard"])
