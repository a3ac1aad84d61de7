"""Training and testing by the scripts: their files, records and printed lines, and what a second run does."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from advmia.checkpoints.reading import load_weights
from advmia.commands.inputs import Inputs
from advmia.data.datasets import DATASETS
from advmia.data.phantoms import make_phantoms
from advmia.models import build_model
from advmia.results.intervals import wilson
from tests.support.running import run_main, run_process, run_well

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_networks")]
NATURAL = "MobileNetV2_melBin_nat_class2_maxLR0.01_weightDecay0.001"
ROBUST = "MobileNetV2_melBin_pgdat_beta0_class2_ADV8-255_10_2-255_maxLR0.01_weightDecay0.001"
COLUMNS = (
    "dataset,target_model,target_weight,source_model,source_weight,"
    "attack,eps,steps,step_size,n,accuracy,recall,precision,f1,"
    "balanced_accuracy,auroc,sensitivity,specificity,attack_success_rate,seconds,mean_l2,mean_linf,mean_queries,warnings,"
    "attacks"
)


def file_digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


Command = Callable[..., str]  # runs a script as a process, which must succeed; returns what it printed


@pytest.fixture(scope="module")
def train(warm_interpreter: Path) -> Command:
    def run(folder: Path, method: str, *more: object, python: Path | str = warm_interpreter) -> str:
        base = ["trainCls.py", "--dataset", "melBin", "--wd", "1e-3", "--lr", "0.01", "--method", method]
        size = ["--model", "mv2", "--eps", 8, "--epoch", 1, "--bs", 8, "--gpu", "cpu", "--imgSize", 16]
        return run_well(*base, *size, *more, cwd=folder, python=python)

    return run


@pytest.fixture(scope="module")
def attack(warm_interpreter: Path) -> Command:
    def run(folder: Path, target: str, *more: object) -> str:
        base = ["testCls.py", "--dataset", "melBin", "--targetModel", "mv2", "--targetWeight", f"clsCkpt/{target}"]
        size = ["--bs", 16, "--gpu", "cpu", "--imgSize", 16]
        return run_well(*base, *size, *more, cwd=folder, python=warm_interpreter)

    return run


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with phantoms in ./data."""
    folder = tmp_path_factory.mktemp("folder")
    make_phantoms(folder / "data", ["mel2017"], count=24, size=32)
    return folder


@pytest.fixture(scope="module")
def folder(phantoms: Path, train: Command) -> Path:
    """The working folder with two trained networks."""
    for method in ("nat", "pgdat"):
        train(phantoms, method)
    return phantoms


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_training_writes_weights_and_record(folder: Path) -> None:
    """Fails if a file's name is not as published, the weights are no bare state_dict, or the record lacks a fact."""
    assert sorted(path.name for path in (folder / "clsCkpt").iterdir()) == sorted(
        name + end for name in (NATURAL, ROBUST) for end in ("", ".json", ".png")
    )
    build_model("mv2", 2).load_state_dict(torch.load(folder / "clsCkpt" / ROBUST, weights_only=True), strict=True)
    record = json.loads((folder / "clsCkpt" / f"{ROBUST}.json").read_text())
    assert record["finished"] and record["best_epoch"] == 1 and len(record["epochs"]) == 1
    assert record["selection"] == {"score": "accuracy under PGD-20", "chosen_on": "test list"}
    assert {"accuracy", "recall", "precision", "f1", "auroc"} <= record["epochs"][0]["robust"].keys()
    settings = record["settings"]
    expected = {"dataset": "melBin", "model": "mv2", "method": "pgdat", "eps": 8.0, "steps": 10, "step_size": 2.0}
    assert settings | expected | {"seed": 0, "size": 16, "batch_size": 8} == settings
    assert settings["train_data"]["content"] == "phantom" and len(settings["train_data"]["sha256"]) == 64
    assert record["versions"].keys() >= {"advmia", "python", "torch", "torchvision", "numpy", "pillow"}


