"""The whole road on real ISIC-2017 and ChestX-ray14 images: official download, prepare, train, test, result files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.support.running import run_main

pytestmark = pytest.mark.usefixtures("few_steps")
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
    size = ["--imgSize", 32 if model == "chexnet" else 16, "--limit", 8]  # small: it is the files that matter
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
            (a, e, "8") for a, e in (("none", "0"), ("fgsm", "8"), ("pgd", "8"), ("cw", "8"))
        ]
        assert {row["dataset"] for row in rows} == {dataset}, "real images carry no stand-in's name"
        record = json.loads(Path(f"{stem}.json").read_text())
        assert all(0 <= p < CLASSES[dataset] for row in record["rows"] for p in row["outcomes"])


def check_results(stem: str, rows: list[tuple[str, str]], scores: tuple[str, ...]) -> None:
    """The result file holds these (attack, eps) rows, and of each image an outcome."""
    with Path(f"results/{stem}.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [(row["attack"], row["eps"]) for row in found] == rows
    assert set(scores) <= found[0].keys()
    record = json.loads(Path(f"results/{stem}.json").read_text())
    assert all(len(row["outcomes"]) == row["n"] == len(record["samples"]["file"]) for row in record["rows"])


@pytest.mark.parametrize(("method", "name"), [("trades", "trades_beta6"), ("mart", "mart_beta6"), ("hat", "hat_beta6")])
def test_other_methods(
    method: str, name: str, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRADES, MART and HAT train on melMulti, and what they trained is attacked."""
    monkeypatch.chdir(tmp_path)
    common = [
        "--dataset",
        "melMulti",
        "--gpu",
        "cpu",
        "--dataRoot",
        data_root,
        "--bs",
        8,
        "--imgSize",
        32,
        "--limit",
        8,
    ]
    tail = "maxLR0.01_weightDecay0.001"
    helper = ["--helperModel", "mv2", "--helperWeight", f"clsCkpt/MobileNetV2_melMulti_nat_class3_{tail}"]
    for each, more in (("nat", []), (method, helper if method == "hat" else [])):
        words = ["trainCls.py", *common, "--method", each, "--model", "mv2", "--epoch", 1, "--eps", 8, *more]
        assert run_main(monkeypatch, words) == 0
    weights = f"MobileNetV2_melMulti_{name}_class3_ADV8-255_10_2-255_{tail}"
    target = ["--targetModel", "mv2", "--targetWeight", f"clsCkpt/{weights}", "--epsilons", 8]
    assert run_main(monkeypatch, ["testCls.py", *common, *target]) == 0
    rows = [("none", "0"), ("fgsm", "8"), ("pgd", "8"), ("cw", "8")]
    check_results(f"melMulti__{weights}", rows, ("accuracy",))


