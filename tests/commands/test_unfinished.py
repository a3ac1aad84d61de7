"""An evaluation that is stopped or killed goes on to what it would have come to undisturbed."""

from __future__ import annotations

import signal
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

from advmia.evaluation import loop
from advmia.evaluation.tally import Tally
from advmia.models import build_model
from advmia.results import partial
from advmia.runtime.files import write_lock
from tests.support.kills import (
    EVALUATION,
    TRAINING,
    evaluation_outcome,
    kill_again_and_again,
    make_world,
    training_outcome,
)
from tests.support.running import run_main

pytestmark = pytest.mark.usefixtures("few_steps")
# Six images in batches of two: waves of an attack that drops images have two batches here.
WORDS = [*EVALUATION, "--limit", "6", "--attacks"]
MASKS = ["testSeg.py", "--dataset", "mel", "--imgSize", "16", "--gpu", "cpu"]
MASKS += ["--targetModel", "unet", "--targetWeight", "unet"]
TESTS = {
    "clean": [*WORDS, "pgd"],
    "fgsm": [*WORDS, "fgsm"],
    "apgd-ce": [*WORDS, "apgd-ce", "--epsilons", "0.1"],
    "masks": [*MASKS, "--bs", "2", "--limit", "4", "--attacks", "pgd", "--epsilons", "8"],
}


class Killed(BaseException):
    """Stands in for a kill: nothing in the program catches it."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    make_world(folder, 24)
    torch.manual_seed(0)
    torch.save(build_model("unet", 2).state_dict(), folder / "unet")
    return folder


@pytest.fixture
def test(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs a test of `TESTS` in this process, its results in `tmp_path/<where>`; every batch is saved."""
    monkeypatch.chdir(world)
    monkeypatch.setattr(partial, "_SAVE_SECONDS", 0.0)
    monkeypatch.setattr(loop, "WAVE_BATCHES", 2)
    return lambda name, where, *more: run_main(monkeypatch, [*TESTS[name], "--resultDir", tmp_path / where, *more])


def end_at_save(monkeypatch: pytest.MonkeyPatch, last: int, how: Callable[[], None]) -> None:
    """Something happens when an evaluation under way has been saved so many times."""
    saves, save = 0, partial.PartialEvaluation.save

    def save_and_end(self: partial.PartialEvaluation, state: dict[str, Any]) -> None:
        nonlocal saves
        save(self, state)
        saves += 1
        if saves == last:
            how()

    monkeypatch.setattr(partial.PartialEvaluation, "save", save_and_end)


def die() -> None:
    raise Killed


def killed_at_save(last: int, test: Callable[..., int], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with monkeypatch.context() as patch:
        end_at_save(patch, last, die)
        with pytest.raises(Killed):
            test(name, "killed")


def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The list that will hold the numbers of images that attacks were handed."""
    handed: list[int] = []
    of = loop.SampleRng.of

    def note(*scope: object, samples: Any, device: Any = "cpu") -> Any:
        if "reliability" not in scope:
            handed.append(len(samples))
        return of(*scope, samples=samples, device=device)

    monkeypatch.setattr(loop.SampleRng, "of", note)
    return handed


# A clean pass saves three times, each attack after every batch; apgd-ce after each of two waves.
@pytest.mark.parametrize(
    ("name", "saves", "left"),
    [
        ("clean", 1, [2] * 6),
        ("clean", 4, [2] * 5),
        ("clean", 8, [2]),
        ("fgsm", 5, [2] * 4),
        ("apgd-ce", 4, [2]),
        ("masks", 3, [2]),
    ],
)
def test_killed_after_a_batch(
    name: str, saves: int, left: list[int], test: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when a finished batch is attacked again, when one is left out, or when what it gave is lost: scores,
    outcomes, distances and notes are those of an undisturbed run, to the bit."""
    assert test(name, "undisturbed") == 0
    killed_at_save(saves, test, monkeypatch, name)
    handed = passes(monkeypatch)
    assert test(name, "killed") == 0
    assert handed == left
    assert evaluation_outcome(tmp_path / "killed") == evaluation_outcome(tmp_path / "undisturbed")


def test_of_another_run(test: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when batches of another seed are gone on with."""
    killed_at_save(4, test, monkeypatch, "clean")
    assert test("clean", "killed", "--seed", 1) == 0
    assert test("clean", "undisturbed", "--seed", 1) == 0
    for path in (tmp_path / "killed").glob("*.earlier-1"):
        path.unlink()
    assert evaluation_outcome(tmp_path / "killed") == evaluation_outcome(tmp_path / "undisturbed")


@pytest.mark.parametrize("how", ["cut short", "one bit", "empty", "no tensors"])
def test_a_damaged_file_is_begun_anew(
    how: str,
    test: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """Fails when half a file is gone on with, or stops the run for good: what it kept can be made again."""
    assert test("clean", "undisturbed") == 0
    killed_at_save(4, test, monkeypatch, "clean")
    (kept,) = (tmp_path / "killed").glob("*.unfinished-*")
    raw = kept.read_bytes()
    spoilt = {"cut short": raw[:-9], "one bit": raw[:900] + bytes([raw[900] ^ 1]) + raw[901:], "empty": b""}
    kept.write_bytes(spoilt.get(how, sha256(b"text").digest() + b"text"))
    assert test("clean", "killed") == 0
    assert "is damaged" in capsys.readouterr().err
    assert evaluation_outcome(tmp_path / "killed") == evaluation_outcome(tmp_path / "undisturbed")


def test_a_signal_keeps_what_is_done(test: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when Ctrl-C loses a finished batch that was not due to be saved, or ends in a traceback."""
    assert test("clean", "undisturbed") == 0
    merge, merges = Tally.merge, []

    def merge_and_stop(self: Any, other: Any) -> None:
        merge(self, other)
        merges.append(other)
        if len(merges) == 6:  # clean: three batches and all together; then two of the attack's
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(partial, "_SAVE_SECONDS", 1e9)
        patch.setattr(Tally, "merge", merge_and_stop)
        assert test("clean", "killed") == 128 + signal.SIGINT
    handed = passes(monkeypatch)
    assert test("clean", "killed") == 0
    assert handed == [2] * 4
    assert evaluation_outcome(tmp_path / "killed") == evaluation_outcome(tmp_path / "undisturbed")


def test_two_tests_of_one_network(test: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Fails when a second run writes the results that a first is writing."""
    assert test("fgsm", "there") == 0
    (table,) = (tmp_path / "there").glob("*.csv")
    with write_lock(table.with_suffix("")):
        assert test("fgsm", "there") == 2
    assert "another run is writing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "flag", "outcome"),
    [
        ([*TRAINING, "--resume", "--saveEvery", "0.01"], "--saveDir", training_outcome),
        ([*WORDS, "pgd", "apgd-ce"], "--resultDir", evaluation_outcome),
    ],
    ids=["training", "evaluation"],
)
def test_real_kills(words: list[str], flag: str, outcome: Callable[[Path], Any], tmp_path: Path) -> None:
    """Two of the twenty kills of `tests.support.kills`. Fails when at some moment the files on disk are not usable."""
    make_world(tmp_path, 24)
    counts = kill_again_and_again(words, tmp_path, flag, outcome, kills=2, seed=0)
    assert counts["kills"] == 2 and counts["ends"]
