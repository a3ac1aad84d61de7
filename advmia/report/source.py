"""The results that a page is of: read once, scored once, and named."""

from __future__ import annotations

import os
import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from advmia.data.datasets import DATASETS
from advmia.results.differences import network_names, run_names
from advmia.results.read import RunRecord, read_records
from advmia.results.rows import WORST, is_bounded
from advmia.results.scored import Column, ScoredRun, score_run
from advmia.results.scores import MAIN_SCORES
from advmia.results.seeds import group_seeds
from advmia.results.tables import white_box_groups
from advmia.tasks import MULTI_LABEL, SEGMENTATION, SINGLE_LABEL

_LABELS: dict[str, type] = {SINGLE_LABEL.name: int, MULTI_LABEL.name: list, SEGMENTATION.name: str}


@dataclass(frozen=True)
class Options:
    """What the command line asks for beside the results."""

    scores: tuple[str, ...] = ()  # further scores that get tables
    per_seed: bool = False  # whether trainings that are equal but for their seed are shown each by itself
    maps: tuple[Path, ...] = ()  # folders of Grad-CAM maps


@dataclass(frozen=True)
class Source:
    """All results of a page.

    Files are named by their paths as the command line gives them; of an absolute path, only the part from the folder
    on that all given paths have in common, so that the page does not depend on where the results lie.
    """

    words: tuple[str, ...]  # the given paths, as the page shows them
    files: tuple[ScoredRun, ...]  # a run for each file, in the order of the tables
    rows: tuple[ScoredRun, ...]  # the rows of the tables: runs over seeds where there are several
    options: Options
    shown_maps: tuple[str, ...] = ()  # the folders of Grad-CAM maps, as the page shows them

    @classmethod
    def read(cls, paths: Sequence[Path], options: Options) -> Source:
        """Reads and scores the result files at `paths`. Raises `UserError` as `read_records` and `score_run` do."""
        shown = _Shown([*paths, *options.maps])
        records = [replace(record, shown_file=shown.name(record.file)) for record in read_records(paths)]
        files = tuple(map(score_run, records))
        rows = files if options.per_seed else tuple(group_seeds(files))
        return cls(tuple(map(shown.name, paths)), files, rows, options, tuple(map(shown.name, options.maps)))

    @property
    def groups(self) -> list[list[ScoredRun]]:
        """The rows of white-box results, by data set and model."""
        return white_box_groups(self.rows)

    def command(self, tool: str, *further: str) -> str:
        """Returns the command line of a tool on the same results."""
        words = [*self.words, *(["--perSeed"] if self.options.per_seed else []), *further]
        return f"python -m advmia {tool} {shlex.join(words)}"

    @cached_property
    def names(self) -> dict[str, str]:
        """A name for each file, by the file's name: data set, network, and what tells it from the others."""
        names = {}
        for group in white_box_groups(self.files):
            first = group[0].record
            for run, name in zip(group, run_names([run.record for run in group]), strict=True):
                names[run.record.file_name] = f"{first.dataset}, {first.model}: {name}"
        for dataset, runs in self._by_dataset().items():
            networks = network_names([run.record for run in runs])
            for record in (run.record for run in runs if run.record.is_transfer):
                source = networks.get(record.source, Path(record.content["source_weight"]).name)
                names[record.file_name] = f"{dataset}: {networks[record.target]}, attacked through {source}"
        return _told_apart(names)

    def _by_dataset(self) -> dict[str, list[ScoredRun]]:
        found = defaultdict(list)
        for run in self.files:
            found[run.record.dataset].append(run)
        return found


class _Shown:
    """Names paths without the folders above those that were given."""

    def __init__(self, paths: Sequence[Path]) -> None:
        absolute = [path.parent for path in paths if path.is_absolute()]
        self._root = os.path.commonpath(absolute) if absolute else ""

    def name(self, path: Path) -> str:
        return os.path.relpath(path, self._root) if path.is_absolute() else str(path)


def _told_apart(names: dict[str, str]) -> dict[str, str]:
    """Returns the names, with the file's beside those that several files have."""
    counts: dict[str, int] = defaultdict(int)
    for name in names.values():
        counts[name] += 1
    return {file: name if counts[name] == 1 else f"{name} ({file})" for file, name in names.items()}


def samples_of(record: RunRecord, name: str) -> list[Any]:
    """Returns what a file says of each image: `file` or `label`; [] where it does not say it of all images.

    Labels are a class for each image, or 0 or 1 for each of its findings, or the file of its mask.
    """
    samples = record.content.get("samples")
    values = samples.get(name) if isinstance(samples, dict) else None
    if not isinstance(values, list) or len(values) != record.images:
        return []
    kind = str if name == "file" else _LABELS[record.task.name]
    return values if all(isinstance(value, kind) for value in values) else []


def patient_count(record: RunRecord) -> int | None:
    """Returns the number of patients that a file's images are of; None where their names do not say it."""
    pattern = _declared(record, "patients")
    if not isinstance(pattern, str):
        spec = DATASETS.get(record.dataset.partition("[")[0])
        pattern = spec.patients if spec else ""
    found = [re.search(pattern, name) for name in samples_of(record, "file")] if pattern else []
    patients = {match[1] for match in found if match}
    return len(patients) if found and all(found) else None


def main_score(record: RunRecord) -> str:
    """Returns the name of the score by which a file's task compares networks."""
    return MAIN_SCORES[record.task.name][0]


def attack_columns(runs: Iterable[ScoredRun]) -> dict[float, list[Column]]:
    """Returns the columns of single attacks that stay within their eps, by eps in grey levels, in ascending order."""
    found: dict[float, list[Column]] = defaultdict(list)
    for column in sorted({column for run in runs for column in run.values}, key=Column.order):
        if column.grey_eps > 0 and column.attack != WORST and is_bounded(column.attack):
            found[column.grey_eps].append(column)
    return dict(sorted(found.items()))


def class_names(record: RunRecord, classes: int) -> list[str]:
    """Returns names for the classes 0 to `classes` - 1 of a file: those that its data set declares, or `class 1`."""
    names = _declared(record, "classes")
    if not isinstance(names, list):
        spec = DATASETS.get(record.dataset.partition("[")[0])
        names = list(spec.class_names) if spec else []
    return [str(names[number]) if number < len(names) else f"class {number}" for number in range(classes)]


def _declared(record: RunRecord, key: str) -> Any:
    """Returns what the user's declaration of the data set says; None for the survey's data sets."""
    declaration = record.run.get("declaration")
    return declaration.get(key) if isinstance(declaration, dict) else None
