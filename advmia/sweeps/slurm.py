"""Runs the steps of a sweep as jobs of Slurm: one job a step, which waits for others by `--dependency`.

`<out>/slurm.json` has the id of the last job of each step. What is queued and runs is asked of Slurm; how steps ended
is in the files of `advmia.sweeps.steps`, so no accounting database is needed.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from advmia.errors import UserError
from advmia.runtime.files import read_json_object, write_error, write_json
from advmia.sweeps.job import SLURM
from advmia.sweeps.steps import (
    Step,
    StepState,
    log_path,
    read_state,
    recorded_state,
    state_path,
    status_text,
    write_status,
)

# Two minutes before the time limit, Slurm tells the job's own process (B), which forwards it: the command saves its
# state, and the job goes back into the queue.
_OPTIONS = ("--requeue", "--signal=B:TERM@120", "--open-mode=append", "--kill-on-invalid-dep=yes")


class SlurmRun:
    """The jobs of a sweep."""

    def __init__(self, out: Path, steps: Sequence[Step]) -> None:
        self.out, self.steps = out, list(steps)
        jobs = (read_json_object(self._jobs_path) or {}).get("jobs")
        self.jobs: dict[str, str] = jobs if isinstance(jobs, dict) else {}

    @property
    def _jobs_path(self) -> Path:
        return self.out / "slurm.json"

    def submit(self, options: str, flags: Sequence[str]) -> None:
        """Submits a job for each step that is not finished and has none.

        `options`: of sbatch, as the user gave them. `flags`: further ones of the commands. Raises `UserError` if Slurm
        refuses a job.
        """
        queued, states = self._queue(), self._states(read_state)
        unfinished = {step.name for step in self.steps if states[step.name].state != "finished"}
        new = []
        for step in self.steps:
            if self.jobs.get(step.name) in queued or (step.name not in unfinished and step.kind != "tables"):
                continue
            if step.kind == "tables" and not unfinished.intersection((*step.needs, step.name)):
                continue
            waits_for = [self.jobs[name] for name in step.needs if name in unfinished]
            state_path(self.out, step.name).unlink(missing_ok=True)  # a failure that this job makes good
            self.jobs[step.name] = self._submit(step, options, flags, waits_for)
            write_json(self._jobs_path, {"jobs": self.jobs}, indent=1)
            new.append(step)
        there = sum(self.jobs.get(step.name) in queued for step in self.steps)
        finished = len(self.steps) - len(new) - there
        print(f"submitted {len(new)} jobs; {there} were queued before, {finished} steps are finished", flush=True)

    def _submit(self, step: Step, options: str, flags: Sequence[str], waits_for: Sequence[str]) -> str:
        """Submits a step's job, which starts when the jobs `waits_for` have ended; returns its id."""
        log = log_path(self.out, step.name)
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(log, error) from error
        words = ["sbatch", "--parsable", f"--job-name={step.name}", f"--output={log}", *_OPTIONS, *shlex.split(options)]
        if waits_for:
            # Tables are made of the tests that there are; other steps need what the ones before have written.
            words.append(f"--dependency={'afterany' if step.kind == 'tables' else 'afterok'}:{':'.join(waits_for)}")
        further = [] if step.kind == "tables" else flags
        job = [sys.executable, "-m", "advmia.sweeps.job", str(self.out), step.name, SLURM, *further]
        return _call([*words, "--wrap", f"exec {shlex.join(job)}"]).strip().partition(";")[0]

    def _states(self, read: Callable[[Path, Step], StepState]) -> dict[str, StepState]:
        """Returns the state of each step, by `read`. One that seems to run, but has no job any more, was killed."""
        queued, states = self._queue(), {}
        for step in self.steps:
            state = read(self.out, step)
            has_job = self.jobs.get(step.name) in queued
            if state.state == "running" and state.place.startswith("job ") and not has_job:
                state = replace(state, state="failed")
            elif state.state == "stopped" and has_job:
                state = replace(state, state="waiting")
            states[step.name] = state
        return states

    def show(self) -> None:
        """Prints how many steps are in each state, those that run and those that failed; writes `status.json`."""
        states = self._states(recorded_state)
        write_status(self.out, self.steps, states)
        print(status_text(self.out, self.steps, states), flush=True)

    def cancel(self) -> None:
        """Ends all jobs of the sweep. Those that run save their work."""
        queued = self._queue()
        ids = [job for job in self.jobs.values() if job in queued]
        if ids:
            _call(["scancel", *ids])
        print(f"cancelled {len(ids)} jobs; finished steps are kept, and the same sweep continues", flush=True)

    def _queue(self) -> set[str]:
        """Returns the ids of the user's jobs that wait, run or are ending."""
        return set() if not self.jobs else set(_call(["squeue", "--noheader", "--me", "--format=%i"]).split())


def _call(words: Sequence[str]) -> str:
    """Returns what a command of Slurm prints. Raises `UserError` if it cannot be run, or fails."""
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        raise UserError(f"{words[0]} is not here: --slurm needs the commands of Slurm on this machine") from None
    except subprocess.CalledProcessError as error:
        reason = " ".join(error.stderr.split()) or f"status {error.returncode}"
        raise UserError(f"Slurm refused {words[0]}: {reason}") from error