@pytest.mark.parametrize("dataset", CLASSES)
def test_autoattack_and_simba(
    dataset: str, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Both run for two classes and three; their rows hold losses, queries and how far images were moved.

    With a twentieth of the steps and a hundredth of the queries, for a network of one epoch may not give way at all.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("advmia.budgets.AUTO_STEPS", 5)
    monkeypatch.setattr("advmia.budgets.QUERIES", 50)
    common = ["--dataset", dataset, "--gpu", "cpu", "--dataRoot", data_root, "--imgSize", 16, "--limit", 2]
    how = ["--method", "nat", "--model", "mv2", "--epoch", 1, "--bs", 2]
    assert run_main(monkeypatch, ["trainCls.py", *common, *how]) == 0
    name = f"MobileNetV2_{dataset}_nat_class{CLASSES[dataset]}_maxLR0.01_weightDecay0.001"
    target = ["--targetModel", "mv2", "--targetWeight", f"clsCkpt/{name}", "--attacks", "aa", "simba", "--epsilons", 8]
    assert run_main(monkeypatch, ["testCls.py", *common, *target]) == 0
    check_results(f"{dataset}__{name}", [("none", "0"), ("aa", "8"), ("simba", "8")], ("accuracy",))
    clean, aa, simba = json.loads(Path(f"results/{dataset}__{name}.json").read_text())["rows"]
    assert clean["losses"] == [] and clean["linf"] == 0
    assert {loss.split(":")[0] for loss in aa["losses"]} == {"apgd-ce", "apgd-t", "fab-t", "square"}
    assert all(linf <= 8.001 for linf in aa["notes"]["linf"]) and len(aa["notes"]["fooled_by"]) == 2
    assert len(simba["notes"]["queries"]) == len(simba["notes"]["l2"]) == 2
    assert "mean queries:" in capsys.readouterr().out


def test_findings(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """trainChex and testChex on the 14 labels; the sample's test list has no Hernia, which is said and left out."""
    monkeypatch.chdir(tmp_path)
    common = ["--gpu", "cpu", "--dataRoot", data_root, "--bs", 32, "--imgSize", 16, "--limit", 160]
    for method in ("nat", "pgdat"):
        words = ["trainChex.py", *common, "--method", method, "--model", "mv2", "--epoch", 1, "--eps", 8]
        assert run_main(monkeypatch, words) == 0
    attack, tail = "ADV8-255_10_2-255", "maxLR0.01_weightDecay0.001"
    weights = f"MobileNetV2_xray_multilabel_pgdat_beta0_class14_{attack}_{tail}"
    target = ["--targetModel", "mv2", "--targetWeight", f"clsCkpt/{weights}", "--epsilons", 8]
    assert run_main(monkeypatch, ["testChex.py", *common, *target]) == 0
    check_results(f"xray_multilabel__{weights}", [("none", "0"), ("pgd", "8")], ("auroc", "Hernia", "Consolidation"))
    record = json.loads(Path(f"results/xray_multilabel__{weights}.json").read_text())
    scores = record["rows"][0]["scores"]
    assert scores["Hernia"] is None
    defined = [score for name, score in scores.items() if name != "auroc" and score is not None]
    assert scores["auroc"] == pytest.approx(sum(defined) / len(defined))
    printed = capsys.readouterr()
    assert "Hernia: undefined" in printed.out and "Hernia" in printed.err


def test_lesion_masks(data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """trainSeg and testSeg on the lesion masks, white-box and from a surrogate of the other architecture."""
    monkeypatch.chdir(tmp_path)
    common = ["--dataset", "mel", "--gpu", "cpu", "--dataRoot", data_root, "--bs", 4, "--imgSize", 32, "--limit", 4]
    for method, model in (("nat", "segnet"), ("pgdat", "unet")):
        words = ["trainSeg.py", *common, "--method", method, "--model", model, "--epoch", 1, "--eps", 8]
        assert run_main(monkeypatch, words) == 0
    weights, surrogate = (
        "UNet_mel_PGDAT_CrossEntropyLoss_Adam_eps8-255_step10_stepSize2-255",
        "SegNet_mel_NAT_CrossEntropyLoss_Adam",
    )
    target = ["--targetModel", "unet", "--targetWeight", f"segckpt/{weights}", "--epsilons", 8]
    rows = [("none", "0"), ("pgd", "8"), ("pgd-dice", "8")]
    assert run_main(monkeypatch, ["testSeg.py", *common, *target]) == 0
    check_results(f"mel__{weights}", rows, ("dice", "iou", "ce_loss"))
    source = ["--surrogateModel", "segnet", "--surrogateWeight", f"segckpt/{surrogate}"]
    assert run_main(monkeypatch, ["testSeg.py", *common, *target, *source]) == 0
    check_results(f"mel__{weights}__from__{surrogate}", rows, ("dice", "iou", "ce_loss"))


def test_own_size(data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One batch at the data set's own 224 pixels, for the lightest network."""
    monkeypatch.chdir(tmp_path)
    stem = train_and_test(data_root, "xrayBin", "chexnet", "pgdat", monkeypatch, "--limit", 2)
    record = json.loads(Path(f"{stem}.json").read_text())
    assert record["run"]["size"] == 224
