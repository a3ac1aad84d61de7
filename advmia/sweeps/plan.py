"""Plans a grid as steps: which command each runs, what it needs, and what it writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from advmia.cli.parser import grey_level
from advmia.entry_points import SCRIPTS, output_path
from advmia.errors import UserError
from advmia.runtime.terminal import say
from advmia.sweeps.grid import Flag, Grid, last_of_each, task_of_dataset
from advmia.sweeps.steps import Kind, Step, plan_path
from advmia.targets import TaskName
from advmia.tasks import Task

# Flags of the commands whose values the plan fills in.
_FILLED = {"--dataset", "--model", "--method", "--eps", "--resume", "--helperModel", "--helperWeight"}
_FILLED |= {f"--{network}{part}" for network in ("target", "surrogate") for part in ("Model", "Weight", "Path")}


def plan_steps(grid: Grid, root: Path) -> list[Step]:
    """Returns the steps of a sweep, each behind those that it needs. Raises `UserError` for a grid that is wrong.

    `root`: the folder of the data sets. Wrong values of flags end the process as in the commands themselves.
    """
    planner = _Planner(grid, root)
    planner.check_flags()
    return planner.plan()


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
        """E.g. `melBin_res18_pgdat_eps8_seed1`; the names of files have no slash."""
        model = self.model.rpartition("/")[2].replace(":", "-")
        eps = "" if self.method == "nat" else f"_eps{self.eps.partition('/')[0]}"
        return f"{self.dataset}_{model}_{self.method}{eps}" + (f"_seed{self.seed}" if self.seed else "")

    @property
    def shown_method(self) -> str:
        """The method as tables show it, e.g. `pgdat 8`."""
        return self.method if self.method == "nat" else f"{self.method} {grey_level(self.eps):g}"

    @property
    def helper(self) -> _Network:
        """The network that HAT needs: the natural one."""
        return replace(self, method="nat", eps="0")

    def is_source_of(self, target: _Network) -> bool:
        """Returns whether `target` is tested by this network's images: both natural, of one data set and seed."""
        same = (self.dataset, self.seed) == (target.dataset, target.seed)
        return same and self.method == target.method == "nat" and self.model != target.model


