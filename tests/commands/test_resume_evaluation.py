"""An evaluation that is stopped or killed continues, and ends with the results of an undisturbed one."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from advmia.commands import testing
from advmia.evaluation import loop
from advmia.evaluation.tally import Tally
from advmia.results import partial
from tests.support.kills import (
    EVALUATION,
    EXPERIMENTS,
    Experiment,
    Killed,
    Outcome,
    evaluation_outcome,
    kill_repeatedly,
)
from tests.support.running import run_main
from tests.support.spoiling import flip_bit, with_checksum
from tests.support.world import make_world

pytestmark = pytest.mark.usefixtures("few_steps", "small_networks")
# Six images in batches of two. WAVE_BATCHES is 2, so an early-stopping attack has two waves: of four images and of two.
WORDS = [*EVALUATION, "--limit", "6", "--attacks"]
MASKS = ["testSeg.py", "--dataset", "mel", "--imgSize", "16", "--gpu", "cpu", "--bs", "2", "--limit", "4"]
TESTS = {
    "pgd": [*WORDS, "pgd"],
    "restarts": [*WORDS, "pgd", "--restarts", "2", "--eightBit", "--epsilons", "8"],
    "fgsm": [*WORDS, "fgsm"],
    "apgd-ce": [*WORDS, "apgd-ce", "--epsilons", "0.1/255"],
    "masks": [*MASKS, "--targetModel", "unet", "--targetWeight", "weights/unet", "--attacks", "pgd", "--epsilons", "8"],
}
RunTest = Callable[..., int]


@pytest.fixture
def run_test(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunTest:
    """Runs a test of TESTS in this process and returns its exit status. Progress is saved after every batch.

    Called with the test's name, the folder in `tmp_path` for its results, and further arguments.
    """
    monkeypatch.chdir(world)
    monkeypatch.setattr(partial, "_SAVE_SECONDS", 0.0)
    monkeypatch.setattr(loop, "WAVE_BATCHES", 2)
    return lambda name, out, *more: run_main(monkeypatch, [*TESTS[name], "--resultDir", tmp_path / out, *more])


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    """The outcomes of undisturbed runs, by the test's name; each is run once."""
    return {}


@pytest.fixture
def undisturbed(run_test: RunTest, tmp_path: Path, outcomes: dict[str, Outcome]) -> Callable[[str], Outcome]:
    """Returns the outcome of an undisturbed run of a test of TESTS."""

    def outcome(name: str) -> Outcome:
        if name not in outcomes:
            assert run_test(name, "undisturbed") == 0
            outcomes[name] = evaluation_outcome(tmp_path / "undisturbed")
        return outcomes[name]

    return outcome


def run_until_save(run_test: RunTest, monkeypatch: pytest.MonkeyPatch, name: str, last: int) -> None:
    """Runs a test that dies as soon as it has saved its progress `last` times; its folder is `killed`."""
    saves, save = 0, partial.PartialEvaluation.save

    def save_and_die(self: partial.PartialEvaluation, state: dict[str, Any]) -> None:
        nonlocal saves
        save(self, state)
        saves += 1
        if saves == last:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(partial.PartialEvaluation, "save", save_and_die)
        with pytest.raises(Killed):
            run_test(name, "killed")


def count_attacked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Returns a list that will hold the number of images of each batch that is attacked."""
    attacked: list[int] = []
    of = loop.SampleRng.of

    def record(*scope: object, samples: Any, device: Any = "cpu") -> Any:
        if "reliability" not in scope:
            attacked.append(len(samples))
        return of(*scope, samples=samples, device=device)

    monkeypatch.setattr(loop.SampleRng, "of", record)
    return attacked


def test_progress_with_another_generator_is_not_continued(
    run_test: RunTest,
    undisturbed: Callable[[str], Outcome],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Fails if results mix random numbers of two generators, or no line says that there are new files."""
    _, expected = undisturbed("pgd")
    with monkeypatch.context() as earlier:
        earlier.setattr(testing, "GENERATOR", "another")
        run_until_save(run_test, earlier, "pgd", 4)
    assert run_test("pgd", "killed") == 0
    assert "holds results of a run with other settings: those of this run are in" in capsys.readouterr().err
    records = [json.loads(path.read_text()) for path in (tmp_path / "killed").glob("*.json")]
    (found,) = (record for record in records if record["run"] == expected["run"])
    assert all(row.pop("seconds") > 0 for row in found["rows"])
    assert found["rows"] == expected["rows"] and {record["run"]["generator"] for record in records} != {"splitmix64"}


