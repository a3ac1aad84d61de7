"""Estimates how long a sweep will take on this machine, and shows it as tables: `--estimate`."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from advmia.attacks import ATTACKS
from advmia.results.layout import Cell, Table
from advmia.results.render import render_tables, rounded
from advmia.runtime import devices, machine
from advmia.runtime.progress import Bar
from advmia.sweeps.local import Place
from advmia.sweeps.step_times import Estimator, StepTime
from advmia.sweeps.steps import Step, read_state

_IN_ALL = "in all"
_Form = Callable[[float], str]


def estimate_text(out: Path, steps: Sequence[Step], places: Sequence[Place], *, slurm: bool = False) -> str:
    """Returns tables of the time that those steps will take which have not finished in the folder `out`.

    `places`: where steps run at the same time; not used with `slurm`, where each step is a job. Raises `UserError` for
    a batch that does not fit the memory.
    """
    left = [step for step in steps if step.kind != "tables" and read_state(out, step).state != "finished"]
    finished = sum(step.kind != "tables" for step in steps) - len(left)
    note = [f"Steps that have finished already, and are not counted: {finished}."] if finished else []
    if not left:
        return "\n".join([*note, "Nothing is left to do.\n"])
    gpus = list(places[0].flags[1:])
    device = devices.pick_device(gpus or None)
    if device.type == "cpu":
        machine.keep_freed_memory()  # as the steps do
        torch.set_num_threads(places[0].threads or torch.get_num_threads())
    estimator = Estimator(device)
    times = [estimator.time_of(step) for step in Bar(left, desc="estimate", unit="steps", leave=False)]
    tables = [subject_table(times)] + ([attack_table(times)] if any(time.step.kind == "test" for time in times) else [])
    summary = _summary(times, device, None if slurm else steps_at_a_time(places, device))
    return "\n".join([render_tables(tables, "md"), *note, *summary, *_assumptions(times)]) + "\n"


def steps_at_a_time(places: Sequence[Place], device: torch.device) -> int:
    """Returns how many steps these places run at a time. Steps that share a GPU count as one after another."""
    return len(places) if device.type == "cpu" else len({place.name for place in places})


def subject_table(times: Sequence[StepTime]) -> Table:
    """Returns the table of trainings and tests by data set, network and method."""
    unit, form = _unit(times)
    groups: dict[tuple[str, str, str], list[StepTime]] = defaultdict(list)
    for time in times:
        method, _, _ = time.step.method.partition(" ")  # all eps together
        groups[time.step.dataset, time.step.model, method].append(time)
    groups[_IN_ALL, "", ""] = list(times)
    rows = []
    for subject, group in groups.items():
        cells = list(subject)
        for kind in ("train", "test"):
            found = [time.seconds for time in group if time.step.kind == kind]
            cells += [str(len(found)), form(sum(found))]
        rows.append((*cells, form(sum(time.seconds for time in group))))
    header = ("data set", "network", "method", "trainings", unit, "tests", unit, _IN_ALL)
    return Table(f"Estimated {unit} by data set, network and method", header, _cells(rows))


def attack_table(times: Sequence[StepTime]) -> Table:
    """Returns the table of all tests by data set and attack."""
    unit, form = _unit(times)
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    for time in times:
        for part, value in time.parts.items() if time.step.kind == "test" else ():
            seconds[time.step.dataset, part] += value
    seconds[_IN_ALL, ""] = sum(seconds.values())
    rows = [(dataset, part, form(value)) for (dataset, part), value in seconds.items()]
    return Table(f"Estimated {unit} of the tests by attack", ("data set", "attack", unit), _cells(rows))


def makespan(times: Sequence[StepTime], workers: int) -> float:
    """Returns the seconds until all steps have ended if `workers` run at a time, each as soon as its needs have."""
    left, running, free, now = list(times), list[tuple[float, str]](), workers, 0.0
    unfinished = {time.step.name for time in times}
    while left or running:
        for time in [time for time in left if unfinished.isdisjoint(time.step.needs)][:free]:
            left.remove(time)
            heapq.heappush(running, (now + time.seconds, time.step.name))
            free -= 1
        now, name = heapq.heappop(running)
        unfinished.remove(name)
        free += 1
    return now


def _summary(times: Sequence[StepTime], device: torch.device, workers: int | None) -> list[str]:
    """Returns the lines that say how long all takes; `workers`: steps at a time, None for jobs of Slurm."""
    unit, form = _unit(times)
    on_cpu = f"a CPU with {torch.get_num_threads()} threads" if torch.get_num_threads() > 1 else "a CPU with one thread"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else on_cpu
    lines = [f"In all {form(sum(time.seconds for time in times))} {unit} on {name}, one step after another."]
    chain = f"{form(makespan(times, len(times)))} {unit} on any number: the longest chain of steps that need each other"
    if workers is None:
        lines.append(f"As jobs of Slurm on such devices, at least {chain}.")
    elif workers > 1:
        lines.append(f"On {workers} of these at a time {form(makespan(times, workers))} {unit}; at least {chain}.")
    return lines


def _assumptions(times: Iterable[StepTime]) -> list[str]:
    """Returns lines that say what the estimate takes for granted."""
    attacks = {part for time in times for part in time.parts if part in ATTACKS and ATTACKS[part].early_stopping}
    lines = [
        "Steps that have begun count as a whole. Not counted: decoding the images of a data set once, and compiling."
    ]
    if attacks:
        names = ", ".join(name for name in ATTACKS if name in attacks)
        lines.append(
            f"At most: {names} leave an image alone once it is misclassified, and are counted here as for images that"
            " never are."
        )
    return lines


def _unit(times: Iterable[StepTime]) -> tuple[str, _Form]:
    """Returns hours, or minutes if all takes less than an hour, and what writes seconds as such."""
    total = sum(time.seconds for time in times)
    unit, length = ("hours", 3600) if total >= 3600 else ("minutes", 60)
    places = 1 if total >= 100 * length else 2
    return unit, lambda seconds: rounded(seconds / length, places)


def _cells(rows: Iterable[Sequence[str]]) -> tuple[tuple[Cell, ...], ...]:
    return tuple(tuple(map(Cell, row)) for row in rows)
