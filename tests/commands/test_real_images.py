"""From the official downloads to result files, on real ISIC-2017 and ChestX-ray14 images: prepare, train, test."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from advmia.results.sheets import read_pictures
from tests.support.running import run_main

pytestmark = [pytest.mark.usefixtures("few_steps", "small_networks"), pytest.mark.slow]
MODELS = {"res18": "ResNet", "mv2": "MobileNetV2", "chexnet": "DenseNet121"}
CLASSES = {"melBin": 2, "melMulti": 3, "xrayBin": 2}
BUDGET, TAIL = "ADV8-255_10_2-255", "maxLR0.01_weightDecay0.001"
# Attack and eps of the rows of a test with the default attacks.
ATTACKED = [("none", "0"), ("fgsm", "8"), ("pgd", "8"), ("cw", "8"), ("worst", "8")]


@pytest.fixture(scope="module")
def data_root(official: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data root with both samples, prepared once."""
    root = tmp_path_factory.mktemp("real") / "data"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("isic2017", "chestxray14"):
            source = official / name
            words = ["prepare", "--dataset", name, "--source", source, "--dataRoot", root, "--split", "official"]
            assert run_main(patch, ["advmia", *words]) == 0
    return root


def natural_name(dataset: str, model: str) -> str:
    return f"{MODELS[model]}_{dataset}_nat_class{CLASSES[dataset]}_{TAIL}"


def robust_name(dataset: str, model: str, method: str, beta: int) -> str:
    return f"{MODELS[model]}_{dataset}_{method}_beta{beta}_class{CLASSES[dataset]}_{BUDGET}_{TAIL}"


