"""Writes result files: a CSV table and a JSON record, with one row for each attack at each eps."""

from __future__ import annotations

import glob
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from advmia.budgets import Budget
from advmia.results.partial import PartialEvaluation
from advmia.results.read import results_at
from advmia.results.rows import ResultRow
from advmia.runtime import distributed
from advmia.runtime.files import csv_text, rename_existing, write_json, write_text

_LAST_COLUMNS = ("mean_l2", "mean_linf", "mean_queries")


@dataclass
class ResultFile:
    """The results of a target, attacked through a source, on one list: `<stem>.csv` and `<stem>.json`."""

    stem: Path
    facts: dict[str, Any]  # the first columns of the CSV file: data set, target and source
    score_names: Sequence[str]
    run: dict[str, Any]  # all that the outcomes depend on: a file never mixes rows of two runs
    details: dict[str, Any]  # further facts for the JSON file: versions, samples, probe and checks
    rows: list[ResultRow] = field(default_factory=list)

    @property
    def csv_path(self) -> Path:
        return self.stem.with_name(self.stem.name + ".csv")

    @property
    def json_path(self) -> Path:
        return self.stem.with_name(self.stem.name + ".json")

    @property
    def is_transfer(self) -> bool:
        """Whether the source is another network than the target."""
        return self.run["source_sha256"] != self.run["target_sha256"]

    def resume(self) -> list[Path]:
        """Takes over the rows of an earlier file of the same run.

        Files of another run, of another version, or damaged ones are renamed; returns their new names.
        """
        earlier = results_at(self.json_path)
        if earlier is not None and earlier.run == self.run and not earlier.unknown_keys:
            self.rows = list(earlier.rows)
            return []
        return rename_existing(self.csv_path, self.json_path)

    def find(self, attack: str, grey_eps: float) -> ResultRow | None:
        """Returns the row of an attack at an eps in grey levels; None if there is none yet."""
        return next((row for row in self.rows if (row.attack, row.grey_eps) == (attack, grey_eps)), None)

    def row(self, attack: str, grey_eps: float) -> ResultRow:
        """Returns the row of an attack at an eps in grey levels, which must exist."""
        row = self.find(attack, grey_eps)
        assert row is not None, f"no row of {attack} at eps {grey_eps}"
        return row

    def partial_evaluation(self, attack: str, budget: Budget) -> PartialEvaluation:
        """Returns this rank's partial progress on one attack at one eps."""
        share = f"{distributed.rank()}-of-{distributed.world_size()}"
        path = self._partial_path(attack, budget.grey_eps, share)
        return PartialEvaluation(path, [self.run, attack, asdict(budget), share])

    def add(self, row: ResultRow) -> None:
        """Appends a row; the main process writes both files and removes the partial progress of the row."""
        self.rows.append(row)
        if distributed.is_main():
            self.save()
            pattern = glob.escape(self._partial_path(row.attack, row.grey_eps, "").name) + "*"
            for path in self.stem.parent.glob(pattern):
                path.unlink(missing_ok=True)

    def _partial_path(self, attack: str, grey_eps: float, share: str) -> Path:
        return self.stem.with_name(f"{self.stem.name}.{attack}-{grey_eps:g}.unfinished-{share}")

    def save(self) -> None:
        """Writes both files."""
        header = [*self.facts, "attack", "eps", "steps", "step_size", "n", *self.score_names, "seconds", *_LAST_COLUMNS]
        write_text(self.csv_path, csv_text([header, *map(self._csv_line, self.rows)]))
        rows = [row.to_json() for row in self.rows]
        write_json(self.json_path, {**self.facts, "run": self.run, **self.details, "rows": rows})

    def _csv_line(self, row: ResultRow) -> list[object]:
        budget = [row.attack, f"{row.grey_eps:g}", row.steps, f"{row.grey_step_size:g}"]
        values = [row.scores.get(name, math.nan) for name in self.score_names]
        scores = ["" if math.isnan(value) else f"{value:.6f}" for value in values]
        means = ["" if value is None else f"{value:.6g}" for value in (row.l2, row.grey_linf, row.queries)]
        return [*self.facts.values(), *budget, row.n, *scores, f"{row.seconds:.3f}", *means]


def result_stem(folder: Path, dataset: str, target: Path, source: Path) -> Path:
    """Returns `<folder>/<dataset>__<target file>`; results of transfer attacks add `__from__<source file>`."""
    name = f"{dataset}__{target.name}"
    return folder / (name if source == target else f"{name}__from__{source.name}")
