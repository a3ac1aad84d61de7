"""Sweeps as jobs of a real Slurm, which the test starts: what is submitted, killed, put back and cancelled."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.slurm import LocalSlurm, running_slurm, wait_until, why_not
from tests.sweeps.running import HAT_SWEEP, STEPS, Sweeps, changed_times, scores, states

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=why_not() or "Slurm is here")]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSlurm]:
    with ExitStack() as stack:
        try:
            running = stack.enter_context(running_slurm(tmp_path_factory.mktemp("slurm") / "slurm"))
        except AssertionError as error:  # as in a container that forbids what the daemons need
            pytest.skip(f"Slurm does not start here: {error}")
        yield running


@pytest.fixture(scope="module")
def jobs(slurm: LocalSlurm, sweeps: Sweeps) -> Sweeps:
    """Runs sweeps whose steps are jobs."""
    return Sweeps(sweeps.python, sweeps.folder, slurm.environment)


def test_killed_jobs_lose_nothing(
    slurm: LocalSlurm, jobs: Sweeps, undisturbed: tuple[Path, str], tmp_path: Path
) -> None:
    """Fails if tables or networks differ from an undisturbed sweep's after jobs were killed, put back and cancelled.

    HAT's training is put back into the queue while it trains. After it has gone on, the whole sweep is cancelled, and
    submitted again.
    """
    out, words = tmp_path / "out", [*HAT_SWEEP, "--out", tmp_path / "out", "--slurm", "--cpus-per-task=1"]
    logs = {name: out / "logs" / f"{name}.log" for name in STEPS}

    def wait_for(name: str, text: str) -> None:
        def is_there() -> bool:
            slurm.start_put_back()
            return logs[name].exists() and text in logs[name].read_text()

        wait_until(is_there, f"{logs[name]}: no {text}", seconds=120)

    assert jobs.run(*words)[0] == "submitted 5 jobs; 0 were queued before, 0 steps are finished\n"
    assert set(slurm.queue()) == {*STEPS, "tables"}
    assert jobs.run(*words)[0] == "submitted 0 jobs; 5 were queued before, 0 steps are finished\n"
    wait_for(STEPS[2], "epoch 1/2")
    ids = json.loads((out / "slurm.json").read_text())["jobs"]
    slurm.call("scontrol", "requeue", ids[STEPS[2]])
    wait_for(STEPS[2], "the same command with --resume continues")
    trained = {name: time for name, time in changed_times(out).items() if "clsCkpt/MobileNetV2_melBin_nat_" in name}
    assert trained
    slurm.start_put_back()
    wait_for(STEPS[2], "resuming at epoch")
    assert jobs.run("--cancel", "--out", out)[0].startswith("cancelled ")
    wait_until(lambda: not slurm.queue(), "jobs do not end")
    shown = jobs.run("--status", "--out", out)[0]
    assert shown.startswith("5 steps: ") and "running" not in shown
    jobs.run(*words)
    wait_until(lambda: not slurm.queue(), "jobs do not end", seconds=120)
    assert set(states(out).values()) == {"finished"} and scores(out) == scores(undisturbed[0])
    assert {name: time for name, time in changed_times(out).items() if name in trained} == trained
    for weights in (undisturbed[0] / "clsCkpt").glob("*weightDecay0.001"):
        assert (out / "clsCkpt" / weights.name).read_bytes() == weights.read_bytes()


def test_a_failed_job_stops_only_what_needs_it(slurm: LocalSlurm, jobs: Sweeps, tmp_path: Path) -> None:
    """Fails if what needs a failed step stays in the queue, tables are not made, or the log is not named."""
    out = tmp_path / "out"
    words = [*HAT_SWEEP, "--epoch", 1, "--limit", 4, "--out", out, "--slurm", ""]
    jobs.run(*words)
    log = out / "logs" / f"{STEPS[2]}.log"
    wait_until(lambda: log.exists() and "training " in log.read_text(), f"{log}: no training", seconds=120)
    subprocess.run(["pkill", "-KILL", "-f", f"trainCls.py .*--method hat .*--saveDir {out}"], check=True)
    wait_until(lambda: not slurm.queue(), "jobs do not end", seconds=120)
    shown = jobs.run("--status", "--out", out)[0]
    assert shown == f"5 steps: 3 finished, 1 waiting, 1 failed\nfailed: {STEPS[2]} (log: {log})\n"
    assert "| hat 8  |        |" in scores(out)  # a row without numbers
    assert jobs.run(*words)[0] == "submitted 3 jobs; 0 were queued before, 2 steps are finished\n"
    wait_until(lambda: not slurm.queue(), "jobs do not end", seconds=120)
    assert "| hat" in scores(out)


def test_what_slurm_refuses_is_told_in_a_line(jobs: Sweeps, tmp_path: Path) -> None:
    """Fails if a wrong option of sbatch, or a machine without Slurm, ends in a traceback."""
    _, errors = jobs.run(*HAT_SWEEP, "--out", tmp_path, "--slurm", "--partition=none", status=2)
    assert "Slurm refused sbatch: " in errors and "partition" in errors and errors.count("\n") == 1
    bare = Sweeps(jobs.python, jobs.folder, jobs.environment | {"PATH": str(tmp_path)})
    _, errors = bare.run(*HAT_SWEEP, "--out", tmp_path / "out", "--slurm", "", status=2)
    assert "sbatch is not here: --slurm needs the commands of Slurm" in errors and errors.count("\n") == 1


def test_time_limits_put_a_job_back(slurm: LocalSlurm, jobs: Sweeps, tmp_path: Path) -> None:
    """Fails if a job whose time is up ends for good, or does not save its work."""
    out = tmp_path / "out"
    words = [*HAT_SWEEP, "--methods", "nat", "--epoch", 500, "--only", "train", "--out", out]
    jobs.run(*words, "--slurm", "--time=1 --signal=B:TERM@58")
    log = out / "logs" / f"{STEPS[0]}.log"
    wait_until(
        lambda: log.exists() and "goes back into the queue" in log.read_text(), f"{log}: not put back", seconds=90
    )
    assert "the same command with --resume continues" in log.read_text()
    wait_until(lambda: slurm.queue().get(STEPS[0]) == "PENDING", "the job is not in the queue")
    assert jobs.run("--status", "--out", out)[0].startswith("1 steps: 1 waiting")
    jobs.run("--cancel", "--out", out)
    wait_until(lambda: not slurm.queue(), "jobs do not end")
