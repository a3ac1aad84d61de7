"""Networks of several seeds: where their files go, and how their results come together in a table."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from advmia import budgets
from advmia.entry_points import output_path
from tests.support.running import run_main
from tests.support.world import TRAININGS

NATURAL = "MobileNetV2_melBin_nat_class2_maxLR0.01_weightDecay0.001"


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["nat", "findings", "masks"])
def test_places(name: str, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a network of another seed has the published place, or one of seed 0 has not."""
    monkeypatch.chdir(world)
    words = [*TRAININGS[name], "--saveDir", "networks"]
    published = output_path(words)
    assert published.parent == Path("networks") and output_path([*words, "--seed", "0"]) == published
    assert output_path([*words, "--seed", "12"]) == Path("networks/seed12") / published.name


@pytest.mark.slow
@pytest.mark.usefixtures("small_networks", "few_steps")
def test_two_seeds(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails if files of two seeds have one name, `where` names other files, or a table does not average the seeds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(budgets, "TRAINING_STEPS", 2)
    common = ["--dataRoot", str(world / "data"), "--gpu", "cpu"]
    train = [*TRAININGS["nat"], *common, "--epoch", "1"]
    for seed in ("0", "1"):
        assert run_main(monkeypatch, [*train, "--seed", seed]) == 0
    assert files_in(Path("clsCkpt")) == {
        f"{place}{NATURAL}{end}" for place in ("", "seed1/") for end in ("", ".json", ".png")
    }, "nothing is renamed"

    weights = {seed: f"clsCkpt/{place}{NATURAL}" for seed, place in ((0, ""), (1, "seed1/"))}
    attack = ["testCls.py", "--dataset", "melBin", *common, "--imgSize", "16", "--limit", "4", "--epsilons", "8"]
    attack += ["--attacks", "fgsm", "--targetModel", "mv2", "--targetWeight"]
    transfer = [*attack, weights[0], "--surrogateModel", "mv2", "--surrogateWeight", weights[1]]
    expected = [f"melBin__{NATURAL}", f"seed1/melBin__{NATURAL}", f"melBin__{NATURAL}__from__seed1__{NATURAL}"]
    for words, stem in zip(([*attack, weights[0]], [*attack, weights[1]], transfer), expected, strict=True):
        assert output_path(words) == Path(f"results/{stem}.json")
        assert run_main(monkeypatch, words) == 0
    assert files_in(Path("results")) == {f"{stem}{end}" for stem in expected for end in (".csv", ".json")}

    capsys.readouterr()
    assert run_main(monkeypatch, ["advmia", "tables", "results"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^\| nat +\| \d+ +\| \d+\.\d \+- \d+\.\d \(2 seeds\)", text, re.M)
    assert re.search(r"^\| mv2 nat \(another seed\) +\| \d+\.\d \(\d+\.\d-\d+\.\d\) \(1 seed\)", text, re.M)
    assert run_main(monkeypatch, ["advmia", "tables", "results", "--perSeed"]) == 0
    assert "| nat    | trained: seed 1 |" in capsys.readouterr().out


def test_the_seed_of_a_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if results do not go by the seed in the target's record or, without a record of these weights, by the
    folder's name."""
    monkeypatch.chdir(tmp_path)
    words = ["testCls.py", "--dataset", "melBin", "--targetModel", "mv2", "--targetWeight"]

    def place(path: str) -> Path:
        return output_path([*words, path]).parent

    assert place("x") == place("seed0/x") == place("seedling/x") == Path("results")
    assert place("a/seed7/x") == Path("results/seed7")
    back = output_path([*words, "seed7/x", "--surrogateModel", "mv2", "--surrogateWeight", "y"])
    assert back == Path("results/seed7/melBin__x__from__seed0__y.json")
    Path("seed7").mkdir()
    Path("seed7/x").write_bytes(b"weights")
    record = {"settings": {"seed": 3}, "epochs": [], "best_epoch": 1}
    Path("seed7/x.json").write_text(json.dumps(record))
    assert place("seed7/x") == Path("results/seed3")
    Path("seed7/x.json").write_text(json.dumps(record | {"weights_sha256": "0" * 64}))
    assert place("seed7/x") == Path("results/seed7"), "the record is of other weights"
