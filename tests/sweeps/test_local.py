"""Sweeps on this machine, run as processes: what they run and show, and what a kill, a failure or Ctrl-C leaves."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path

import pytest

from advmia.runtime.files import write_lock
from advmia.sweeps.local import places
from tests.results.examples import table_of
from tests.support.running import run_process, run_well
from tests.support.slurm import wait_until
from tests.sweeps.running import HAT, HAT_SWEEP, NATURAL, STEPS, Sweeps, changed_times, scores, states, status

pytestmark = pytest.mark.slow


def test_a_sweep_runs_what_it_lists(sweeps: Sweeps, undisturbed: tuple[Path, str]) -> None:
    """Fails if commands that run differ from the listed ones, or steps, logs, tables or the status are not shown."""
    out, printed = undisturbed
    listed, _ = sweeps.run(*HAT_SWEEP, "--out", "undisturbed", "--dryRun")
    assert re.findall(r"^\[(\d)/4\] (\S+): (on cpu|finished after \d+ s)$", printed, re.M) == [
        (str(number + (text != "on cpu")), name, text)
        for number, name in enumerate(STEPS)
        for text in ("on cpu", re.findall(rf"{name}: (finished.*)", printed)[0])
    ]
    logs = {path.stem: path.read_text() for path in (out / "logs").iterdir()}
    assert set(logs) == {*STEPS, "tables"}
    for line, name in zip(listed.splitlines(), [*STEPS, "tables"], strict=True):
        ran = logs[name].splitlines()[0]
        assert ran == f"$ {line}" + ("" if name == "tables" else " --gpu cpu")
    assert [re.findall(r"^epoch (\d)/2 loss", logs[name], re.M) for name in STEPS[::2]] == [["1", "2"]] * 2
    assert printed.endswith((out / "tables" / "tables.md").read_text()) and "| hat 8" in scores(out)
    assert set(states(out).values()) == {"finished"} and status(out)["finished"] == 5
    shown, _ = sweeps.run("--status", "--out", "undisturbed")
    assert shown == "5 steps: 5 finished\n"


def test_a_finished_sweep_repeats_nothing(sweeps: Sweeps, undisturbed: tuple[Path, str]) -> None:
    """Fails if a finished step runs again, or one whose output is gone does not."""
    out, words = undisturbed[0], [*HAT_SWEEP, "--out", "undisturbed"]
    before = changed_times(out)
    printed, _ = sweeps.run(*words)
    assert printed.startswith("4 of 4 steps are finished already\n") and changed_times(out) == before
    result = next((out / "results").glob("*_hat_*.json"))
    rows = json.loads(result.read_text())["rows"]
    result.unlink()
    printed, _ = sweeps.run(*words)
    assert re.findall(r"\S+(?=: finished)", printed) == STEPS[-1:]
    assert [row["outcomes"] for row in json.loads(result.read_text())["rows"]] == [row["outcomes"] for row in rows]


def test_a_finished_step_does_not_run_again(sweeps: Sweeps, undisturbed: tuple[Path, str]) -> None:
    """Fails if a step runs that another job has finished, or a step that the plan does not have is no clear error."""
    out, log = undisturbed[0], undisturbed[0] / "logs" / f"{STEPS[0]}.log"
    before = log.read_bytes()
    run_well("advmia.sweeps.job", out, STEPS[0], "cpu", cwd=sweeps.folder, python=sweeps.python)
    assert log.read_bytes() == before
    process = run_process("advmia.sweeps.job", out, "another", "cpu", cwd=sweeps.folder, python=sweeps.python)
    assert process.returncode == 2 and "plan.json has no step 'another'" in process.stderr


def test_two_at_a_time_and_killed(sweeps: Sweeps, undisturbed: tuple[Path, str], tmp_path: Path) -> None:
    """Fails if a sweep of two steps at a time that was killed repeats or loses work, or makes other tables.

    The sweep is killed by SIGKILL in each training and in a test; a foreign file lies where a checkpoint will be.
    """
    out, cut = undisturbed[0], tmp_path / "cut"
    (cut / "clsCkpt").mkdir(parents=True)
    (cut / "clsCkpt" / HAT).write_bytes(b"someone else's")
    words = [*HAT_SWEEP, "--out", cut, "--jobs", 2]
    trained = 0
    for step, text in ((STEPS[0], "epoch 1/2"), (STEPS[1], "nat acc"), (STEPS[2], "epoch 1/2")):
        log = cut / "logs" / f"{step}.log"
        process = sweeps.start(*words)
        wait_until(lambda log=log, text=text: log.exists() and text in log.read_text(), f"{log}: no {text}")  # type: ignore[misc]
        process.kill()
        assert process.wait() == -signal.SIGKILL
        if step == STEPS[1]:
            trained = (cut / "clsCkpt" / NATURAL).stat().st_mtime_ns
    sweeps.run(*words)
    assert scores(cut) == scores(out) and (cut / "clsCkpt" / NATURAL).stat().st_mtime_ns == trained
    assert (cut / "clsCkpt" / f"{HAT}.earlier-1").read_bytes() == b"someone else's"
    for name in (NATURAL, HAT):
        assert json.loads((cut / "clsCkpt" / f"{name}.json").read_text())["finished"] is True
        assert (cut / "clsCkpt" / name).read_bytes() == (out / "clsCkpt" / name).read_bytes()


def test_a_failed_step_stops_only_what_needs_it(sweeps: Sweeps, tmp_path: Path) -> None:
    """Fails if other networks are not trained, what needs the failed one runs, or the same command does not mend it."""
    # At two places, so that a free one is offered to the test whose training has failed.
    words, log = [*HAT_SWEEP, "--out", tmp_path, "--jobs", 2], tmp_path / "logs" / f"{STEPS[2]}.log"
    process = sweeps.start(*words)
    wait_until(lambda: log.exists() and "epoch 1/2" in log.read_text(), f"{log}: no epoch")
    subprocess.run(["pkill", "-KILL", "-f", f"trainCls.py .*--method hat .*--saveDir {tmp_path}"], check=True)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert f"{STEPS[2]} (log: {log}); 1 steps that need them were not run" in errors and errors.count("\n") == 1
    assert list(states(tmp_path).values()) == ["finished", "finished", "failed", "waiting"]
    header, natural, hat = table_of(scores(tmp_path), "accuracy")
    assert all(natural) and hat == ["hat 8", *[""] * (len(header) - 1)]
    before = changed_times(tmp_path)
    sweeps.run(*words)
    after = changed_times(tmp_path)
    assert set(states(tmp_path).values()) == {"finished"} and all(table_of(scores(tmp_path), "accuracy")[2])
    assert all(after[name] == time for name, time in before.items() if "_nat_" in name)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_sweep_has_not_failed(number: signal.Signals, sweeps: Sweeps, tmp_path: Path) -> None:
    """Fails if Ctrl-C or SIGTERM does not let the step under way save its work, or is told as a failure."""
    log = tmp_path / "out" / "logs" / f"{STEPS[0]}.log"
    process = sweeps.start(*HAT_SWEEP, "--epoch", 500, "--out", tmp_path / "out")
    wait_until(lambda: log.exists() and "epoch 1/500" in log.read_text(), f"{log}: no epoch")
    process.send_signal(number)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number and f"{STEPS[0]}: stopped after" in printed
    assert errors.count("\n") == 1 and "finished steps are kept, and the same command continues" in errors
    assert "the same command with --resume continues" in log.read_text()
    assert list(states(tmp_path / "out").values()) == ["stopped", "waiting", "waiting", "waiting"]


def test_only_one_sweep_writes_to_a_folder(sweeps: Sweeps, tmp_path: Path) -> None:
    """Fails if a second sweep trains over the first one's checkpoints."""
    with write_lock(tmp_path / "plan.json"):
        _, errors = sweeps.run(*HAT_SWEEP, "--out", tmp_path, status=2)
    assert f"another run is writing {tmp_path / 'plan.json'} now" in errors


def test_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a GPU gets more or fewer steps at a time than asked for, or the cores are not shared out."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert [place.flags for place in places(["0", "2"], None, 2)] == [("--gpu", "0"), ("--gpu", "2")] * 2
    assert [place.flags[1] for place in places(["0", "1", "2"], 2, 1)] == ["0", "1"]
    assert [(place.flags, place.threads) for place in places(["cpu"], 3, 1)] == [(("--gpu", "cpu"), 2)] * 3
    assert [(place.flags, place.threads) for place in places(None, None, 1)] == [((), None)]
