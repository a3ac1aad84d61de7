"""Transfer attacks by the three test scripts: the source is what the flags state, and the attacks run on it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from advmia.data.phantoms import make_phantoms
from advmia.models import build_model
from tests.support.networks import small_networks
from tests.support.running import run_main

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few_steps", "small_networks")]
PGD = ["--attacks", "pgd", "--epsilons", "8"]


@dataclass(frozen=True)
class Script:
    name: str
    dataset: str
    models: tuple[str, str]  # the target's network and another
    classes: int
    images: int = 24  # the fewest for which all scores are defined

    @property
    def words(self) -> list[str]:
        named = [] if self.name == "testChex.py" else ["--dataset", self.dataset]
        return [self.name, *named, "--gpu", "cpu", "--bs", "8", "--imgSize", "32", "--limit", str(self.images), *PGD]


SCRIPTS = [
    Script("testCls.py", "melBin", ("mv2", "chexnet"), 2),
    Script("testChex.py", "xray_multilabel", ("mv2", "chexnet"), 14),
    Script("testSeg.py", "mel", ("segnet", "unet"), 2, images=2),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms in ./data and, for each script, two checkpoints of its first network and one of its other."""
    folder = tmp_path_factory.mktemp("transfer")
    make_phantoms(folder / "data", ["mel2017", "xray"], count=24, size=32)
    with small_networks():
        for script in SCRIPTS:
            for name, model in (("one", 0), ("two", 0), ("other", 1)):
                torch.manual_seed(len(name) + ord(name[0]))
                network = build_model(script.models[model], script.classes)
                for _ in range(20):  # with running statistics of images, attacks change what the network predicts
                    network(torch.rand(4, 3, 32, 32))
                torch.save(network.state_dict(), folder / f"{script.dataset}-{name}")
    return folder


def result_of(script: Script, folder: Path, monkeypatch: pytest.MonkeyPatch, *surrogate: str) -> dict[str, Any] | int:
    """Returns the JSON result of the script, or its exit status if it fails."""
    monkeypatch.chdir(folder)
    out = folder / "results" / "-".join([script.dataset, *surrogate])
    target = ["--targetModel", script.models[0], "--targetWeight", f"{script.dataset}-one"]
    status = run_main(monkeypatch, [*script.words, *target, *surrogate, "--resultDir", out])
    if status:
        assert not out.exists() or not any(out.iterdir())
        return status
    (record,) = out.glob("*.json")
    return json.loads(record.read_text())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_surrogate_defaults_to_the_target(
    script: Script, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Fails if the source is not what the flags state, be it its weights, its network, both or neither."""

    def run(*surrogate: str) -> dict[str, Any]:
        record = result_of(script, folder, monkeypatch, *surrogate)
        assert isinstance(record, dict)
        return record

    def source(record: dict[str, Any]) -> tuple[str, str]:
        return record["source_model"], record["source_weight"]

    first, other = script.models
    white_box = run()
    weights_alone = run("--surrogateWeight", f"{script.dataset}-two")
    both = run("--surrogateModel", other, "--surrogateWeight", f"{script.dataset}-other")
    model_alone = run("--surrogateModel", first)
    assert source(white_box) == source(model_alone) == (first, f"{script.dataset}-one")
    assert source(weights_alone) == (first, f"{script.dataset}-two")
    assert source(both) == (other, f"{script.dataset}-other")
    # The clean outcomes of the target are the same each time; those under attack depend on the source.
    outcomes = [[row["outcomes"] for row in record["rows"]] for record in (white_box, model_alone, weights_alone, both)]
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][0] == outcomes[2][0] == outcomes[3][0]
    if script.name != "testCls.py":  # logits and overlaps; the classes that untrained networks predict may be equal
        assert len({str(rows[1]) for rows in outcomes[1:]}) == 3

    # The other network cannot take the target's weights, which the error line says.
    assert result_of(script, folder, monkeypatch, "--surrogateModel", other) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"{script.dataset}-one" in message and other in message