@pytest.mark.slow
def test_training_from_weights(folder: Path, train: Command, tmp_path: Path) -> None:
    """Fails if a training does not start from --init, or one from other weights counts as the same training."""
    start = torch.load(folder / "clsCkpt" / ROBUST, weights_only=True)
    for number, scale in enumerate((1.0, 2.0)):
        torch.save({"net": {name: scale * tensor for name, tensor in start.items()}}, tmp_path / f"start{number}")
    how = [*("--dataRoot", folder / "data", "--saveDir", tmp_path), *("--lr", 1e-9, "--wd", 0)]
    name = NATURAL.replace("maxLR0.01_weightDecay0.001", "maxLR1e-09_weightDecay0.0")
    train(tmp_path, "nat", *how, "--init", "start0")
    kept = load_weights(tmp_path / name).state_dict
    assert torch.allclose(kept["conv1.weight"], start["conv1.weight"], rtol=1e-4, atol=1e-6)
    record = json.loads((tmp_path / f"{name}.json").read_text())
    assert record["settings"]["init"] == f"weights {file_digest(tmp_path / 'start0')[:12]}"
    assert "is trained already" in train(tmp_path, "nat", *how, "--init", "start0")
    train(tmp_path, "nat", *how, "--init", "start1")
    assert (tmp_path / f"{name}.earlier-1").exists()


@pytest.mark.slow
def test_same_seed_same_weights(folder: Path, train: Command, fresh_interpreter: Path, tmp_path: Path) -> None:
    """Fails if the same arguments give other weights or another file, or another seed gives the same weights.

    The files must be equal as well: HAT's helper and the target of a result are identified by the SHA-256 of the file.
    """
    data = ["--dataRoot", folder / "data"]
    train(tmp_path, "pgdat", *data, python=fresh_interpreter)  # not the warm one
    train(tmp_path, "pgdat", *data, "--seed", 1, "--saveDir", tmp_path / "other")
    first, again = (load_weights(place / "clsCkpt" / ROBUST).state_dict for place in (folder, tmp_path))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert (folder / "clsCkpt" / ROBUST).read_bytes() == (tmp_path / "clsCkpt" / ROBUST).read_bytes()
    other = load_weights(tmp_path / "other" / "seed1" / ROBUST).state_dict
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


@pytest.mark.slow
def test_training_again(folder: Path, train: Command, tmp_path: Path) -> None:
    """Fails if a finished training is repeated, or one of other settings overwrites its files."""
    data = ["--dataRoot", folder / "data"]
    train(tmp_path, "nat", *data)
    weights = tmp_path / "clsCkpt" / NATURAL
    before = weights.read_bytes(), weights.stat().st_mtime_ns
    assert "trained already" in train(tmp_path, "nat", *data)
    assert (weights.read_bytes(), weights.stat().st_mtime_ns) == before
    train(tmp_path, "nat", *data, "--valFraction", 0.25)
    assert json.loads(weights.with_name(f"{NATURAL}.json").read_text())["weights_sha256"] == file_digest(weights)
    assert weights.with_name(f"{NATURAL}.earlier-1").read_bytes() == before[0]
    assert weights.with_name(f"{NATURAL}.png.earlier-1").exists() and weights.with_name(f"{NATURAL}.png").exists()
    record = json.loads(weights.with_name(f"{NATURAL}.json").read_text())
    assert record["selection"] == {"score": "accuracy", "chosen_on": "held-out 0.25 of the training list"}