@dataclass
class _Planner:
    grid: Grid
    root: Path  # of the data sets
    steps: dict[str, Step] = field(default_factory=dict)

    def plan(self) -> list[Step]:
        networks = list(self._networks())
        for name in (*self.grid.models, *self.grid.methods):
            if not any(name in (network.model, network.method) for network in networks):
                raise UserError(f"{name}: no data set of this sweep takes a network or a method of this name")
        for network in networks:
            if network.method == "hat":
                self._add_training(network.helper)
            self._add_training(network)
            self._add_test(network)
        for network in networks if self.grid.transfer is not None else ():
            for source in networks:
                if source.is_source_of(network):
                    self._add_test(network, source)
        return self._wanted()

    def _wanted(self) -> list[Step]:
        """Returns the steps that `--only` leaves, and those that make the tables of the tests."""
        grid, steps = self.grid, list(self.steps.values())
        if grid.only == "test":
            trained = {step.name for step in steps if step.kind == "train" and step.writes.exists()}
            tests = [step for step in steps if step.kind == "test"]
            steps = [replace(step, needs=()) for step in tests if trained.issuperset(step.needs)]
            if not steps:
                say("none of these networks is trained yet: there is nothing to test")
                return []
            if len(steps) < len(tests):
                say(f"{len(tests) - len(steps)} of {len(tests)} tests are left out: their networks are not trained yet")
        elif grid.only == "train":
            return [step for step in steps if step.kind == "train"]
        words = ["-m", "advmia", "tables", str(grid.results), "--out", str(grid.tables)]
        words += ["--plan", str(plan_path(grid.out))]
        tested = tuple(step.name for step in steps if step.kind == "test")
        return [*steps, Step("tables", "tables", tuple(words), grid.tables / "tables.md", tested)]

    def _networks(self) -> Iterator[_Network]:
        """Yields the networks: of each data set, seed and model, the natural one first."""
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

    def _add_training(self, network: _Network) -> None:
        words = [_script(network.task.name, "train"), "--dataset", network.dataset, "--method", network.method]
        words += ["--model", network.model, "--eps", network.eps, *self._flags(network.task, "train"), "--resume"]
        words += ["--saveDir", str(self.grid.checkpoints or self.grid.out / network.task.checkpoint_folder)]
        if network.seed is not None:
            words += ["--seed", str(network.seed)]
        writes, needs = output_path(words), []
        if network.method == "hat":
            helper = self.steps[f"train_{network.helper.name}"]
            words += ["--helperModel", network.model, "--helperWeight", str(helper.writes)]
            needs.append(helper.name)
        self._add(Step(f"train_{network.name}", "train", tuple(words), writes, tuple(needs)), network)

    def _add_test(self, network: _Network, source: _Network | None = None) -> None:
        trained = self.steps[f"train_{network.name}"]
        words = [_script(network.task.name, "test"), "--dataset", network.dataset]
        attacks = [Flag("--attacks", self.grid.transfer)] if source is not None and self.grid.transfer else []
        words += [*self._flags(network.task, "test", attacks), "--resultDir", str(self.grid.results)]
        name, needs = f"test_{network.name}", [trained.name]
        if source is not None:
            weights = self.steps[f"train_{source.name}"]
            words += ["--surrogateModel", source.model, "--surrogateWeight", str(weights.writes)]
            name += f"_from_{source.model.rpartition('/')[2].replace(':', '-')}"
            needs.append(weights.name)
        words += ["--targetModel", network.model, "--targetWeight", str(trained.writes)]
        step = Step(name, "test", tuple(words), output_path(words), tuple(needs))
        self._add(replace(step, source=source.model if source else ""), network)

    def _add(self, step: Step, network: _Network) -> None:
        if not Path(step.words[0]).is_file():  # in a folder without the scripts
            step = replace(step, words=("-m", "advmia.entry_points", *step.words))
        step = replace(step, dataset=network.dataset, model=network.model, method=network.shown_method)
        if self.steps.setdefault(step.name, step).writes != step.writes:
            raise UserError(f"two networks of this sweep have the name {step.name}: give each a sweep of its own")

    def _flags(self, task: Task, kind: Kind, further: Sequence[Flag] = ()) -> list[str]:
        """Returns the words of the grid's flags that the task's script of this kind has, and of further ones."""
        known = _known_flags(_script(task.name, kind))
        flags = last_of_each([*self.grid.flags, *further])
        chosen = [flag for flag in flags if flag.only in ("", kind) and flag.name.lower() in known]
        return [word for flag in chosen for word in flag.words]

    def check_flags(self) -> None:
        """Raises `UserError` for a flag that no command of the grid has, or that the plan fills in."""
        tasks = {task_of_dataset(name, self.root)[1].name for name in self.grid.datasets}
        for flag in self.grid.flags:
            if flag.name.lower() in map(str.lower, _FILLED):
                raise UserError(f"{flag.name}: the sweep gives it to each command: leave it out")
            if not any(
                flag.name.lower() in _known_flags(_script(task, kind)) for task in tasks for kind in _kinds(flag)
            ):
                raise UserError(f"{flag.name}: no command of this sweep has this flag (see --help)")


def _kinds(flag: Flag) -> tuple[Kind, ...]:
    """Returns the kinds of commands that a flag is for."""
    return ("train", "test") if not flag.only else (flag.only,)


@cache
def _script(task: TaskName, kind: Kind) -> str:
    """Returns the name of the task's script of this kind."""
    return next(name for name, script in SCRIPTS.items() if name.startswith(kind) and script.task.name == task)


@cache
def _known_flags(script: str) -> frozenset[str]:
    """Returns the flags of a script in small letters."""
    return frozenset(flag.lower() for flag in SCRIPTS[script].parser(script).flags())
