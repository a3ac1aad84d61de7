"""Runs the steps of a sweep on this machine, several at a time, each on a device of its own."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from advmia.errors import UserError
from advmia.runtime.files import write_error
from advmia.runtime.progress import Bar
from advmia.runtime.signals import Stopped, forward_signals
from advmia.sweeps.plan import Step
from advmia.sweeps.state import SweepState

_POLL_SECONDS = 0.05
_STOP_SECONDS = 60.0  # that steps get to save their work after a signal


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
        return [Place("cpu", tuple(("--gpu", *gpus) if gpus else ()), threads)] * count
    found = [Place(f"GPU {gpu}", ("--gpu", gpu), None) for _ in range(jobs_per_gpu) for gpu in gpus]
    return found[:jobs] if jobs else found


@dataclass
class _Running:
    step: Step
    place: int
    process: subprocess.Popen[bytes]
    log: IO[bytes]


@dataclass
class LocalRun:
    """One run of a sweep on this machine."""

    steps: list[Step]  # all but the tables
    tables: Step
    state: SweepState
    places: list[Place]
    out: Path
    running: list[_Running] = field(default_factory=list)
    renewal: subprocess.Popen[bytes] | None = None  # of the tables
    tests_in_tables: int = 0

    def run(self) -> None:
        """Runs what is not finished. Raises `Stopped` after a signal, and `UserError` if a step failed."""
        total = len(self.steps)
        bar = Bar(total=total, initial=len(self._in("finished")), desc="sweep", unit=" steps", leave=False)
        with bar, forward_signals(self._signal) as received:
            while True:
                if not received:
                    self._start_ready()
                if not self.running:
                    break
                time.sleep(_POLL_SECONDS)
                bar.update(self._collect(stopped=bool(received)))
                if not received:
                    self._renew_tables()
            if self.renewal is not None:
                self.renewal.wait()
        if received:
            stop = Stopped(received[0])
            stop.advice = "finished steps are kept, and the same command continues"
            raise stop
        self._report()

    def log_of(self, step: Step) -> Path:
        return self.out / "logs" / f"{step.name}.log"

    def _in(self, *states: str) -> list[Step]:
        return [step for step in self.steps if self.state.of[step.name].state in states]

    def _start_ready(self) -> None:
        """Starts steps whose needs have finished, in the order of the plan, while there are free places."""
        free = [number for number in range(len(self.places)) if number not in [one.place for one in self.running]]
        for step in self._in("waiting", "stopped"):
            if not free:
                return
            if all(self.state.is_finished(name) for name in step.needs):
                self._start(step, free.pop(0))

    def _start(self, step: Step, number: int) -> None:
        place, log = self.places[number], self.log_of(step)
        environment = dict(os.environ)
        if place.threads is not None:
            environment["OMP_NUM_THREADS"] = str(place.threads)
        words = [sys.executable, *step.words, *place.flags]
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            file = log.open("ab")
            file.write(f"$ {shlex.join(words)}\n".encode())
            file.flush()
        except OSError as error:
            raise write_error(log, error) from error
        process = subprocess.Popen(
            words,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that Ctrl-C reaches this process only, which forwards it
        )
        self.running.append(_Running(step, number, process, file))
        self.state.start(step, place.name)
        print(f"{self._count()} {step.name} on {place.name}", flush=True)

    def _collect(self, *, stopped: bool) -> int:
        """Records the steps that have ended; returns how many of them finished."""
        ended = [one for one in self.running if one.process.poll() is not None]
        finished = 0
        for one in ended:
            self.running.remove(one)
            one.log.close()
            status = one.process.returncode
            self.state.end(one.step, status, stopped=stopped)
            state = self.state.of[one.step.name]
            finished += status == 0
            how = "finished" if status == 0 else "stopped" if stopped else f"failed with status {status}"
            print(f"{self._count()} {one.step.name} {how} after {state.seconds:.0f} s", flush=True)
        return finished

    def _count(self) -> str:
        return f"[{len(self._in('finished'))}/{len(self.steps)}]"

    def _renew_tables(self) -> None:
        """Makes the tables again if tests have finished since, in a process of its own."""
        if self.renewal is not None and self.renewal.poll() is None:
            return
        tests = sum(step.kind == "test" for step in self._in("finished"))
        if tests > self.tests_in_tables:
            self.tests_in_tables = tests
            words = [sys.executable, *self.tables.words]
            quiet = subprocess.DEVNULL
            self.renewal = subprocess.Popen(words, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)

    def _signal(self, number: int) -> None:
        for one in self.running:
            if one.process.poll() is None:
                one.process.send_signal(number)

    def _report(self) -> None:
        """Makes the final tables. Raises `UserError` that names the steps that failed, with their logs."""
        if any(step.kind == "test" for step in self._in("finished")):
            subprocess.run([sys.executable, *self.tables.words], check=False)
        failed, waiting = self._in("failed"), self._in("waiting")
        if failed:
            names = "; ".join(f"{step.name} (log: {self.log_of(step)})" for step in failed)
            behind = f"; {len(waiting)} steps that need them were not run" if waiting else ""
            raise UserError(
                f"{len(failed)} of {len(self.steps)} steps failed: {names}{behind}; the same command tries them again"
            )
