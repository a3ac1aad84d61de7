"""Runs one step of a sweep: `python -m advmia.sweeps.job OUT NAME PLACE [FLAGS]`.

Writes the step's log and its state, and forwards signals to its command, which saves its work. FLAGS are added to the
command, e.g. `--gpu 1`. With `slurm` as PLACE it is a job of Slurm: it renews the tables after a test, and if Slurm
ends it because its time is up or another job needs the machine, it is put back into the queue.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from advmia.errors import UserError
from advmia.runtime.files import write_error, write_lock
from advmia.runtime.signals import end_with_parent, forward_signals
from advmia.runtime.terminal import say
from advmia.sweeps.steps import (
    Step,
    begin_state,
    log_path,
    plan_path,
    read_plan,
    read_state,
    recorded_state,
    state_path,
    write_state,
    write_status,
)

SLURM = "slurm"  # as the place of a step


def run_step(out: Path, name: str, place: str, flags: Sequence[str]) -> int:
    """Runs a step of the plan in `out`; returns the exit status of its command, or minus the signal that killed it."""
    steps = read_plan(plan_path(out))
    step = next((step for step in steps if step.name == name), None)
    if step is None:
        raise UserError(f"{plan_path(out)} has no step {name!r}")
    in_slurm = place == SLURM
    # The command inherits the lock. So if this process is killed, the next run of the step waits for the command.
    with write_lock(state_path(out, name), wait=True) as lock:
        if step.kind != "tables" and read_state(out, step).state == "finished":
            return 0  # by another job of this step, whose sweep was killed before it could note that it submitted it
        state = begin_state(step, f"job {os.environ['SLURM_JOB_ID']}" if in_slurm else place)
        write_state(out, step, state)
        status, stopped = _run(step, [sys.executable, *step.words, *flags], log_path(out, name), lock)
        write_state(out, step, state.ended(step, status, stopped=stopped))
    if in_slurm:
        write_status(out, steps, {each.name: recorded_state(out, each) for each in steps})
        if stopped:
            _requeue(os.environ["SLURM_JOB_ID"])
        elif status == 0 and step.kind == "test":
            _renew_tables(out, steps[-1])
    return status


def _run(step: Step, words: list[str], log: Path, lock: IO[str]) -> tuple[int, bool]:
    """Runs a command; returns its exit status, and whether a signal has stopped it."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        file = log.open("ab")
        file.write(f"$ {shlex.join(words)}\n".encode())
        file.flush()
    except OSError as error:
        raise write_error(log, error) from error
    with file:
        process: subprocess.Popen[bytes] | None = None

        def forward(number: int) -> None:
            if process is not None and process.poll() is None:
                process.send_signal(number)

        with forward_signals(forward) as received:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                pass_fds=(lock.fileno(),),
                start_new_session=True,  # so that a signal reaches it once, from here
                preexec_fn=end_with_parent,
            )
            if received:  # before there was a process
                process.send_signal(received[0])
            status = process.wait()
    return status, bool(received)


def _requeue(job: str) -> None:
    """Puts this job back into Slurm's queue, unless it was cancelled: then Slurm says it is completing."""
    answer = subprocess.run(["squeue", "-h", "-j", job, "-o", "%T"], capture_output=True, text=True, check=False)
    if answer.stdout.strip() == "RUNNING":
        say(f"job {job} goes back into the queue")
        subprocess.run(["scontrol", "requeue", job], check=False)


def _renew_tables(out: Path, tables: Step) -> None:
    """Makes the tables again, unless another job is doing so."""
    try:
        with write_lock(state_path(out, tables.name)):
            subprocess.run([sys.executable, *tables.words], stdout=subprocess.DEVNULL, check=False)
    except UserError:
        return


def main(words: Sequence[str]) -> int:
    out, name, place, *flags = words
    try:
        return run_step(Path(out), name, place, flags)
    except UserError as error:
        say(f"{name}: error: {error}")
        return 2


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.exit(status if status >= 0 else 128 - status)
