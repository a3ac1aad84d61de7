"""What is known of the steps of a sweep: `<out>/status.json`, which is written whenever it changes.

A step is finished if it ended well with the same command, and if what it wrote is as it was then. Whether a training or
a test that is started again has anything left to do is for its command, which reads its own records.
"""

from __future__ import annotations

import hashlib
import shlex
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from advmia.runtime.files import read_json_object, write_json
from advmia.sweeps.plan import Step

StateName = Literal["waiting", "running", "finished", "failed", "stopped"]


@dataclass
class StepState:
    """One step in `status.json`."""

    state: StateName = "waiting"
    command: str = ""  # that was run, or is running
    place: str = ""  # where: `GPU 1`, `cpu`, or the job of Slurm
    started: float = 0.0  # seconds since 1970
    seconds: float = 0.0  # that its last run took
    status: int = 0  # exit status of its last run
    sha256: str = ""  # of what it wrote


class SweepState:
    """The state of all steps. Raises nothing for a damaged file: its steps are waiting then."""

    def __init__(self, out: Path, steps: list[Step]) -> None:
        self.path, self._steps = out / "status.json", {step.name: step for step in steps}
        known = (read_json_object(self.path) or {}).get("steps")
        known = known if isinstance(known, dict) else {}
        self.of = {step.name: _parsed(known.get(step.name)) for step in steps}
        for step in steps:
            if not self._is_as_it_was(step):
                self.of[step.name].state = "waiting"

    def _is_as_it_was(self, step: Step) -> bool:
        state = self.of[step.name]
        return state.state == "finished" and state.command == shlex.join(step.words) and state.sha256 == _digest(step)

    def is_finished(self, name: str) -> bool:
        return self.of[name].state == "finished"

    def start(self, step: Step, place: str) -> None:
        self.of[step.name] = StepState("running", shlex.join(step.words), place, time.time())
        self.save()

    def end(self, step: Step, status: int, *, stopped: bool = False) -> None:
        """Records how a step ended. `status`: its exit status; `stopped`: whether the sweep had told it to end."""
        state = self.of[step.name]
        state.seconds, state.status = round(time.time() - state.started, 1), status
        state.state = "finished" if status == 0 else "stopped" if stopped else "failed"
        state.sha256 = _digest(step) if status == 0 else ""
        self.save()

    def save(self) -> None:
        write_json(self.path, {"steps": {name: asdict(state) for name, state in self.of.items()}}, indent=1)


def _parsed(content: Any) -> StepState:
    try:
        return StepState(**content)
    except TypeError:
        return StepState()


def _digest(step: Step) -> str:
    """Returns the SHA-256 of the file that a step writes; "" if it does not exist."""
    try:
        return hashlib.sha256(step.writes.read_bytes()).hexdigest()
    except OSError:
        return ""
