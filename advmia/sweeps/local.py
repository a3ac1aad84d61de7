"""Runs the steps of a sweep on this machine, several at a time, each on a device of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from advmia.errors import UserError
from advmia.runtime.progress import Bar
from advmia.runtime.signals import Stopped, end_with_parent, forward_signals
from advmia.sweeps.steps import Step, StepState, log_path, read_state, recorded_state, write_state, write_status

_POLL_SECONDS = 0.05
_TABLE_SECONDS = 60.0  # least time between two renewals of the tables while steps run


@dataclass(frozen=True)
class Place:
    """Where one step runs at a time: a GPU or a part of one, or some of the cores."""

    name: str
    flags: tuple[str, ...]  # of the commands
    threads: int | None  # of a step; None for torch's own choice


def places(gpus: Sequence[str] | None, jobs: int | None, jobs_per_gpu: int) -> list[Place]:
    """Returns the places for `--gpu`, `--jobs` and `--jobsPerGpu`: on CPUs the cores are shared out."""
    if not gpus or list(gpus) == ["cpu"]:
        count = jobs or 1
        threads = None if count == 1 or "OMP_NUM_THREADS" in os.environ else max((os.cpu_count() or 1) // count, 1)
        return [Place("cpu" if gpus else "the default device", ("--gpu", *gpus) if gpus else (), threads)] * count
    found = [Place(f"GPU {gpu}", ("--gpu", gpu), None) for _ in range(jobs_per_gpu) for gpu in gpus]
    return found[:jobs] if jobs else found


@dataclass
class _Running:
    step: Step
    place: int
    process: subprocess.Popen[bytes]


class LocalRun:
    """One run of a sweep on this machine."""

    def __init__(self, out: Path, steps: Sequence[Step], places: Sequence[Place]) -> None:
        self.out, self.plan, self.places = out, list(steps), list(places)
        self.tables = next((step for step in steps if step.kind == "tables"), None)
        self.steps = [step for step in steps if step.kind != "tables"]
        self.states = {step.name: self._initial(step) for step in steps}
        self.running: list[_Running] = []
        self.renewal: subprocess.Popen[bytes] | None = None  # of the tables
        self.renewed, self.tests_in_tables = time.monotonic(), 0

    def _initial(self, step: Step) -> StepState:
        """Returns the step's state; all that is not finished waits to be run."""
        state = read_state(self.out, step)
        return state if state.state == "finished" else StepState()

    def run(self) -> None:
        """Runs what is not finished. Raises `Stopped` after a signal, and `UserError` if a step failed."""
        total, finished = len(self.steps), len(self._in("finished"))
        if finished:
            print(f"{finished} of {total} steps are finished already", flush=True)
        # The time left is told from the steps of this run alone.
        bar = Bar(total=total - finished, desc="sweep", unit=" steps", leave=False)
        with bar, forward_signals(self._signal) as received:
            self._start_ready()
            while self.running:
                time.sleep(_POLL_SECONDS)
                bar.update(self._collect(stopped=bool(received)))
                if not received:
                    self._start_ready()
                    self._renew_tables()
            if self.renewal is not None:
                self.renewal.wait()
        if received:
            stop = Stopped(received[0])
            stop.advice = "finished steps are kept, and the same command continues"
            raise stop
        self._end()

    def _in(self, state: str) -> list[Step]:
        return [step for step in self.steps if self.states[step.name].state == state]

    def _start_ready(self) -> None:
        """Starts steps whose needs have finished, in the order of the plan, while there are free places."""
        free = [number for number in range(len(self.places)) if number not in [one.place for one in self.running]]
        for step in self._in("waiting") if free else ():
            if free and all(self.states[name].state == "finished" for name in step.needs):
                self._start(step, free.pop(0))

    def _start(self, step: Step, number: int) -> None:
        place = self.places[number]
        self.running.append(_Running(step, number, self._job(step, place)))
        self.states[step.name] = StepState("running", place=place.name, started=time.time())
        self._tell(step, f"on {place.name}")

    def _job(self, step: Step, place: Place) -> subprocess.Popen[bytes]:
        threads = {} if place.threads is None else {"OMP_NUM_THREADS": str(place.threads)}
        words = [sys.executable, "-m", "advmia.sweeps.job", str(self.out), step.name, place.name, *place.flags]
        return subprocess.Popen(
            words,
            env=os.environ | threads,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # so that Ctrl-C reaches it once, from here
            preexec_fn=end_with_parent,
        )

    def _collect(self, *, stopped: bool) -> int:
        """Notes which steps have ended; returns how many of them finished."""
        finished = 0
        for one in [one for one in self.running if one.process.poll() is not None]:
            self.running.remove(one)
            state, status = recorded_state(self.out, one.step), one.process.returncode
            if state.state not in ("finished", "failed", "stopped"):  # the job itself was killed
                state = self.states[one.step.name].ended(one.step, status or 1, stopped=stopped)
                write_state(self.out, one.step, state)
            self.states[one.step.name] = state
            finished += state.state == "finished"
            how = f"failed with status {state.status}" if state.state == "failed" else state.state
            self._tell(one.step, f"{how} after {state.seconds:.0f} s")
        return finished

    def _tell(self, step: Step, text: str) -> None:
        Bar.write(f"[{len(self._in('finished'))}/{len(self.steps)}] {step.name}: {text}")
        sys.stdout.flush()
        write_status(self.out, self.plan, self.states)

    def _renew_tables(self) -> None:
        """Starts to make the tables again if tests have finished since, at most once a minute."""
        tests, now = self._finished_tests(), time.monotonic()
        is_running = self.renewal is not None and self.renewal.poll() is None
        if self.tables and tests > self.tests_in_tables and now - self.renewed >= _TABLE_SECONDS and not is_running:
            self.renewal = self._job(self.tables, Place("this machine", (), None))
            self.renewed, self.tests_in_tables = now, tests

    def _finished_tests(self) -> int:
        return sum(step.kind == "test" for step in self._in("finished"))

    def _signal(self, number: int) -> None:
        for one in self.running:
            if one.process.poll() is None:
                one.process.send_signal(number)

    def _end(self) -> None:
        """Makes and prints the tables. Raises `UserError` that names the steps that failed, with their logs."""
        failed = self._in("failed")
        if self.tables and self._finished_tests():
            if self._job(self.tables, Place("this machine", (), None)).wait() == 0:
                print(self.tables.writes.read_text(encoding="utf-8"), end="", flush=True)
            else:
                failed.append(self.tables)
            self.states[self.tables.name] = recorded_state(self.out, self.tables)
            write_status(self.out, self.plan, self.states)
        if failed:
            names = "; ".join(f"{step.name} (log: {log_path(self.out, step.name)})" for step in failed)
            waiting = len(self._in("waiting"))
            behind = f"; {waiting} steps that need them were not run" if waiting else ""
            raise UserError(f"failed: {names}{behind}; the same command tries them again")
