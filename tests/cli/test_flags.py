"""The flags of the training and test scripts: documented values and spellings, defaults, and wrong values."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from advmia.cli import flags
from advmia.tasks import MULTI_LABEL, SEGMENTATION, SINGLE_LABEL
from tests.support.running import check_one_line, run_main

TRAIN = "--dataset melBin --wd 1e-3 --lr 0.01 --method nat --model res18 --eps 0 --epoch 100 --bs 32 --gpu 0"
TEST = "--dataset melBin --targetModel res18 --targetWeight a --bs 16 --gpu 0"
DATASETS = ["mesidorBin", "mesidorMulti", "melBin", "melMulti", "xrayBin"]
METHODS = ["nat", "pgdat", "trades", "mart", "hat", "mpadvt", "maadvt"]
MODELS = ["res18", "chexnet", "mv2"]


def parse_train(line: str) -> dict[str, object]:
    return vars(flags.train_parser(SINGLE_LABEL, None).parse_args(line.split()))


def parse_test(line: str) -> dict[str, object]:
    return vars(flags.test_parser(SINGLE_LABEL, None).parse_args(line.split()))


def test_every_documented_training_value() -> None:
    """Fails if --dataset, --method or --model loses a name of the published code, or parses a value wrongly."""
    for dataset, method, model in itertools.product(DATASETS, METHODS, MODELS):
        line = f"--dataset {dataset} --method {method} --model {model} --wd 1e-3 --lr 0.01 --eps 8 --epoch 1 --bs 2"
        parsed = parse_train(f"{line} --gpu 0 1 --helperModel {model} --helperWeight w")
        names = {"dataset": dataset, "method": method, "model": model, "helperModel": model, "helperWeight": Path("w")}
        numbers = {"wd": 1e-3, "lr": 0.01, "eps": 8.0, "epoch": 1, "bs": 2, "gpu": ["0", "1"]}
        assert parsed | names | numbers == parsed


def test_every_eps() -> None:
    """Fails if --eps refuses a number of grey levels, whole or not, or a fraction of 255 means something else."""
    for eps in ("0", "1", "2", "4", "8", "2.5", "255"):
        assert parse_train(TRAIN.replace("--eps 0", f"--eps {eps}"))["eps"] == float(eps)
        assert parse_train(TRAIN.replace("--eps 0", f"--eps {eps}/255"))["eps"] == float(eps)
    assert parse_test(f"{TEST} --epsilons 8/255 0.1/255 2")["epsilons"] == [8, 0.1, 2]


def test_kernels() -> None:
    """Fails if --kernels has another default, or takes a name that no kernels have."""
    assert parse_train(TRAIN)["kernels"] == parse_test(TEST)["kernels"] == "auto"
    assert parse_test(f"{TEST} --kernels Plain")["kernels"] == "plain"
    with pytest.raises(SystemExit):
        parse_train(f"{TRAIN} --kernels fast")


def test_device_spellings() -> None:
    """Fails if `0,1` is one device, `CPU` is none, or a list without any device is accepted."""
    spellings = {"0,1": ["0", "1"], "0, 1": ["0", "1"], "0 1": ["0", "1"], "CPU": ["cpu"], "cpu Cpu,": ["cpu", "cpu"]}
    for text, devices in spellings.items():
        assert parse_train(TRAIN.replace("--gpu 0", f"--gpu {text}"))["gpu"] == devices
    with pytest.raises(SystemExit):
        parse_train(TRAIN.replace("--gpu 0", "--gpu ,"))


def test_data_set_spellings() -> None:
    """Fails if a data set's spelling in the published code or in its lists is refused."""
    spellings = {
        "melBIn": "melBin",
        "MELBIN": "melBin",
        "melanomaBin": "melBin",
        "melanomaMul": "melMulti",
        "melMul": "melMulti",
        "mesidorMul": "mesidorMulti",
        "MesidorBin": "mesidorBin",
        "xraybin": "xrayBin",
    }
    for spelling, name in spellings.items():
        assert parse_train(TRAIN.replace("melBin", spelling))["dataset"] == name
        assert parse_test(TEST.replace("melBin", spelling))["dataset"] == name


def test_model_and_method_spellings() -> None:
    """Fails if the letter case of a network's or a method's name matters."""
    for spelling, name in {"chexNet": "chexnet", "RES18": "res18", "MV2": "mv2", "WRN": "wrn"}.items():
        assert parse_train(TRAIN.replace("res18", spelling))["model"] == name
        surrogate = f"{TEST} --surrogateModel {spelling} --surrogatePath b"
        assert parse_test(surrogate)["surrogateModel"] == name
    assert parse_train(TRAIN.replace("nat", "PGDAT"))["method"] == "pgdat"


def test_weight_flag_spellings() -> None:
    """Fails if the published spelling --targetPath is lost, or the letter case of a flag matters."""
    for flag in ("--targetWeight", "--targetPath", "--TARGETPATH", "--targetweight"):
        assert parse_test(TEST.replace("--targetWeight", flag))["targetWeight"] == Path("a")
        surrogate = flag.replace("target", "surrogate").replace("TARGET", "SURROGATE")
        assert parse_test(f"{TEST} {surrogate}=b")["surrogateWeight"] == Path("b")


