"""Result files: one CSV row per (attack, eps), and a JSON record with the outcome of each image."""

from __future__ import annotations

import glob
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from advmia.budgets import Budget
from advmia.results.partial import PartialEvaluation
from advmia.runtime import distributed
from advmia.runtime.files import csv_text, read_json_object, rename_existing, write_json, write_text

CLEAN = "none"  # the attack of the clean row
_MEANS = ("mean_l2", "mean_linf", "mean_queries")  # last columns of the CSV file


@dataclass(frozen=True)
class ResultRow:
    """One evaluation: an attack at one eps, or the clean images. eps and step_size are grey levels out of 255."""

    attack: str
    eps: float
    steps: int
    step_size: float
    n: int  # images
    scores: dict[str, float]
    seconds: float
    outcomes: list[Any]  # of each image, in the order of the record's `samples`
    l2: float = 0.0  # mean over the images of how far they were moved, pixels in [0, 1]
    linf: float = 0.0  # likewise, in grey levels out of 255 as eps
    queries: float | None = None  # mean over the images, of attacks that count them
    losses: list[str] = field(default_factory=list)  # that the attack ascended
    notes: dict[str, list[Any]] = field(default_factory=dict)  # of each image: "l2", "linf" and what the attack noted


@dataclass
class ResultFile:
    """The results of one target (and source) on one list: `<stem>.csv` and `<stem>.json`, rewritten after each row."""

    stem: Path
    facts: dict[str, Any]  # the first columns: data set, target and source
    score_names: Sequence[str]
    run: dict[str, Any]  # all that the outcomes depend on; rows of another run are never mixed in
    record: dict[str, Any]  # further facts for the reader: versions, samples
    rows: list[ResultRow] = field(default_factory=list)

    @property
    def csv_path(self) -> Path:
        return self.stem.with_name(self.stem.name + ".csv")

    @property
    def json_path(self) -> Path:
        return self.stem.with_name(self.stem.name + ".json")

    def resume(self) -> list[Path]:
        """Takes over the rows of an earlier, equal run; sets files of any other run aside and returns their names."""
        earlier = read_results(self.json_path) if self.json_path.exists() else None
        if earlier is not None and earlier.get("run") == self.run:
            with suppress(KeyError, TypeError, AttributeError):  # of rows that are damaged
                self.rows = [_row(row) for row in earlier["rows"]]
                return []
        return rename_existing(self.csv_path, self.json_path)

    def find(self, attack: str, eps: float) -> ResultRow | None:
        return next((row for row in self.rows if (row.attack, row.eps) == (attack, eps)), None)

    def row(self, attack: str, eps: float) -> ResultRow:
        """One that is known to be there."""
        found = self.find(attack, eps)
        assert found is not None, f"no row of {attack} at eps {eps}"
        return found

    def partial_evaluation(self, attack: str, budget: Budget) -> PartialEvaluation:
        """Returns this rank's partial progress on one attack."""
        share = f"{distributed.rank()}-of-{distributed.world_size()}"
        path = self._kept(attack, budget.grey_eps, share)
        return PartialEvaluation(path, [self.run, attack, asdict(budget), share])

    def add(self, row: ResultRow) -> None:
        """Appends a row; the main process writes both files and removes the partial progress on that attack."""
        self.rows.append(row)
        if distributed.is_main():
            self.save()
            for path in self.stem.parent.glob(glob.escape(self._kept(row.attack, row.eps, "").name) + "*"):
                path.unlink(missing_ok=True)

    def _kept(self, attack: str, eps: float, share: str) -> Path:
        return self.stem.with_name(f"{self.stem.name}.{attack}-{eps:g}.unfinished-{share}")

    def save(self) -> None:
        table: list[list[object]] = [
            [*self.facts, "attack", "eps", "steps", "step_size", "n", *self.score_names, "seconds", *_MEANS]
        ]
        for row in self.rows:
            values = [row.scores.get(name, math.nan) for name in self.score_names]
            scores = ["" if math.isnan(value) else f"{value:.6f}" for value in values]
            means = ["" if value is None else f"{value:.6g}" for value in (row.l2, row.linf, row.queries)]
            budget = [row.attack, f"{row.eps:g}", row.steps, f"{row.step_size:g}"]
            table.append([*self.facts.values(), *budget, row.n, *scores, f"{row.seconds:.3f}", *means])
        write_text(self.csv_path, csv_text(table))
        whole = {**self.facts, "run": self.run, **self.record, "rows": [vars(row) for row in self.rows]}
        write_json(self.json_path, whole)


def _row(written: dict[str, Any]) -> ResultRow:
    """A row as it was before it was written: JSON's null is an undefined score."""
    scores = {name: math.nan if score is None else score for name, score in written["scores"].items()}
    return ResultRow(**{**written, "scores": scores})


def read_results(path: Path) -> dict[str, Any] | None:
    """The JSON record at `path`; None when it is no result file."""
    record = read_json_object(path)
    return record if record is not None and "rows" in record and "run" in record else None


def result_stem(folder: Path, dataset: str, target: Path, source: Path) -> Path:
    """`<folder>/<dataset>__<target file>[__from__<source file>]`; white-box results name no source."""
    name = f"{dataset}__{target.name}"
    return folder / (name if source == target else f"{name}__from__{source.name}")