def test_where(phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """Fails if `where` prints other paths than those that training and testing write, or refuses what they accept."""
    lines = [
        "trainCls.py --dataset melBin --method nat --model mv2",
        "trainCls.py --dataset melBIN --method PGDAT --model mv2 --saveDir 'two words'",
        f"testCls.py --dataset melBin --targetModel mv2 --targetWeight a/{ROBUST} --surrogateWeight b/{NATURAL}",
        "trainSeg.py --dataset mel --method pgdat --model unet",
        "testChex.py --targetModel mv2 --targetWeight a/b --resultDir c",
    ]
    expected = [
        f"clsCkpt/{NATURAL}",
        f"two words/{ROBUST}",
        f"results/melBin__{ROBUST}__from__{NATURAL}.json",
        "segckpt/UNet_mel_PGDAT_CrossEntropyLoss_Adam_eps8-255_step10_stepSize2-255",
        "c/xray_multilabel__b.json",
    ]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    assert run_main(monkeypatch, ["advmia", "where"]) == 0
    assert capsys.readouterr().out.splitlines() == expected
    more = f"trainCls.py --dataset melMulti --method nat --model mv2 --dataRoot {phantoms}/data"  # classes are counted
    for line, says in (
        ("make coffee", "expected a command of trainCls.py, trainChex.py, "),
        ("", "expected a command of trainCls.py, "),
        ("trainCls.py --dataset melMulti --method nat --model mv2", "no list at data/mel2017/train.csv"),
        ("testCls.py --dataset melBin", "testCls.py: error: the following arguments are required: --targetModel"),
        (more, ""),
    ):
        monkeypatch.setattr("sys.stdin", io.StringIO(line + "\n"))
        assert run_main(monkeypatch, ["advmia", "where"]) == (2 if says else 0)
        captured = capsys.readouterr()
        assert says in captured.err and captured.err.count("\n") == bool(says)
        assert bool(captured.out) != bool(says)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_best_epoch_is_kept(folder: Path, train: Command, tmp_path: Path) -> None:
    """Fails if the record's best epoch is not that with the highest score; of several, that with the lowest loss.

    A network that predicts one class is best only if all others are below the interval of its score.
    """
    train(tmp_path, "nat", "--dataRoot", folder / "data", "--epoch", 3)
    record = json.loads((tmp_path / "clsCkpt" / f"{NATURAL}.json").read_text())
    ranks = {True: [], False: []}  # type: dict[bool, list[tuple[float, float, int]]]
    for epoch in record["epochs"]:
        ranks[epoch["one_class"]].append((epoch["clean"]["accuracy"], -epoch["loss"], epoch["number"]))
    constant, skilled = (max(ranks[kind], default=(-1.0, 0.0, 0)) for kind in (True, False))
    least = wilson(round(constant[0] * 6), 6)[0] if ranks[True] else 0
    assert record["best_epoch"] == (skilled if skilled[0] >= least else constant)[2]


@pytest.mark.slow
def test_white_box_results(folder: Path, attack: Command) -> None:
    """Fails if a column, a row, a printed line or an image's outcome is wrong, or phantoms are not marked."""
    printed = attack(folder, ROBUST)
    rows = read_csv(folder / "results" / f"melBin__{ROBUST}.csv")
    assert ",".join(rows[0]) == COLUMNS
    settings = [(row["attack"], row["eps"], row["steps"], row["step_size"]) for row in rows]
    fgsm = [("fgsm", eps, "1", eps) for eps in "1248"]
    pgd = [("pgd", eps, "20", step) for eps, step in zip("1248", ("0.5", "0.5", "1", "2"), strict=True)]
    cw = [("cw", eps, "30", step) for eps, step in zip("1248", ("0.3825", "0.3825", "0.765", "0.765"), strict=True)]
    worst = [("worst", eps, "0", "0") for eps in "1248"]
    assert settings == [("none", "0", "0", "0"), *fgsm, *pgd, *cw, *worst]
    assert [row["attacks"] for row in rows] == [""] * 13 + ["fgsm; pgd; cw"] * 4
    assert "\nworst of fgsm, pgd, cw\n\teps:1-255 " in printed
    assert {row["dataset"] for row in rows} == {"melBin[phantom]"}
    assert "melBin[phantom]" in printed
    number = r"\d\.\d{4}"
    assert re.search(rf"^nat acc: {number} recall:{number} prec:{number} f1:{number}$", printed, re.M)
    attack_line = (
        rf"^\teps:(\d)-255 step:20 stepSize:(\w+)-255 acc: {number} recall: {number} prec: {number} f1: {number} "
    )
    budgets = re.findall(attack_line + r"totalTIme:[\d.]+s$", printed, re.M)
    assert budgets == [("1", "05"), ("2", "05"), ("4", "1"), ("8", "2")]

    record = json.loads((folder / "results" / f"melBin__{ROBUST}.json").read_text())
    samples = record["samples"]
    assert samples["index"] == [0, 1, 2, 3, 4, 5]
    listed = [line.split(",") for line in (folder / "data/mel2017/testbin.csv").read_text().split()]
    assert [samples["file"], samples["label"]] == [[row[0] for row in listed], [int(row[1]) for row in listed]]
    for row, line in zip(record["rows"], rows, strict=True):
        hits = sum(p == y for p, y in zip(row["outcomes"], samples["label"], strict=True))
        assert float(line["accuracy"]) == pytest.approx(hits / 6, abs=1e-6)
    assert record["target_training"]["method"] == "pgdat"


@pytest.mark.slow
def test_transfer_results(folder: Path, attack: Command, tmp_path: Path) -> None:
    """Fails if the result file of a transfer attack does not name both networks."""
    surrogate = ["--surrogatePath", f"clsCkpt/{NATURAL}"]
    printed = attack(folder, ROBUST, *surrogate, "--attacks", "pgd", "--epsilons", 8, "--resultDir", tmp_path)
    rows = read_csv(tmp_path / f"melBin__{ROBUST}__from__{NATURAL}.csv")
    assert [(row["attack"], row["eps"]) for row in rows] == [("none", "0"), ("pgd", "8")]
    assert rows[1]["source_weight"] == f"clsCkpt/{NATURAL}" and rows[1]["target_weight"] == f"clsCkpt/{ROBUST}"
    assert "pgd" in printed


@pytest.mark.slow
def test_results_are_resumed_and_never_mixed(folder: Path, attack: Command, tmp_path: Path) -> None:
    """Fails if finished rows are computed again, results of other settings are overwritten or renamed, or a run of
    other settings does not find its own again."""
    base = ["--resultDir", tmp_path, "--attacks", "fgsm"]
    attack(folder, NATURAL, *base, "--epsilons", 1)
    path = tmp_path / f"melBin__{NATURAL}.csv"
    first = read_csv(path)
    attack(folder, NATURAL, *base, "--epsilons", 1, 2)
    second = read_csv(path)
    assert second[:2] == first and [row["eps"] for row in second] == ["0", "1", "2"]  # the seconds are the first run's
    for count in (2, 4):
        attack(folder, NATURAL, *base, "--epsilons", 1, "--limit", count)
    contents = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    for more in (["--epsilons", 1, 2], ["--epsilons", 1, "--limit", 2]):
        attack(folder, NATURAL, *base, *more)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == contents
    assert read_csv(path) == second and len(contents) == 6
    others = [file for file in tmp_path.glob("*.csv") if file != path]
    assert sorted(int(row["n"]) for file in others for row in read_csv(file)) == [2, 2, 4, 4]
    table = run_well("advmia", "tables", tmp_path, cwd=folder).partition("\n\nmelBin[phantom], mv2: seconds")[0]
    assert re.findall(r"^\| nat .*?\| (\d+) +\|", table, re.M) == ["6", "4", "2"]


@pytest.mark.slow
def test_a_surrogate_is_known_by_its_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Fails if the target itself, under another path or by a link, counts as a surrogate of its own."""
    monkeypatch.chdir(folder)
    weight = Path("clsCkpt") / NATURAL
    shutil.copy(weight, tmp_path / "copy")
    (tmp_path / "link").symlink_to(weight.resolve())
    words = ["testCls.py", "--dataset", "melBin", "--targetModel", "mv2", "--targetWeight", weight, "--gpu", "cpu"]
    words += ["--imgSize", 16, "--limit", 4, "--attacks", "fgsm", "--epsilons", 8, "--resultDir", tmp_path / "out"]
    for name in ("copy", "link", weight.resolve()):
        surrogate = ["--surrogateModel", "mv2", "--surrogateWeight", tmp_path / name]
        assert run_main(monkeypatch, [*words, *surrogate]) == 0
        assert "this is a white-box test" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"melBin__{NATURAL}.csv",
        f"melBin__{NATURAL}.json",
    ]
    record = json.loads((tmp_path / "out" / f"melBin__{NATURAL}.json").read_text())
    assert len(record["rows"]) == 2 and record["source_weight"] == record["target_weight"] == str(weight)
    assert record["run"]["source_sha256"] == record["run"]["target_sha256"]


@pytest.mark.slow
def test_weights_that_are_replaced(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Fails if a test states the SHA-256 of weights that replaced those it loaded: their training may still run; or if
    it takes the record of the replaced weights for theirs."""
    weight, load = tmp_path / NATURAL, Inputs.load_images
    shutil.copy(folder / "clsCkpt" / NATURAL, weight)
    expected = file_digest(weight)

    def replace_and_load(*args: Any) -> Any:
        shutil.copy(folder / "clsCkpt" / ROBUST, weight)
        return load(*args)

    monkeypatch.setattr(Inputs, "load_images", replace_and_load)
    monkeypatch.chdir(folder)
    words = ["testCls.py", "--dataset", "melBin", "--targetModel", "mv2", "--targetWeight", weight]
    few = ["--gpu", "cpu", "--imgSize", 16, "--limit", 4, "--attacks", "fgsm", "--epsilons", 8]
    assert run_main(monkeypatch, [*words, *few, "--resultDir", tmp_path]) == 0
    (record,) = tmp_path.glob("*.json")
    assert json.loads(record.read_text())["run"]["target_sha256"] == expected
    record.unlink()
    shutil.copy(folder / "clsCkpt" / f"{NATURAL}.json", tmp_path)  # a record, but not of these weights
    monkeypatch.setattr(Inputs, "load_images", load)
    assert run_main(monkeypatch, [*words, *few, "--resultDir", tmp_path / "results"]) == 0
    assert f"{NATURAL}.json is the record of other weights than those in {weight}" in capsys.readouterr().err
    (record,) = (tmp_path / "results").glob("*.json")
    content = json.loads(record.read_text())
    assert content["run"]["target_sha256"] == file_digest(weight) and content["target_training"] is None


@pytest.mark.slow
def test_outcomes_do_not_depend_on_the_batch_size(folder: Path, attack: Command, tmp_path: Path) -> None:
    """Fails if an outcome depends on --bs."""
    outcomes = []
    for size in (1, 4, 64):
        out = ["--resultDir", tmp_path / str(size)]
        attack(folder, ROBUST, "--bs", size, *out, "--attacks", "pgd", "--epsilons", 8)
        record = json.loads((tmp_path / str(size) / f"melBin__{ROBUST}.json").read_text())
        outcomes.append([row["outcomes"] for row in record["rows"]])
    assert outcomes[0] == outcomes[1] == outcomes[2]


@pytest.mark.slow
def test_helper_of_hat(folder: Path, train: Command, tmp_path: Path) -> None:
    """Fails if HAT does not train with its helper, or its checkpoint has another name."""
    more = ["--dataRoot", folder / "data", "--helperModel", "mv2", "--helperWeight", folder / "clsCkpt" / NATURAL]
    train(tmp_path, "hat", *more)
    name = "MobileNetV2_melBin_hat_beta6_class2_ADV8-255_10_2-255_maxLR0.01_weightDecay0.001"
    assert (tmp_path / "clsCkpt" / name).exists()


@pytest.mark.slow
def test_bad_input_as_a_process(phantoms: Path) -> None:
    """Fails if an error is not one line on standard error, with nothing on standard output and status 2."""
    process = run_process(
        "trainCls.py", "--dataset", "xrayBin", "--method", "nat", "--model", "mv2", "--gpu", "cpu", cwd=phantoms
    )
    assert (process.returncode, process.stdout, process.stderr.count("\n")) == (2, "", 1)
    assert process.stderr.startswith("trainCls.py: error: no list at data/xray/trainbin.csv")


def test_an_unreadable_image_is_named_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Fails if a damaged image ends in another line than one that names it, or only after files are written."""
    make_phantoms(tmp_path / "data", ["mel2017"], count=24, size=32)
    listed = (tmp_path / "data/mel2017/trainbin.csv").read_text().split()[2].split(",")[0]
    image = tmp_path / "data/mel2017/img" / listed
    image.write_bytes(image.read_bytes()[:200])
    monkeypatch.chdir(tmp_path)
    words = ["trainCls.py", "--dataset", "melBin", "--method", "nat", "--model", "mv2", "--gpu", "cpu", "--epoch", 1]
    assert run_main(monkeypatch, words) == 2
    stderr = capsys.readouterr().err
    assert f"trainbin.csv row 3: cannot read data/mel2017/img/{listed}" in stderr and stderr.count("\n") == 1
    assert not (tmp_path / "clsCkpt").exists()


@pytest.mark.slow
def test_odd_masks_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """Fails if masks of another size than their image, or empty ones, are not reported, or end the training."""
    make_phantoms(tmp_path / "data", ["mel2017"], count=24, size=32)
    folder = tmp_path / "data" / "mel2017"
    train_list, test_list = ((folder / f"{name}Seg.csv").read_text().splitlines() for name in ("train", "test"))
    masks = [folder / str(DATASETS["mel"].mask_folder) / line.split(",")[1] for line in (*train_list, *test_list)]
    with Image.open(masks[0]) as first_mask:
        resized = first_mask.resize((20, 48))
    resized.save(masks[0])
    Image.new("L", (32, 32)).save(masks[len(train_list)])
    monkeypatch.chdir(tmp_path)
    words = ["trainSeg.py", "--dataset", "mel", "--method", "nat", "--model", "unet", "--epoch", 1, "--bs", 4]
    assert run_main(monkeypatch, [*words, "--gpu", "cpu", "--imgSize", 32]) == 0
    captured = capsys.readouterr()
    assert "trainSeg.csv: 1 masks have another size than their image" in captured.err
    assert "testSeg.csv: 1 masks are all background" in captured.err
    assert "dice" in captured.out and "nan" not in captured.out

    for mask in masks[len(train_list) :]:
        Image.new("L", (32, 32)).save(mask)
    assert run_main(monkeypatch, [*words, "--gpu", "cpu", "--imgSize", 32, "--saveDir", "other"]) == 2
    assert "testSeg.csv: all 6 masks are empty" in capsys.readouterr().err
    assert not Path("other").exists()


@pytest.mark.slow
def test_tables(folder: Path, attack: Command, tmp_path: Path) -> None:
    """Fails if a number of the table is not that of the CSV file, or a plot's name does not say phantom."""
    for target in (NATURAL, ROBUST):
        attack(folder, target, "--attacks", "fgsm", "--resultDir", tmp_path)
    printed = run_well("advmia", "tables", tmp_path, "--out", tmp_path / "out", cwd=folder)
    assert printed == (tmp_path / "out" / "tables.md").read_text()
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line.startswith("|")]
    header, rows = lines[0], {line[0]: line for line in lines[2:4]}
    assert header == ["method", "images", "clean", "fgsm 1", "fgsm 2", "fgsm 4", "fgsm 8"]
    for method, target in (("nat", NATURAL), ("pgdat 8", ROBUST)):
        expected = [f"{100 * float(row['accuracy']):.1f}" for row in read_csv(tmp_path / f"melBin__{target}.csv")]
        assert [cell.strip("*").split(" ")[0] for cell in rows[method]] == [method.split(" ")[0], "6", *expected]
    assert re.search(r"^\| pgdat 8 +\| 1 +\| \d+\.\d +\|$", printed, re.M), "seconds of the one epoch"
    assert (tmp_path / "out" / "melBin[phantom]__mv2.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "out" / "melBin[phantom]__mv2.pdf").read_bytes().startswith(b"%PDF")
