"""The demo: what it says, what it runs, and what it writes."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from advmia import demo, entry_points
from advmia.entry_points import SCRIPTS, output_path
from advmia.errors import UserError
from advmia.runtime.signals import Stopped, stop_on_signal
from benchmarks.demo import accuracies
from tests.support.running import ROOT, run_main


def scores(out: Path, method: str) -> tuple[float, float]:
    """Returns the clean accuracy and that under PGD at eps 8, in percent, of the network of a method."""
    (path,) = (out / "results").glob(f"*_{method}_*.json")
    rows = {(row["attack"], row["eps"]): row["scores"]["accuracy"] for row in json.loads(path.read_text())["rows"]}
    return 100 * rows["none", 0], 100 * rows["pgd", 8]


@pytest.mark.slow
def test_demo_from_end_to_end(tmp_path: Path, warm_interpreter: Path) -> None:
    """Fails if a step is not announced, what was found is not what the results say, or a picture or page is missing.

    Also if a second run repeats a step.
    """
    out = tmp_path / "my demo"
    environment = {"PYTHON": str(warm_interpreter), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    command = [str(ROOT / "scripts" / "demo.sh"), "--out", str(out), "--gpu", "cpu", "--count", "64"]
    for run in (1, 2):
        process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
        assert process.returncode == 0, process.stderr
        announced = re.findall(r"^\[(\d)/(\d)\] .+ \(about .+\)$", process.stdout, re.M)
        assert announced == [(str(number), str(demo.STEPS)) for number in range(1, demo.STEPS + 1)]
        found, table, picture = process.stdout.splitlines()[-3:]
        for method, phrase in zip(("nat", "pgdat"), found.split(";"), strict=True):
            shown = [int(number) for number in re.findall(r"(\d+) %", phrase)]
            assert shown == [round(score) for score in scores(out, method)]
        assert f"{out / 'tables.md'}" in table and f"{out / 'demo.png'}" in picture
        assert f"{out / 'report.html'}" in picture and "Grad-CAM" in (out / "report.html").read_text(encoding="utf-8")
        assert process.stdout.count("epoch 1/") == (2 if run == 1 else 0)  # of both networks
    benchmarked = accuracies(out)
    for method in ("nat", "pgdat"):
        assert (benchmarked[f"{method} clean"], benchmarked[f"{method} attacked"]) == scores(out, method)
    pixels = np.asarray(Image.open(out / "demo.png"))
    assert pixels.shape[0] == demo.CAPTION_HEIGHT + demo.PICTURE_HEIGHT
    thirds = [pixels[:, : pixels.shape[1] // 3], pixels[:, -pixels.shape[1] // 3 :]]
    assert all(third.std() > 10 for third in thirds)  # curves on the left, a sheet on the right
    assert (out / "tables.md").is_file()


def test_commands_are_those_of_the_scripts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Fails if commands are not run as and in the order that they are shown, or if a script would refuse one."""
    here: list[list[str]] = []
    beside: list[list[str]] = []
    monkeypatch.setattr(demo, "run_words", here.append)
    monkeypatch.setattr(demo, "run_beside", lambda commands, log: nullcontext(beside.extend(commands)))
    monkeypatch.setattr(demo, "output_path", lambda words: Path(words[words.index("--method") + 1]))
    shown: list[str] = []
    monkeypatch.setattr("builtins.print", lambda *text, **_: shown.append(" ".join(map(str, text))))
    monkeypatch.setattr(demo, "findings", lambda out: [])
    monkeypatch.setattr(demo, "save_side_by_side", lambda pictures, path: None)
    (tmp_path / "melBin[phantom]__mv2.png").touch()
    demo.run_demo(tmp_path, ["0"], count=48, seed=3)
    typed = [shlex.split(line.removeprefix("$ python ").removeprefix("-m ")) for line in shown if line.startswith("$")]
    scripts = ["trainCls.py", "testCls.py", "gradVisual.py"]
    assert [words[0] for words in beside] == scripts and [words[0] for words in here] == [
        "advmia",
        *scripts,
        "advmia",
        "advmia",
    ]
    assert [words for words in typed if words in beside] == beside
    assert [words for words in typed if words not in beside] == here
    for words in [*here, *beside]:
        if words[0] in SCRIPTS:
            args = SCRIPTS[words[0]].parse(words)
            assert (args.seed, args.gpu) == (3, ["0"])


