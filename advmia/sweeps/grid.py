"""The grid of a sweep, from flags and from a TOML file: data sets, networks, methods, eps and seeds.

Flags of the training and test commands that a sweep does not have itself are passed on, each to the commands that know
it. So a sweep has every flag of the commands without declaring it again.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from advmia.data.datasets import DATASETS, find_dataset, own_datasets
from advmia.errors import UserError
from advmia.targets import TaskName
from advmia.tasks import MULTI_LABEL, SEGMENTATION, SINGLE_LABEL, Task

TASKS: dict[TaskName, Task] = {task.name: task for task in (SINGLE_LABEL, MULTI_LABEL, SEGMENTATION)}
_LISTS = ("datasets", "models", "methods", "eps", "seeds", "attacks", "epsilons", "transfer")
_TABLES: dict[str, Only] = {"flags": "", "train": "train", "test": "test"}


Only = Literal["", "train", "test"]


@dataclass(frozen=True)
class Flag:
    """A flag of the commands with its values, as the user typed them."""

    name: str
    values: tuple[str, ...] = ()
    only: Literal["", "train", "test"] = (
        ""  # "train" or "test" for a flag of one of the tables [train] and [test] of a file; "" for both
    )

    @property
    def words(self) -> tuple[str, ...]:
        return (self.name, *self.values)


@dataclass(frozen=True)
class Grid:
    """What a sweep is asked for. Every combination that its task has is trained and tested."""

    datasets: tuple[str, ...]
    models: tuple[str, ...]
    methods: tuple[str, ...]
    epsilons: tuple[str, ...]  # of the trainings, in grey levels, as typed
    seeds: tuple[int, ...]  # () for one training each, whose seed the flags may state
    # Whether each natural network is also tested by adversarial images of each other of its data set, and by which
    # attacks; () for those of the other tests.
    transfer: tuple[str, ...] | None
    only: Only  # which steps are wanted; "" for all
    out: Path
    checkpoints: Path | None  # the folder for them; None for a folder of each task's own in `out`
    results: Path
    tables: Path
    flags: tuple[Flag, ...]  # of the commands


def task_of_dataset(name: str, root: Path) -> tuple[str, Task]:
    """Returns the name of a data set as its registry spells it, and its task. Raises `UserError` if it is unknown."""
    for spec in DATASETS.values():
        if name.lower() in (spec.name.lower(), *map(str.lower, spec.aliases)):
            return spec.name, TASKS[spec.task]
    for task in TASKS.values():
        try:
            return find_dataset(name, root, task.name).name, task
        except UserError as error:
            if "is for" not in str(error):
                raise
    raise UserError(f"unknown data set {name!r}: choose from {', '.join([*DATASETS, *own_datasets(root)])}")


def split_flags(words: Sequence[str]) -> list[Flag]:
    """Returns the flags in `words`, each with the values behind it."""
    flags: list[Flag] = []
    for word in words:
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            flags.append(Flag(name, (value,) if equals else ()))
        elif not flags:
            raise UserError(f"expected a flag, got {word!r}")
        else:
            flags[-1] = Flag(flags[-1].name, (*flags[-1].values, word))
    return flags


def last_of_each(flags: Sequence[Flag]) -> list[Flag]:
    """Returns the flags without those that a later one of the same name replaces, in all commands or in its kind."""
    kept: dict[tuple[str, str], Flag] = {}
    for flag in flags:
        name = flag.name.lower()
        if not flag.only:
            kept = {key: value for key, value in kept.items() if key[0] != name}
        kept.pop((name, flag.only), None)
        kept[name, flag.only] = flag
    return list(kept.values())


def read_grid(path: Path) -> tuple[dict[str, list[str]], list[Flag]]:
    """Reads a TOML file; returns the lists of the grid as words, and the flags of its tables.

    Keys: the lists `datasets`, `models`, `methods`, `eps`, `seeds`, `attacks`, `epsilons`, `transfer`; tables `flags`,
    `train` and `test` with flags of the commands without their dashes. Raises `UserError` for anything else.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"cannot read the grid {path}: {error}") from error
    unknown = [key for key in content if key not in (*_LISTS, *_TABLES)]
    if unknown:
        known = ", ".join((*_LISTS, *_TABLES))
        raise UserError(f"{path}: unknown key {unknown[0]}: expected {known}")
    lists = {key: _words(path, key, content[key]) for key in _LISTS if key in content}
    flags = []
    for table, only in _TABLES.items():
        for name, value in content.get(table, {}).items():
            if value is not False:
                values = [] if value is True else _words(path, f"{table}.{name}", value)
                flags.append(Flag(f"--{name}", tuple(values), only))
    return lists, flags


def _words(path: Path, key: str, value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    if any(isinstance(item, bool | dict | list) for item in values):
        raise UserError(f"{path}: {key}: expected a text, a number, or a list of these")
    return [f"{item:g}" if isinstance(item, float) else str(item) for item in values]