def check_results(stem: str, rows: list[tuple[str, str]], scores: tuple[str, ...], dataset: str) -> None:
    """Fails unless the result file holds these (attack, eps) rows and an outcome of each image, of real images."""
    with Path(f"results/{stem}.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["attack"], line["eps"]) for line in lines] == rows
    assert set(scores) <= lines[0].keys()
    assert all(re.fullmatch(rf"{dataset}\[subset \d+ of \d+\]", line["dataset"]) for line in lines), "no stand-in"
    record = json.loads(Path(f"results/{stem}.json").read_text())
    assert all(len(row["outcomes"]) == row["n"] == len(record["samples"]["file"]) for row in record["rows"])


def check_sheets(stem: str, attacks: list[str], dataset: str) -> None:
    """Fails unless there is a contact sheet of each attack, which says that the images are a part of the data set."""
    sheets = read_pictures(Path(f"results/{stem}.json"))
    assert [sheet.attack for sheet in sheets] == attacks
    assert all(sheet.alt.startswith(f"{dataset}: ") for sheet in sheets)


# Each data set and each model once: which model goes with which data set makes no difference to the code.
@pytest.mark.parametrize(("dataset", "model"), list(zip(CLASSES, MODELS, strict=True)))
def test_every_data_set_and_model(
    dataset: str, model: str, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if natural or adversarial training, or a white-box or transfer test, does not write what it should."""
    monkeypatch.chdir(tmp_path)
    size = 32 if model == "chexnet" else 16
    common = ["--dataset", dataset, "--gpu", "cpu", "--dataRoot", data_root, "--bs", 8, "--imgSize", size, "--limit", 8]
    names = {"nat": natural_name(dataset, model), "pgdat": robust_name(dataset, model, "pgdat", 0)}
    for method, name in names.items():
        how = ["--method", method, "--model", model, "--epoch", 1, "--init", "random", "--eps", 8]
        assert run_main(monkeypatch, ["trainCls.py", *common, *how]) == 0
        assert Path(f"clsCkpt/{name}").is_file()
    target = ["--targetModel", model, "--targetWeight", f"clsCkpt/{names['pgdat']}", "--epsilons", 8]
    source = ["--surrogateWeight", f"clsCkpt/{names['nat']}"]
    for stem, words in (
        (f"{dataset}__{names['pgdat']}", []),
        (f"{dataset}__{names['pgdat']}__from__{names['nat']}", source),
    ):
        assert run_main(monkeypatch, ["testCls.py", *common, *target, *words]) == 0
        check_results(stem, ATTACKED, ("accuracy",), dataset)
        rows = json.loads(Path(f"results/{stem}.json").read_text())["rows"]
        assert all(0 <= prediction < CLASSES[dataset] for row in rows for prediction in row["outcomes"])


def test_other_methods(data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if TRADES, MART or HAT does not train on three classes, or what HAT trained cannot be tested."""
    monkeypatch.chdir(tmp_path)
    common = ["--dataset", "melMulti", "--gpu", "cpu", "--dataRoot", data_root]
    common += ["--bs", 8, "--imgSize", 32, "--limit", 8]
    helper = ["--helperModel", "mv2", "--helperWeight", f"clsCkpt/{natural_name('melMulti', 'mv2')}"]
    for method in ("nat", "trades", "mart", "hat"):
        words = ["trainCls.py", *common, "--method", method, "--model", "mv2", "--epoch", 1, "--eps", 8]
        assert run_main(monkeypatch, words + (helper if method == "hat" else [])) == 0
        assert method == "nat" or Path("clsCkpt", robust_name("melMulti", "mv2", method, 6)).is_file()
    weights = robust_name("melMulti", "mv2", "hat", 6)
    target = ["--targetModel", "mv2", "--targetWeight", f"clsCkpt/{weights}", "--epsilons", 8]
    assert run_main(monkeypatch, ["testCls.py", *common, *target]) == 0
    check_results(f"melMulti__{weights}", ATTACKED, ("accuracy",), "melMulti")


@pytest.mark.parametrize("dataset", ["melMulti", "xrayBin"])
def test_autoattack_and_simba(
    dataset: str,
    data_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Fails if AutoAttack or SimBA does not run for two or three classes, or their rows lack losses, queries or norms.

    They take few steps and queries: the network of one epoch may withstand them.
    """
    monkeypatch.chdir(tmp_path)
    common = ["--dataset", dataset, "--gpu", "cpu", "--dataRoot", data_root, "--imgSize", 16, "--limit", 2]
    how = ["--method", "nat", "--model", "mv2", "--epoch", 1, "--bs", 2]
    assert run_main(monkeypatch, ["trainCls.py", *common, *how]) == 0
    name = natural_name(dataset, "mv2")
    target = ["--targetModel", "mv2", "--targetWeight", f"clsCkpt/{name}", "--attacks", "aa", "simba", "--epsilons", 8]
    assert run_main(monkeypatch, ["testCls.py", *common, *target]) == 0
    check_results(f"{dataset}__{name}", [("none", "0"), ("aa", "8"), ("simba", "8")], ("accuracy",), dataset)
    clean, aa, simba = json.loads(Path(f"results/{dataset}__{name}.json").read_text())["rows"]
    assert clean["losses"] == [] and clean["linf"] == 0
    assert {loss.split(":")[0] for loss in aa["losses"]} == {"apgd-ce", "apgd-t", "fab-t", "square"}
    assert all(linf <= 8.001 for linf in aa["notes"]["linf"]) and len(aa["notes"]["fooled_by"]) == 2
    assert len(simba["notes"]["queries"]) == len(simba["notes"]["l2"]) == 2
    assert "mean queries:" in capsys.readouterr().out


def test_findings(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails if trainChex or testChex does not run on the 14 findings, or if the mean AUROC counts an undefined one.

    The sample's test list has no Hernia, whose AUROC is undefined; the commands must say so.
    """
    monkeypatch.chdir(tmp_path)
    common = ["--gpu", "cpu", "--dataRoot", data_root, "--bs", 32, "--imgSize", 16, "--limit", 160]
    words = ["trainChex.py", *common, "--method", "nat", "--model", "mv2", "--epoch", 1]
    assert run_main(monkeypatch, words) == 0
    weights = f"MobileNetV2_xray_multilabel_nat_class14_{TAIL}"
    target = ["--targetModel", "mv2", "--targetWeight", f"clsCkpt/{weights}", "--epsilons", 8]
    assert run_main(monkeypatch, ["testChex.py", *common, *target, "--pictures", 1]) == 0
    stem = f"xray_multilabel__{weights}"
    check_sheets(stem, ["pgd"], "xray_multilabel[subset 800 of 10000]")
    scores = ("auroc", "Hernia", "Consolidation")
    check_results(stem, [("none", "0"), ("pgd", "8")], scores, "xray_multilabel")
    row = json.loads(Path(f"results/{stem}.json").read_text())["rows"][0]["scores"]
    assert row["Hernia"] is None
    defined = [score for name, score in row.items() if name != "auroc" and score is not None]
    assert row["auroc"] == pytest.approx(sum(defined) / len(defined))
    printed = capsys.readouterr()
    assert "Hernia: undefined" in printed.out and "Hernia" in printed.err


def test_lesion_masks(data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if trainSeg or testSeg does not run on the lesion masks, white-box or from the other architecture."""
    monkeypatch.chdir(tmp_path)
    common = ["--dataset", "mel", "--gpu", "cpu", "--dataRoot", data_root, "--bs", 4, "--imgSize", 32, "--limit", 4]
    for method, model in (("nat", "segnet"), ("pgdat", "unet")):
        words = ["trainSeg.py", *common, "--method", method, "--model", model, "--epoch", 1, "--eps", 8]
        assert run_main(monkeypatch, words) == 0
    weights = "UNet_mel_PGDAT_CrossEntropyLoss_Adam_eps8-255_step10_stepSize2-255"
    surrogate = "SegNet_mel_NAT_CrossEntropyLoss_Adam"
    target = ["--targetModel", "unet", "--targetWeight", f"segckpt/{weights}", "--epsilons", 8]
    rows, scores = [("none", "0"), ("pgd", "8"), ("pgd-dice", "8"), ("worst", "8")], ("dice", "iou", "ce_loss")
    assert run_main(monkeypatch, ["testSeg.py", *common, *target, "--pictures", 1]) == 0
    check_results(f"mel__{weights}", rows, scores, "mel")
    check_sheets(f"mel__{weights}", ["pgd", "pgd-dice"], "mel[subset 69 of 2600]")
    source = ["--surrogateModel", "segnet", "--surrogateWeight", f"segckpt/{surrogate}"]
    assert run_main(monkeypatch, ["testSeg.py", *common, *target, *source]) == 0
    check_results(f"mel__{weights}__from__{surrogate}", rows, scores, "mel")


def test_own_size(data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if images are not taken at the data set's own 224 pixels where no --imgSize is given."""
    monkeypatch.chdir(tmp_path)
    common = ["--dataset", "xrayBin", "--gpu", "cpu", "--dataRoot", data_root, "--limit", 2, "--bs", 2]
    how = ["--method", "nat", "--model", "mv2", "--epoch", 1, "--init", "random"]
    assert run_main(monkeypatch, ["trainCls.py", *common, *how]) == 0
    name = natural_name("xrayBin", "mv2")
    target = ["--targetModel", "mv2", "--targetWeight", f"clsCkpt/{name}", "--attacks", "fgsm", "--epsilons", 8]
    assert run_main(monkeypatch, ["testCls.py", *common, *target]) == 0
    assert json.loads(Path(f"results/xrayBin__{name}.json").read_text())["run"]["size"] == 224
