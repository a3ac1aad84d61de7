"""What a network was trained on, compared with what it is used on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from advmia.data.datasets import DATASETS
from advmia.errors import UserError
from advmia.evaluation.origin import check_dataset, check_training, difference
from advmia.results.read import read_records
from tests.checkpoints.settings import pgdat
from tests.support.networks import image_data
from tests.support.running import run_main

SMALL = ["--imgSize", 16, "--limit", 4, "--bs", 4, "--gpu", "cpu"]
TEST = ["testCls.py", *SMALL, "--attacks", "fgsm", "--epsilons", 8, "--targetModel", "mv2", "--targetWeight"]
VISUAL = ["gradVisual.py", *SMALL, "--model", "mv2", "--epsilons", 8, "--weight"]
HAT = ["trainCls.py", *SMALL, "--model", "mv2", "--method", "hat", "--epoch", 1, "--helperModel", "mv2"]
HAT += ["--helperWeight"]


def facts(**changes: Any) -> dict[str, Any]:
    """Returns the settings of a training on the images of `image_data` at 16 pixels, changed."""
    return pgdat(**{"dataset": "melMulti", "train_data": {"content": "noise"}} | changes).to_json()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ""),
        ({"train_data": {}}, ""),
        ({"size": 8}, "trained on melMulti[noise] at 8 pixels, used on melMulti[noise] at 16 pixels"),
        ({"train_data": {"content": "official"}}, "trained on melMulti at 16 pixels, used on melMulti[noise] at 16"),
        ({"dataset": "mesidorMulti"}, "trained on mesidorMulti[noise] at 16 pixels, used on melMulti[noise] at 16"),
    ],
)
def test_difference(changes: dict[str, Any], expected: str) -> None:
    """Fails if another size, data set or content is overlooked, or a record that lacks a fact counts as different."""
    text = difference(facts(**changes), image_data(4))
    assert text.startswith(expected) and bool(text) == bool(expected)


def test_check_of_both_networks() -> None:
    """Fails if only the target is compared, or a network without a record passes for one that was compared."""
    data = image_data(4)
    check = check_training({"target_training": facts(), "source_training": facts(size=8)}, data)
    assert (check.check, check.verdict) == ("training", "warning") and check.reason.startswith("the source was trained")
    assert check_training({"target_training": facts(size=8), "source_training": None}, data).verdict == "warning"
    check = check_training({"target_training": facts(), "source_training": None}, data)
    assert check.verdict == "not checked" and "of the training of the source" in check.reason
    both = {"target_training": facts(), "source_training": facts()}
    assert check_training(both, data).verdict == "ok"
    check = check_training(both | {"training_warnings": {"source": ["the helper was odd"]}}, data)
    assert (check.verdict, check.reason) == ("warning", "in the training of the source, the helper was odd")


def test_another_data_set() -> None:
    """Fails if classes of another meaning are accepted without being told, or a network without a record is refused."""
    spec = replace(DATASETS["melMulti"], size=16)
    for training in (facts(), facts(size=8), None):
        check_dataset(Path("a"), training, spec, is_meant=False)
    check_dataset(Path("a"), facts(dataset="mesidorMulti"), spec, is_meant=True)
    with pytest.raises(
        UserError, match=r"a was trained on mesidorMulti, whose classes .* melMulti, or add --otherData"
    ):
        check_dataset(Path("a"), facts(dataset="mesidorMulti"), spec, is_meant=False)


@pytest.mark.slow
@pytest.mark.usefixtures("few_steps", "small_networks")
def test_through_the_scripts(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Fails if a script takes a network of another data set or size without a word, or a result does not say it."""
    monkeypatch.chdir(world)
    weights = tmp_path / "weights"
    shutil.copy(world / "weights" / "mv2", weights)
    settings = pgdat(size=8, train_data={"content": "phantom"}).to_json()
    (tmp_path / "weights.json").write_text(json.dumps({"settings": settings}))
    trained = f"{weights} was trained on melBin"

    def run(words: list[Any], dataset: str, out: str, folder: str, *more: str) -> tuple[int, str]:
        status = run_main(monkeypatch, [*words, weights, "--dataset", dataset, out, tmp_path / folder, *more])
        return status, capsys.readouterr().err

    for words, out in ((TEST, "--resultDir"), (VISUAL, "--saveDir"), (HAT, "--saveDir")):
        name = words[0]
        status, error = run(words, "xrayBin", out, f"refused-{name}")
        assert status == 2 and f"{trained}, whose classes mean something else than those of xrayBin" in error, error
        assert not (tmp_path / f"refused-{name}").exists()
        status, error = run(words, "melBin", out, f"size-{name}")
        assert status == 0 and "trained on melBin[phantom] at 8 pixels, used on melBin[phantom] at 16 pixels" in error
        assert "--otherDataset" not in error
        status, error = run(words, "xrayBin", out, f"meant-{name}", "--otherDataset")
        assert status == 0 and "trained on melBin[phantom] at 8 pixels, used on xrayBin[phantom] at 16 pixels" in error

    (path,) = (tmp_path / "meant-trainCls.py").glob("*.json")
    record = json.loads(path.read_text())
    assert record["trained_on"] == "xrayBin[phantom]"
    (remark,) = record["warnings"]
    assert remark.startswith(f"the helper {weights} was trained on melBin[phantom] at 8 pixels")
    words = [*TEST, path.with_suffix(""), "--dataset", "xrayBin", "--resultDir", tmp_path / "helped"]
    assert run_main(monkeypatch, words) == 0
    assert f"warning: in the training of the target, {remark}" in capsys.readouterr().err
    (result,) = read_records([tmp_path / "helped"])
    assert f"training: in the training of the target, {remark}" in result.warnings
    (path,) = (tmp_path / "meant-testCls.py").glob("*.json")
    content = json.loads(path.read_text())
    (check,) = (check for check in content["reliability"] if check["check"] == "training")
    assert check["verdict"] == "warning" and "used on xrayBin[phantom]" in check["reason"]
    assert content["target_training"]["dataset"] == "melBin" and "source_training" not in content