# The clean pass saves three times, each attack after every batch; apgd-ce after each of two waves.
@pytest.mark.parametrize(
    ("name", "saves", "remaining"),
    [
        ("pgd", 1, [2] * 6),
        ("pgd", 4, [2] * 5),
        ("pgd", 8, [2]),
        ("restarts", 4, [2] * 2),
        ("fgsm", 5, [2] * 4),
        ("apgd-ce", 4, [2]),
        pytest.param("masks", 3, [2], marks=pytest.mark.slow),
    ],
)
def test_killed_after_a_batch(
    name: str,
    saves: int,
    remaining: list[int],
    run_test: RunTest,
    undisturbed: Callable[[str], Outcome],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fails if a finished batch is attacked again, or if one is left out or its results are lost.

    Scores, outcomes, distances and notes must be those of an undisturbed run to the bit.
    """
    run_until_save(run_test, monkeypatch, name, saves)
    expected = undisturbed(name)
    attacked = count_attacked(monkeypatch)
    assert run_test(name, "killed") == 0
    assert attacked == remaining
    assert evaluation_outcome(tmp_path / "killed") == expected


def test_progress_of_another_seed(run_test: RunTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if batches that were attacked with another seed are used."""
    run_until_save(run_test, monkeypatch, "pgd", 4)
    assert run_test("pgd", "killed", "--seed", 1) == 0
    assert run_test("pgd", "undisturbed", "--seed", 1) == 0
    for path in (tmp_path / "killed").glob("melBin__mv2.*"):
        if not re.match(r"melBin__mv2\.[0-9a-f]{8}\.", path.name):
            path.unlink()  # of the first seed
    assert evaluation_outcome(tmp_path / "killed") == evaluation_outcome(tmp_path / "undisturbed")


def test_damaged_progress(
    run_test: RunTest,
    undisturbed: Callable[[str], Outcome],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Fails if a damaged file of partial progress is used, or ends the run: what it held can be computed again."""
    run_until_save(run_test, monkeypatch, "fgsm", 5)
    expected = undisturbed("fgsm")
    shutil.copytree(tmp_path / "killed", tmp_path / "copy")
    (path,) = (tmp_path / "killed").glob("*.unfinished-*")
    raw = path.read_bytes()
    for content in (raw[:-9], flip_bit(raw, 900), b"", with_checksum(b"no tensors")):
        shutil.rmtree(tmp_path / "killed")
        shutil.copytree(tmp_path / "copy", tmp_path / "killed")
        path.write_bytes(content)
        assert run_test("fgsm", "killed") == 0
        assert "is damaged" in capsys.readouterr().err
        assert evaluation_outcome(tmp_path / "killed") == expected


def test_a_signal_keeps_finished_batches(
    run_test: RunTest, undisturbed: Callable[[str], Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if Ctrl-C loses a finished batch that was not yet due to be saved, or ends in a traceback."""
    expected = undisturbed("pgd")
    merge, merges = Tally.merge, []

    def merge_and_stop(self: Any, other: Any) -> None:
        merge(self, other)
        merges.append(other)
        if len(merges) == 6:  # the clean pass merges three batches, then all; these are the attack's first two
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(partial, "_SAVE_SECONDS", 1e9)
        patch.setattr(Tally, "merge", merge_and_stop)
        assert run_test("pgd", "killed") == 128 + signal.SIGINT
    attacked = count_attacked(monkeypatch)
    assert run_test("pgd", "killed") == 0
    assert attacked == [2] * 4
    assert evaluation_outcome(tmp_path / "killed") == expected


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda experiment: experiment.name)
def test_real_kills(experiment: Experiment, tmp_path: Path, warm_interpreter: Path) -> None:
    """Fails if a SIGKILL at a random moment leaves files that the next run cannot use. Two kills of each command."""
    make_world(tmp_path)
    fewer = ["--epoch", "3"] if experiment.name == "training" else ["--limit", "6", "--attacks", "pgd", "apgd-ce"]
    experiment = replace(experiment, words=[*experiment.words, *fewer])
    counts = kill_repeatedly(experiment, tmp_path, kills=2, seed=0, python=warm_interpreter)
    assert counts["kills"] == 2 and counts["ends"]
