"""The documented command lines are accepted in every spelling, and bad ones end in one line and status 2."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from advmia.cli import flags
from advmia.data.phantoms import make_phantoms
from advmia.models import build_model
from advmia.tasks import SINGLE_LABEL
from tests.support.running import run_main

TRAIN = "--dataset melBin --wd 1e-3 --lr 0.01 --method nat --model res18 --eps 0 --epoch 100 --bs 32 --gpu 0"
TEST = "--dataset melBin --targetModel res18 --targetWeight a --bs 16 --gpu 0"
OFFERED_DATASETS = ["mesidorBin", "mesidorMulti", "melBin", "melMulti", "xrayBin"]


def parse_train(line: str) -> dict[str, object]:
    return vars(flags.train_parser(SINGLE_LABEL, None).parse_args(line.split()))


def parse_test(line: str) -> dict[str, object]:
    return vars(flags.test_parser(SINGLE_LABEL, None).parse_args(line.split()))


@pytest.mark.parametrize("dataset", OFFERED_DATASETS)
@pytest.mark.parametrize("method", ["nat", "pgdat", "trades", "mart", "hat"])
@pytest.mark.parametrize("model", ["res18", "chexnet", "mv2"])
def test_every_documented_training_value(dataset: str, method: str, model: str) -> None:
    """Breaks when a registry loses a name that REFERENCE section 1 documents."""
    line = (
        f"--dataset {dataset} --wd 1e-3 --lr 0.01 --method {method} --model {model} --eps 8 --epoch 1 --bs 2 --gpu 0 1"
    )
    parsed = parse_train(f"{line} --helperModel {model} --helperWeight w")
    expected = {
        "dataset": dataset,
        "method": method,
        "model": model,
        "eps": 8.0,
        "epoch": 1,
        "bs": 2,
        "gpu": ["0", "1"],
    }
    assert parsed | expected | {"wd": 1e-3, "lr": 0.01, "helperModel": model, "helperWeight": Path("w")} == parsed


@pytest.mark.parametrize("eps", ["0", "1", "2", "4", "8", "2.5", "255"])
def test_every_eps(eps: str) -> None:
    assert parse_train(TRAIN.replace("--eps 0", f"--eps {eps}"))["eps"] == float(eps)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("melBIn", "melBin"),
        ("MELBIN", "melBin"),
        ("melanomaBin", "melBin"),
        ("melanomaMul", "melMulti"),
        ("melMul", "melMulti"),
        ("mesidorMul", "mesidorMulti"),
        ("MesidorBin", "mesidorBin"),
        ("xraybin", "xrayBin"),
    ],
)
def test_data_set_spellings(spelling: str, name: str) -> None:
    assert parse_train(TRAIN.replace("melBin", spelling))["dataset"] == name
    assert parse_test(TEST.replace("melBin", spelling))["dataset"] == name


@pytest.mark.parametrize(("spelling", "name"), [("chexNet", "chexnet"), ("RES18", "res18"), ("MV2", "mv2")])
def test_model_spellings(spelling: str, name: str) -> None:
    assert parse_train(TRAIN.replace("res18", spelling))["model"] == name
    surrogate = f"{TEST} --surrogateModel {spelling} --surrogatePath b"
    assert parse_test(surrogate)["surrogateModel"] == name


@pytest.mark.parametrize("flag", ["--targetWeight", "--targetPath", "--TARGETPATH", "--targetweight"])
def test_weight_flag_spellings(flag: str) -> None:
    """Breaks when an alias or the case-blind look-up of flags is lost."""
    parsed = parse_test(TEST.replace("--targetWeight", flag))
    assert parsed["targetWeight"] == Path("a")
    # --targetPath -> --surrogatePath, in the same case
    surrogate = parse_test(f"{TEST} --surrogate{flag[len('--target') :]}=b")
    assert surrogate["surrogateWeight"] == Path("b")


def test_method_in_any_case() -> None:
    assert parse_train(TRAIN.replace("nat", "PGDAT"))["method"] == "pgdat"


def test_optional_flags_default_to_the_survey() -> None:
    """The survey's scripts give wd, lr, epoch and bs; leaving them out must mean the same."""
    bare = parse_train("--dataset melBin --method nat --model res18")
    given = parse_train("--dataset melBin --method nat --model res18 --wd 1e-3 --lr 0.01 --epoch 100 --bs 32")
    assert bare == given
    assert parse_test("--dataset melBin --targetModel res18 --targetWeight a")["bs"] == 16
    assert parse_test(TEST)["epsilons"] == [1, 2, 4, 8]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (TRAIN.replace("melBin", "mel2"), "unknown name 'mel2': known are mesidorBin, mesidorMulti, melBin"),
        (TRAIN.replace("res18", "res50"), "unknown name 'res50': known are res18, mv2, chexnet"),
        (TRAIN.replace("res18", "unet"), "unknown name 'unet'"),
        (TRAIN.replace("nat", "pgd"), "unknown name 'pgd': known are nat, pgdat, trades, mart, hat"),
        (TRAIN.replace("--eps 0", "--eps eight"), "grey levels from 0 to 255, got 'eight'"),
        (TRAIN.replace("--eps 0", "--eps nan"), "grey levels from 0 to 255, got 'nan'"),
        (TRAIN.replace("--eps 0", "--eps -1"), "grey levels from 0 to 255, got '-1'"),
        (TRAIN.replace("--eps 0", "--eps 256"), "grey levels from 0 to 255, got '256'"),
        (TRAIN.replace("--bs 32", "--bs 0"), "whole number of at least 1, got '0'"),
        (TRAIN.replace("--bs 32", "--bs 1.5"), "whole number of at least 1, got '1.5'"),
        (TRAIN.replace("--epoch 100", "--epoch x"), "whole number of at least 1, got 'x'"),
        (TRAIN.replace("--lr 0.01", "--lr 0"), "a number above 0, got '0'"),
        (TRAIN.replace("--wd 1e-3", "--wd inf"), "a number of at least 0, got 'inf'"),
        (TRAIN + " --valFraction 1", "a number between 0 and 1, got '1'"),
        (TRAIN + " --nosuch 1", "unrecognized arguments: --nosuch 1"),
        ("--dataset melBin", "required: --method, --model"),
    ],
)
def test_bad_training_lines(
    line: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert run_main(monkeypatch, ["trainCls.py", *line.split()]) == 2
    check_one_line(capsys.readouterr().err, says)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (f"{TEST} --attacks pgd nosuch", "unknown name 'nosuch': known are fgsm, pgd"),
        (f"{TEST} --epsilons 1 two", "grey levels from 0 to 255, got 'two'"),
        (f"{TEST} --surrogateModel segnet", "unknown name 'segnet'"),
        ("--dataset melBin --targetModel res18", "required: --targetWeight"),
    ],
)
def test_bad_test_lines(line: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert run_main(monkeypatch, ["testCls.py", *line.split()]) == 2
    check_one_line(capsys.readouterr().err, says)


def check_one_line(text: str, says: str) -> None:
    assert says in text
    assert text.count("\n") == 1, text
    assert "Traceback" not in text


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("phantoms")
    make_phantoms(root, ["mel2017", "xray"], count=24, size=32)
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints, good and bad, one name each."""
    folder = tmp_path_factory.mktemp("weights")
    torch.save(build_model("res18", 2).state_dict(), folder / "res18-2")
    torch.save(build_model("res18", 3).state_dict(), folder / "res18-3")
    torch.save(build_model("mv2", 2).state_dict(), folder / "mv2-2")
    torch.save({"state_dict": build_model("mv2", 2).state_dict(), "epoch": 3}, folder / "wrapped")
    torch.save([1, 2], folder / "list")
    torch.save(Path("x"), folder / "object")
    truncated = (folder / "mv2-2").read_bytes()[:5000]
    (folder / "truncated").write_bytes(truncated)
    (folder / "text").write_text("no weights")
    return folder


@pytest.mark.parametrize(
    ("model", "weight", "says"),
    [
        ("res18", "missing", "no checkpoint at"),
        ("res18", "", "is a folder"),
        ("res18", "mv2-2", "holds weights of mv2, not of res18"),
        ("mv2", "res18-2", "holds weights of res18, not of mv2"),
        ("res18", "res18-3", "has 3 classes, but melBin has 2"),
        ("mv2", "wrapped", "expected a bare state_dict"),
        ("mv2", "list", "holds list: expected a bare state_dict"),
        ("mv2", "object", "is no checkpoint"),
        ("mv2", "truncated", "is no checkpoint"),
        ("mv2", "text", "is no checkpoint"),
    ],
)
@pytest.mark.parametrize("role", ["target", "surrogate"])
def test_wrong_checkpoints(
    role: str,
    model: str,
    weight: str,
    says: str,
    phantoms: Path,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """Promise 7: named before any work; nothing is written."""
    words = ["testCls.py", "--dataset", "melBin", "--gpu", "cpu", "--dataRoot", phantoms, "--resultDir", tmp_path / "r"]
    if role == "target":
        words += ["--targetModel", model, "--targetWeight", weights / weight]
    else:
        words += ["--targetModel", "res18", "--targetWeight", weights / "res18-2"]
        words += ["--surrogateModel", model, "--surrogateWeight", weights / weight]
    assert run_main(monkeypatch, words) == 2
    check_one_line(capsys.readouterr().err, says)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("script", ["trainCls.py", "testCls.py"])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--gpu", "0"], "no CUDA device; use --gpu cpu"),
        (["--gpu", "zero"], "expected CUDA device ids"),
        (["--dataRoot", "nowhere"], "no list at nowhere/mel2017"),
        (["--dataset", "mesidorBin"], "python -m advmia prepare --dataset mesidor"),
    ],
)
def test_wrong_surroundings(
    script: str,
    change: list[str],
    says: str,
    phantoms: Path,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    if change == ["--gpu", "0"] and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    monkeypatch.chdir(tmp_path)
    words = [script, "--dataset", "melBin", "--gpu", "cpu", "--dataRoot", phantoms]
    words += (
        ["--method", "nat", "--model", "mv2", "--epoch", 1]
        if script == "trainCls.py"
        else ["--targetModel", "mv2", "--targetWeight", weights / "mv2-2"]
    )
    assert run_main(monkeypatch, [*words, *change]) == 2
    check_one_line(capsys.readouterr().err, says)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--model", "chexnet", "--imgSize", "16"], "too small for chexnet: it takes 29 or more"),
        (["--model", "mv2", "--init", "imagenet"], "mv2 has no ImageNet weights"),
        (["--model", "mv2", "--method", "hat"], "--method hat needs --helperModel and --helperWeight"),
    ],
)
def test_what_cannot_be_trained(
    words: list[str],
    says: str,
    phantoms: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    base = ["trainCls.py", "--dataset", "melBin", "--method", "nat", "--gpu", "cpu", "--dataRoot", phantoms]
    assert run_main(monkeypatch, [*base, *words]) == 2
    check_one_line(capsys.readouterr().err, says)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["prepare", "--dataset", "messidor", "--source", "x"], "unknown name 'messidor': known are mesidor, isic2017"),
        (["prepare", "--dataset", "isic2017", "--source", "nowhere"], "nowhere"),
        (["phantoms", "--dataset", "retina"], "unknown name 'retina': known are mesidor, mel2017, xray, covidSeg"),
        (["phantoms", "--count", "3"], "count"),
        (["tables", "nowhere"], "no result file"),
        (["tabulate"], "invalid choice: 'tabulate'"),
    ],
)
def test_bad_tool_lines(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_main(monkeypatch, ["advmia", *words]) == 2
    check_one_line(capsys.readouterr().err, says)
    assert not list(tmp_path.iterdir())