def test_optional_flags_default_to_the_survey() -> None:
    """Fails if leaving out wd, lr, epoch or bs does not mean the values of the survey's scripts."""
    short = parse_train("--dataset melBin --method nat --model res18")
    full = parse_train("--dataset melBin --method nat --model res18 --wd 1e-3 --lr 0.01 --epoch 100 --bs 32")
    assert short == full
    assert parse_test("--dataset melBin --targetModel res18 --targetWeight a")["bs"] is None  # 16, or what fits
    assert parse_test(TEST)["epsilons"] == [1, 2, 4, 8]


def test_each_script_has_the_flags_of_its_task() -> None:
    """Fails if a script offers flags of methods that it lacks, or asks for a data set where there is only one."""
    multi_label = vars(flags.train_parser(MULTI_LABEL, None).parse_args(["--method", "nat", "--model", "mv2"]))
    assert multi_label["dataset"] == "xray_multilabel"
    segmentation = flags.train_parser(SEGMENTATION, None)
    parsed = vars(segmentation.parse_args(["--dataset", "mel", "--method", "pgdat", "--model", "unet"]))
    for flag in ("gamma", "hatStep", "helperModel", "helperWeight"):
        assert flag not in multi_label and flag not in parsed


def test_lists_of_attacks() -> None:
    """Fails if commas, spaces, letter case or `all` are not understood, an attack is named twice, or one is missing."""
    parser = flags.test_parser(SINGLE_LABEL, None)

    def chosen(*words: str) -> list[str]:
        attacks: list[str] = parser.parse_args([*TEST.split(), *words]).attacks
        return attacks

    assert chosen() == list(SINGLE_LABEL.default_attacks)
    assert chosen("--attacks", "fgsm,PGD", "cw") == chosen("--attacks", "fgsm,", "pgd,cw,fgsm") == ["fgsm", "pgd", "cw"]
    assert chosen("--attacks", "ALL") == chosen("--attacks=all,pgd") == list(SINGLE_LABEL.attacks)
    assert chosen("--attacks", "cw,all") == ["cw", *(name for name in SINGLE_LABEL.attacks if name != "cw")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (TRAIN.replace("melBin", "../mel"), "unknown name '../mel': choose from mesidorBin, mesidorMulti, melBin"),
        (TRAIN.replace("res18", "res50"), "unknown name 'res50': choose from res18, mv2, chexnet"),
        (TRAIN.replace("res18", "unet"), "unknown name 'unet'"),
        (TRAIN.replace("nat", "pgd"), "unknown name 'pgd': choose from nat, pgdat, trades, mart, hat, mpadvt, maadvt"),
        (TRAIN.replace("--eps 0", "--eps eight"), "grey levels from 0 to 255, got 'eight'"),
        (
            TRAIN.replace("--eps 0", "--eps 0.031"),
            "If you mean 0.031 of 1, write 8/255; if you mean grey levels, write",
        ),
        (TRAIN.replace("--epoch 100", "--epoch x"), "whole number of at least 1, got 'x'"),
        (TRAIN.replace("--lr 0.01", "--lr 0"), "a number above 0, got '0'"),
        (TRAIN.replace("--wd 1e-3", "--wd inf"), "a number of at least 0, got 'inf'"),
        (TRAIN + " --valFraction 1", "a number between 0 and 1, got '1'"),
        (TRAIN + " --validateEvery 0", "--validateEvery: expected a whole number of at least 1, got '0'"),
        (TRAIN + " --validateEvery often", "--validateEvery: expected a whole number of at least 1, got 'often'"),
        (TRAIN + " --nosuch 1", "unrecognized arguments: --nosuch 1"),
        ("--dataset melBin", "required: --method, --model"),
    ],
)
def test_wrong_training_flags(
    line: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Fails if a wrong flag does not end in one line that names the wrong value, and status 2."""
    assert run_main(monkeypatch, ["trainCls.py", *line.split()]) == 2
    check_one_line(capsys.readouterr().err, message)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"{TEST} --attacks pgd nosuch", "unknown name 'nosuch': choose from fgsm, pgd"),
        (f"{TEST} --attacks pgd,nosuch", "unknown name 'nosuch': choose from fgsm, pgd"),
        (f"{TEST} --attacks ,", "unknown name ','"),
        (f"{TEST} --restarts 0", "whole number of at least 1, got '0'"),
        (f"{TEST} --epsilons 1 two", "grey levels from 0 to 255, got 'two'"),
        (f"{TEST} --surrogateModel segnet", "unknown name 'segnet'"),
        ("--dataset melBin --targetModel res18", "required: --targetWeight"),
    ],
)
def test_wrong_test_flags(
    line: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Fails if a wrong flag does not end in one line that names the wrong value, and status 2."""
    assert run_main(monkeypatch, ["testCls.py", *line.split()]) == 2
    check_one_line(capsys.readouterr().err, message)
