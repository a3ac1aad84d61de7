"""The steps of a sweep, and what is known of each: files below the sweep's folder.

`<out>/plan.json` lists the steps. `<out>/steps/<name>.json` says how the last run of a step went; only the process that
runs the step writes it, so any number of steps may run at once, on any number of machines. `<out>/status.json` sums
them up, for people and programs that watch.

A step is finished if it ended well with the same command, and if what it wrote is as it was then. Whether a training or
a test that is started again has anything left to do is for its command, which reads its own records.
"""

from __future__ import annotations

import hashlib
import shlex
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from advmia.errors import UserError
from advmia.runtime.files import read_json_object, write_json

Kind = Literal["train", "test", "tables"]
StateName = Literal["finished", "running", "waiting", "stopped", "failed"]
_NETWORK = ("dataset", "model", "method", "source")  # fields of a step, and its keys in the plan
_STATES = ("finished", "running", "waiting", "stopped", "failed")


@dataclass(frozen=True)
class Step:
    """One command of a sweep."""

    name: str  # of the step and of its files
    kind: Kind
    words: tuple[str, ...]  # the arguments of the Python interpreter
    writes: Path
    needs: tuple[str, ...] = ()  # names of the steps that must have finished
    # Of the network that is trained or tested; empty for the tables.
    dataset: str = ""
    model: str = ""
    method: str = ""  # with the eps of the training in grey levels, as tables show it: `pgdat 8`
    source: str = ""  # of a transfer test: the model of the network whose adversarial images are used

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": self.kind,
            **{name: getattr(self, name) for name in _NETWORK},
            "command": shlex.join(("python", *self.words)),
            "needs": list(self.needs),
            "writes": str(self.writes),
        }


@dataclass(frozen=True)
class StepState:
    """How the last run of a step went."""

    state: StateName = "waiting"
    command: str = ""  # that was run, or is running
    place: str = ""  # where: `GPU 1`, `cpu`, or the job of Slurm
    started: float = 0.0  # seconds since 1970
    seconds: float = 0.0  # that it took
    status: int = 0  # exit status
    sha256: str = ""  # of what it wrote

    def ended(self, step: Step, status: int, *, stopped: bool = False) -> StepState:
        """Returns the state after the end of a run. `stopped`: whether it was told to end."""
        state: StateName = "finished" if status == 0 else "stopped" if stopped else "failed"
        seconds = round(time.time() - self.started, 1)
        return replace(self, state=state, seconds=seconds, status=status, sha256=_digest(step) if status == 0 else "")


def plan_path(out: Path) -> Path:
    return out / "plan.json"


def log_path(out: Path, name: str) -> Path:
    return out / "logs" / f"{name}.log"


def state_path(out: Path, name: str) -> Path:
    return out / "steps" / f"{name}.json"


def write_plan(path: Path, steps: Sequence[Step]) -> None:
    write_json(path, {"steps": [step.to_json() for step in steps]}, indent=1)


def read_plan(path: Path) -> list[Step]:
    """Reads the steps that `write_plan` wrote. Raises `UserError` if the file is missing or is something else."""
    try:
        return [
            Step(
                name=content["name"],
                kind=content["kind"],
                words=tuple(shlex.split(content["command"])[1:]),
                writes=Path(content["writes"]),
                needs=tuple(content["needs"]),
                **{name: content[name] for name in _NETWORK},
            )
            for content in (read_json_object(path) or {})["steps"]
        ]
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} is no plan of a sweep: start the sweep first") from None


def begin_state(step: Step, place: str) -> StepState:
    return StepState("running", shlex.join(step.words), place, time.time())


def recorded_state(out: Path, step: Step) -> StepState:
    """Returns how the last run of the step went, without a look at what it wrote."""
    try:
        return StepState(**(read_json_object(state_path(out, step.name)) or {}))
    except TypeError:  # the file is of another version, or damaged
        return StepState()


def read_state(out: Path, step: Step) -> StepState:
    """Returns `recorded_state`; the step is waiting if the command or what it wrote has changed since.

    Reads all that a finished step wrote: for deciding what to run, not for showing how far a sweep is.
    """
    state = recorded_state(out, step)
    if state.state == "finished" and (state.command != shlex.join(step.words) or state.sha256 != _digest(step)):
        return StepState()
    return state


def write_state(out: Path, step: Step, state: StepState) -> None:
    write_json(state_path(out, step.name), asdict(state), indent=1)


def write_status(out: Path, steps: Sequence[Step], states: Mapping[str, StepState]) -> None:
    """Writes `<out>/status.json`: how many steps are in each state, the time left, and each step's state."""
    counts = dict.fromkeys(_STATES, 0)
    for step in steps:
        counts[states[step.name].state] += 1
    content = {
        "steps": len(steps),
        **counts,
        "seconds_left": seconds_left(steps, states),
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "states": {step.name: asdict(states[step.name]) for step in steps},
    }
    write_json(out / "status.json", content, indent=1)


def status_text(out: Path, steps: Sequence[Step], states: Mapping[str, StepState]) -> str:
    """Returns lines for people: how many steps are in each state, which run, and the logs of those that failed."""
    names: dict[str, list[str]] = defaultdict(list)
    for step in steps:
        names[states[step.name].state].append(step.name)
    counts = ", ".join(f"{len(names[state])} {state}" for state in _STATES if names[state])
    left = seconds_left(steps, states)
    hint = f"; about {left / 60:.0f} min left" if left and names["running"] else ""
    lines = [f"{len(steps)} steps: {counts}{hint}"]
    for name in names["running"]:
        minutes = (time.time() - states[name].started) / 60
        lines.append(f"running: {name} ({states[name].place}, {minutes:.0f} min)")
    lines += [f"failed: {name} (log: {log_path(out, name)})" for name in names["failed"]]
    return "\n".join(lines)


def seconds_left(steps: Sequence[Step], states: Mapping[str, StepState]) -> float | None:
    """Estimates the time left from the mean time of finished steps of each kind; None before the first of a kind."""
    taken, left, now = defaultdict(list), 0.0, time.time()
    for step in steps:
        if states[step.name].state == "finished":
            taken[step.kind].append(states[step.name].seconds)
    running = 0
    for step in steps:
        state = states[step.name]
        if state.state == "finished" or step.kind == "tables":
            continue
        if not taken[step.kind]:
            return None
        mean = sum(taken[step.kind]) / len(taken[step.kind])
        running += state.state == "running"
        left += max(mean - (now - state.started), 0) if state.state == "running" else mean
    return round(left / max(running, 1), 1)


def _digest(step: Step) -> str:
    """Returns the SHA-256 of the file that a step writes; "missing" if it cannot be read."""
    try:
        return hashlib.sha256(step.writes.read_bytes()).hexdigest()
    except OSError:
        return "missing"
