"""The whole road on real ISIC-2017 and ChestX-ray14 images: official download, prepare, train, test, result files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from running import run_main

MODELS = {"res18": "ResNet", "mv2": "MobileNetV2", "chexnet": "DenseNet121"}
CLASSES = {"melBin": 2, "melMulti": 3, "xrayBin": 2}


@pytest.fixture(scope="module")
def data_root(official: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both samples, prepared once."""
    root = tmp_path_factory.mktemp("real") / "data"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("isic2017", "chestxray14"):
            source = official / name
            words = ["prepare", "--dataset", name, "--source", source, "--dataRoot", root, "--split", "official"]
            assert run_main(patch, ["advmia", *words]) == 0
    return root


def train_and_test(
    data_root: Path, dataset: str, model: str, method: str, patch: pytest.MonkeyPatch, *size: object
) -> Path:
    """Trains one epoch and tests it; returns the result file's stem (without .csv or .json)."""
    common = ["--dataset", dataset, "--gpu", "cpu", "--dataRoot", data_root, "--bs", 8, *size]
    how = ["--method", method, "--model", model, "--epoch", 1, "--init", "random", "--eps", 8]
    assert run_main(patch, ["trainCls.py", *common, *how]) == 0
    attack = "_beta0" if method == "pgdat" else ""
    budget = "_ADV8-255_10_2-255" if method == "pgdat" else ""
    name = f"{MODELS[model]}_{dataset}_{method}{attack}_class{CLASSES[dataset]}{budget}_maxLR0.01_weightDecay0.001"
    target = ["--targetModel", model, "--targetWeight", f"clsCkpt/{name}"]
    assert run_main(patch, ["testCls.py", *common, *target, "--epsilons", 8]) == 0
    return Path(f"results/{dataset}__{name}")


@pytest.mark.parametrize("dataset", CLASSES)
@pytest.mark.parametrize("model", MODELS)
def test_every_data_set_and_model(
    dataset: str, model: str, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nat and pgdat train; both are attacked, white-box and from each other; the files hold what was asked for."""
    monkeypatch.chdir(tmp_path)
    size = ["--imgSize", 32, "--limit", 8]
    stems = [train_and_test(data_root, dataset, model, method, monkeypatch, *size) for method in ("nat", "pgdat")]
    nat, robust = (stem.name.split("__")[1] for stem in stems)
    words = ["testCls.py", "--dataset", dataset, "--gpu", "cpu", "--dataRoot", data_root, *size, "--epsilons", 8]
    target = ["--targetModel", model, "--targetWeight", f"clsCkpt/{robust}", "--surrogateWeight", f"clsCkpt/{nat}"]
    assert run_main(monkeypatch, [*words, *target]) == 0
    transfer = Path(f"results/{dataset}__{robust}__from__{nat}")
    for stem in (*stems, transfer):
        with Path(f"{stem}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [(row["attack"], row["eps"], row["n"]) for row in rows] == [
            (a, e, "8") for a, e in (("none", "0"), ("fgsm", "8"), ("pgd", "8"))
        ]
        assert {row["dataset"] for row in rows} == {dataset}, "real images carry no stand-in's name"
        record = json.loads(Path(f"{stem}.json").read_text())
        assert all(0 <= p < CLASSES[dataset] for row in record["rows"] for p in row["outcomes"])


def test_own_size(data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One batch at the data set's own 224 pixels, for the lightest network."""
    monkeypatch.chdir(tmp_path)
    stem = train_and_test(data_root, "xrayBin", "chexnet", "pgdat", monkeypatch, "--limit", 2)
    record = json.loads(Path(f"{stem}.json").read_text())
    assert record["run"]["size"] == 224
