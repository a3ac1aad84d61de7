"""The steps of a sweep: which command each runs, what it needs and what it writes."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from advmia.entry_points import output_path
from advmia.errors import UserError
from advmia.sweeps.grid import FILLED, Grid, known_flags, script_of, task_of_dataset
from advmia.tasks import Task

Kind = Literal["train", "test", "tables"]


@dataclass(frozen=True)
class Step:
    """One command of a sweep."""

    name: str  # of the step and of its log
    kind: Kind
    words: tuple[str, ...]  # the arguments of the Python interpreter
    writes: Path
    needs: tuple[str, ...] = ()  # names of the steps that must have finished

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": self.kind,
            "command": shlex.join(("python", *self.words)),
            "needs": list(self.needs),
            "writes": str(self.writes),
        }


@dataclass(frozen=True)
class _Network:
    """One network of the grid."""

    task: Task
    dataset: str
    model: str
    method: str
    eps: str
    seed: int | None

    @property
    def name(self) -> str:
        """E.g. `melBin_res18_pgdat_eps8_seed1`; the names of logs have no slash."""
        model = self.model.rpartition("/")[2].replace(":", "-")
        eps = "" if self.method == "nat" else f"_eps{self.eps.partition('/')[0]}"
        return f"{self.dataset}_{model}_{self.method}{eps}" + (f"_seed{self.seed}" if self.seed else "")


@dataclass
class _Planner:
    grid: Grid
    root: Path  # of the data sets
    steps: dict[str, Step] = field(default_factory=dict)

    def plan(self) -> list[Step]:
        """Returns all steps, each behind those that it needs."""
        for network in self.networks():
            if network.method == "hat":
                self.add_training(_helper_of(network))
            self.add_training(network)
            self.add_test(network)
        if self.grid.transfer:
            for network in list(self.networks()):
                for source in self.networks():
                    if _may_transfer(network, source):
                        self.add_test(network, source)
        tests = tuple(step.name for step in self.steps.values() if step.kind == "test")
        words = ("-m", "advmia", "tables", str(self.grid.out / "results"), "--out", str(self.grid.out / "tables"))
        self.steps["tables"] = Step("tables", "tables", words, self.grid.out / "tables" / "tables.md", tests)
        return list(self.steps.values())

    def networks(self) -> Iterator[_Network]:
        """Yields the networks: of each data set and seed, the natural ones first, since HAT's helpers are among them."""
        grid = self.grid
        for name in grid.datasets:
            dataset, task = task_of_dataset(name, self.root)
            models = [model for model in grid.models if model in task.models or ":" in model]
            methods = [method for method in task.methods if method in grid.methods]
            if not models or not methods:
                raise UserError(
                    f"{dataset}: none of the networks {', '.join(grid.models)} and methods {', '.join(grid.methods)} is"
                    f" for {task.name}: take of {', '.join(task.models)} and of {', '.join(task.methods)}"
                )
            for seed in grid.seeds or (None,):
                for model in models:
                    for method in methods:
                        for eps in ("0",) if method == "nat" else grid.epsilons:
                            yield _Network(task, dataset, model, method, eps, seed)

    def add_training(self, network: _Network) -> None:
        name, words = f"train_{network.name}", self.training_words(network)
        if name in self.steps:
            return
        writes, needs = output_path(words), ()
        if network.method == "hat":
            helper = self.steps[f"train_{_helper_of(network).name}"]
            words += ["--helperModel", network.model, "--helperWeight", str(helper.writes)]
            needs = (helper.name,)
        self.steps[name] = Step(name, "train", tuple(words), writes, needs)

    def training_words(self, network: _Network) -> list[str]:
        script = script_of(network.task, "train")[0]
        words = [script, "--dataset", network.dataset, "--method", network.method, "--model", network.model]
        words += ["--eps", network.eps, *self.flags_for(network.task, "train"), "--resume"]
        words += ["--saveDir", str(self.grid.out / network.task.checkpoint_folder)]
        return words if network.seed is None else [*words, "--seed", str(network.seed)]

    def add_test(self, network: _Network, source: _Network | None = None) -> None:
        script = script_of(network.task, "test")[0]
        trained = self.steps[f"train_{network.name}"]
        words = [script, "--dataset", network.dataset, *self.flags_for(network.task, "test")]
        words += ["--resultDir", str(self.grid.out / "results")]
        words += ["--targetModel", network.model, "--targetWeight", str(trained.writes)]
        name, needs = f"test_{network.name}", (trained.name,)
        if source is not None:
            weights = self.steps[f"train_{source.name}"]
            words += ["--surrogateModel", source.model, "--surrogateWeight", str(weights.writes)]
            name, needs = f"{name}_from_{source.model}_{source.method}", (trained.name, weights.name)
        self.steps[name] = Step(name, "test", tuple(words), output_path(words), needs)

    def flags_for(self, task: Task, kind: str) -> list[str]:
        """Returns the words of the grid's flags that the task's script of this kind knows."""
        known = known_flags(*reversed(script_of(task, kind)))
        return [
            word
            for flag in self.grid.flags
            if flag.only in ("", kind) and flag.name.lower() in known
            for word in flag.words
        ]

    def check_flags(self) -> None:
        """Raises `UserError` for a flag that no command of the grid knows, or that the sweep fills in."""
        tasks = {
            task_of_dataset(name, self.root)[1].name: task_of_dataset(name, self.root)[1] for name in self.grid.datasets
        }
        for flag in self.grid.flags:
            kinds = [flag.only] if flag.only else ["train", "test"]
            if flag.name.lower() in map(str.lower, FILLED):
                raise UserError(f"{flag.name}: the sweep fills it in: leave it out")
            if not any(
                flag.name.lower() in known_flags(*reversed(script_of(task, kind)))
                for task in tasks.values()
                for kind in kinds
            ):
                raise UserError(f"{flag.name}: no command of this sweep has this flag")


def _helper_of(network: _Network) -> _Network:
    return _Network(network.task, network.dataset, network.model, "nat", "0", network.seed)


def _may_transfer(target: _Network, source: _Network) -> bool:
    """Returns whether a natural network is tested by the images of another one, of its data set and seed."""
    same = (target.dataset, target.seed) == (source.dataset, source.seed)
    return same and target.method == source.method == "nat" and target.model != source.model


def plan_steps(grid: Grid, root: Path) -> list[Step]:
    """Returns the steps of a sweep, each behind those that it needs. Raises `UserError` for a grid that is wrong.

    `root`: the folder of the data sets. Wrong values of flags are reported by the commands' own parsers.
    """
    planner = _Planner(grid, root)
    planner.check_flags()
    return planner.plan()