def test_guide_learns_the_machine_s_pace(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails if estimates do not follow how long the steps before took."""
    clock = iter((0.0, 130.0, 140.0, 141.0))
    monkeypatch.setattr(demo.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(demo, "run_words", lambda words: None)
    guide = demo.Guide(2)
    guide.run("first", 30, ["trainCls.py"])
    guide.run("second", 45, ["advmia", "tables"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert lines == [
        "[1/2] first (about 30 s)",
        "$ python trainCls.py",
        "[2/2] second (about 2 min 20 s)",  # 45 s at (130 + 20) / (30 + 20) of the seconds: 135 s
        "$ python -m advmia tables",
    ]


@pytest.fixture
def other_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces Python by a program that runs until SIGTERM, or ends at once with its last argument as the status."""
    program = tmp_path / "python"
    program.write_text(
        '#!/bin/sh\n[ "$3" = ends ] && { echo "the reason"; exit "$4"; }\n'
        "trap 'echo saved; exit 143' TERM\necho started\nwhile :; do sleep 0.05; done\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(demo.sys, "executable", str(program))


def wait_for(log: Path, text: str) -> None:
    deadline = time.monotonic() + 60
    while text not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("moment", ["during the block", "while it waits"])
def test_a_signal_stops_both_processes(moment: str, tmp_path: Path, other_program: None) -> None:
    """Fails if Ctrl-C leaves the other process running, or kills it before it has saved what it has."""
    log, threads = tmp_path / "beside.log", torch.get_num_threads()
    with pytest.raises(Stopped), stop_on_signal(), demo.run_beside([["runs"]], log):
        wait_for(log, "started")
        seconds = 0.0 if moment == "during the block" else 0.3
        main_thread = threading.main_thread().ident  # a signal to another thread would not interrupt what this one does
        timer = threading.Timer(seconds, signal.pthread_kill, [main_thread, signal.SIGINT])
        timer.start()
        if moment == "during the block":
            time.sleep(30)
    assert log.read_text() == "started\nsaved\n"
    assert torch.get_num_threads() == threads


def test_the_other_process_fails(tmp_path: Path, other_program: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails if the demo goes on although the other network's command has failed, or its reason is not shown."""
    with demo.run_beside([["ends", "0"]], tmp_path / "beside.log"):
        pass
    failure = pytest.raises(UserError, match="the other process failed with status 2")
    with failure, demo.run_beside([["ends", "2"]], tmp_path / "beside.log"):
        pass
    assert capsys.readouterr().out == 2 * "\nThe other process printed meanwhile:\nthe reason\n"


def test_commands_one_after_another(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails if a command is not run, gets the flags of another, or is run although the one before it has failed."""
    help_of_all = ["advmia.entry_points", "trainCls.py", "--help", "--then", "testSeg.py", "-h"]
    monkeypatch.setattr("sys.argv", help_of_all)
    assert entry_points.main() == 0
    shown = capsys.readouterr().out
    assert shown.index("trainCls.py --dataset NAME") < shown.index("testSeg.py --dataset NAME")
    monkeypatch.setattr("sys.argv", ["advmia.entry_points", "trainCls.py", "--wrong", "--then", "testSeg.py", "--help"])
    assert entry_points.main() == 2
    assert "testSeg.py" not in capsys.readouterr().out
    for words in ([], ["trainCls.py", "--help", "--then"], ["nothing.py"]):
        monkeypatch.setattr("sys.argv", ["advmia.entry_points", *words])
        assert entry_points.main() == 2
        assert "expected one of trainCls.py" in capsys.readouterr().err


def test_several_devices_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Fails if the demo starts on one of several devices without a word."""
    assert run_main(monkeypatch, ["advmia", "demo", "--gpu", "0", "1", "--out", tmp_path / "demo"]) == 2
    assert "the demo uses one device" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_output_of_a_command_without_one() -> None:
    """Fails if a script that writes many files is said to write one."""
    with pytest.raises(UserError, match=r"expected a command of trainCls\.py"):
        output_path(["gradVisual.py"])
