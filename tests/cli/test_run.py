"""How a command ends: the exit status, the one line on standard error, and that bad input leaves no file."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

import pytest
import torch

from advmia.cli.parser import make_parser
from advmia.cli.run import run_command
from advmia.data.phantoms import make_phantoms
from advmia.errors import UserError
from advmia.models import build_model
from advmia.runtime.signals import Stopped
from tests.support.running import check_one_line, run_main


def stopped(advice: str) -> Stopped:
    stop = Stopped(signal.SIGTERM)
    stop.advice = advice
    return stop


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UserError("no list\nat x"), 2, "x.py: error: no list at x\n"),
        (stopped("add --resume"), 143, "x.py: stopped; add --resume\n"),
        (stopped(""), 143, "x.py: stopped\n"),
        (KeyboardInterrupt(), 130, "x.py: stopped at once; what was saved before is kept\n"),
        (PermissionError(13, "Permission denied", "a/b"), 2, "x.py: error: a/b: Permission denied; check that place"),
        (OSError("odd"), 2, "x.py: error: odd; check that place"),
    ],
)
def test_exit_status(
    error: BaseException,
    status: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """Fails if an error of this kind has another status, is not reported in one line, or ends in a traceback."""

    def fail(_: argparse.Namespace) -> None:
        raise error

    monkeypatch.setattr("sys.argv", ["x.py"])
    assert run_command(make_parser(None, prog="x.py"), fail) == status
    check_one_line(capsys.readouterr().err, message)


def test_a_fault_of_the_program_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if an exception that no user can cause is reported as bad input, without its traceback."""

    def fail(_: argparse.Namespace) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr("sys.argv", ["x.py"])
    with pytest.raises(RuntimeError, match="a fault"):
        run_command(make_parser(None, prog="x.py"), fail)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("phantoms")
    make_phantoms(root, ["mel2017", "xray"], count=24, size=32)
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of checkpoints, good and bad."""
    folder = tmp_path_factory.mktemp("weights")
    torch.save(build_model("res18", 2).state_dict(), folder / "res18-2")
    torch.save(build_model("res18", 3).state_dict(), folder / "res18-3")
    torch.save(build_model("mv2", 2).state_dict(), folder / "mv2-2")
    torch.save({"optimizer": build_model("mv2", 2).state_dict(), "epoch": 3}, folder / "other")
    torch.save([1, 2], folder / "list")
    torch.save(Path("x"), folder / "object")
    (folder / "truncated").write_bytes((folder / "mv2-2").read_bytes()[:5000])
    (folder / "text").write_text("no weights")
    return folder


WRONG_CHECKPOINTS = [
    ("res18", "missing", "no checkpoint at"),
    ("res18", "", "is a folder"),
    ("res18", "mv2-2", "holds weights of mv2, not of res18"),
    ("mv2", "res18-2", "holds weights of res18, not of mv2"),
    ("res18", "res18-3", "has 3 classes, but melBin has 2"),
    ("mv2", "other", "holds a dict of optimizer, epoch: expected a state_dict"),
    ("mv2", "list", "holds list: expected a state_dict"),
    ("mv2", "object", "holds objects of pathlib"),
    ("mv2", "truncated", "is no checkpoint"),
    ("mv2", "text", "is no checkpoint"),
]


def test_wrong_checkpoints(
    phantoms: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Fails if a wrong checkpoint of the target or of the surrogate is not reported before any file is written."""
    command = [
        "testCls.py",
        "--dataset",
        "melBin",
        "--gpu",
        "cpu",
        "--dataRoot",
        phantoms,
        "--resultDir",
        tmp_path / "r",
    ]
    cases = [
        (["--targetModel", model, "--targetWeight", weights / name], message)
        for model, name, message in WRONG_CHECKPOINTS
    ]
    good = ["--targetModel", "res18", "--targetWeight", weights / "res18-2"]
    for name, message in (("missing", "no checkpoint at"), ("mv2-2", "holds weights of mv2, not of res18")):
        cases.append(([*good, "--surrogateModel", "res18", "--surrogateWeight", weights / name], message))
    for flags, message in cases:
        assert run_main(monkeypatch, [*command, *flags]) == 2
        check_one_line(capsys.readouterr().err, message)
        assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("script", ["trainCls.py", "testCls.py"])
def test_wrong_surroundings(
    script: str,
    phantoms: Path,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """Fails if a missing device, data root or data set is not reported before any file is written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    flags = {
        "trainCls.py": ["--method", "nat", "--model", "mv2", "--epoch", 1],
        "testCls.py": ["--targetModel", "mv2", "--targetWeight", weights / "mv2-2"],
    }
    command = [script, "--dataset", "melBin", "--gpu", "cpu", "--dataRoot", phantoms, *flags[script]]
    for change, message in (
        (["--gpu", "0"], "no CUDA device; use --gpu cpu"),
        (["--gpu", "zero"], "expected CUDA device ids"),
        (["--dataRoot", "nowhere"], "no list at nowhere/mel2017"),
        (["--dataset", "mesidorBin"], "python -m advmia prepare --dataset mesidor"),
    ):
        assert run_main(monkeypatch, [*command, *change]) == 2
        check_one_line(capsys.readouterr().err, message)
        assert not list(tmp_path.iterdir())


def test_networks_that_cannot_be_trained(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Fails if flags that do not fit together are not reported before any file is written."""
    monkeypatch.chdir(tmp_path)
    command = ["trainCls.py", "--dataset", "melBin", "--method", "nat", "--gpu", "cpu", "--dataRoot", phantoms]
    for flags, message in (
        (["--model", "chexnet", "--imgSize", "16"], "too small for chexnet: it takes 29 or more"),
        (["--model", "mv2", "--init", "imagenet"], "mv2 has no ImageNet weights"),
        (["--model", "mv2", "--method", "hat"], "--method hat needs --helperModel and --helperWeight"),
    ):
        assert run_main(monkeypatch, [*command, *flags]) == 2
        check_one_line(capsys.readouterr().err, message)
        assert not list(tmp_path.iterdir())
