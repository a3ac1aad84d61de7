"""Writes result files: a CSV table and a JSON record, with one row for each attack at each eps."""

from __future__ import annotations

import glob
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from advmia.budgets import Budget
from advmia.results.partial import PartialEvaluation
from advmia.results.read import RunRecord, results_at, warnings_in
from advmia.results.rows import OPTIONAL, WORST, ResultRow
from advmia.runtime import distributed
from advmia.runtime.files import NAME_BYTES, csv_text, fitting_name, rename_existing, write_json, write_text

_LAST_COLUMNS = ("mean_l2", "mean_linf", "mean_queries", "warnings")
_JSON = ".json"
_DIGEST_DIGITS = 8  # of a run's settings, in a file's name
_PARTIAL_BYTES = 60  # that the name of partial progress may have beside the stem: attack, eps, restarts, rank, ranks


@dataclass
class ResultFile:
    """The results of a target, attacked through a source, on one list: `<stem>.csv` and `<stem>.json`.

    `resume` appends `.<digest>` to the stem where another run has the name.
    """

    stem: Path
    facts: dict[str, Any]  # the first columns of the CSV file: data set, target and source
    score_names: Sequence[str]
    run: dict[str, Any]  # all that the outcomes depend on: a file never mixes rows of two runs
    details: dict[str, Any]  # further facts for the JSON file: versions, samples, probe and checks
    rows: list[ResultRow] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.published_name = self.stem.name

    @property
    def csv_path(self) -> Path:
        return self.stem.with_name(self.stem.name + ".csv")

    @property
    def json_path(self) -> Path:
        return self.stem.with_name(self.stem.name + _JSON)

    @property
    def is_transfer(self) -> bool:
        """Whether the source is another network than the target."""
        return self.run["source_sha256"] != self.run["target_sha256"]

    def resume(self) -> list[Path]:
        """Takes over the rows of an earlier file of the same run, or chooses a name that no other run has.

        Where a run with other settings has the published name, a digest of this run's settings is appended to it. Files
        of another version, or damaged ones, are renamed; returns their new names.
        """
        named = self.stem.with_name(f"{self.stem.name}.{_digest(self.run)}")
        own, published = self._earlier_at(named), self._earlier_at(self.stem)
        if own is not None or (published is not None and published.run != self.run):
            self.stem, published = named, own
        if published is not None and published.run == self.run and not published.unknown_keys:
            self.rows = list(published.rows)
            return []
        return rename_existing(self.csv_path, self.json_path)

    def _earlier_at(self, stem: Path) -> RunRecord | None:
        return results_at(stem.with_name(stem.name + _JSON))

    def find(self, attack: str, grey_eps: float, restarts: int = 1, *, eight_bits: bool = False) -> ResultRow | None:
        """Returns the row of an attack at an eps in grey levels; None if there is none yet.

        `restarts`: with that many random starts. `eight_bits`: of the attacked images rounded to 8 bits.
        """
        key = (attack, grey_eps, restarts, eight_bits)
        return next((row for row in self.rows if row.key == key), None)

    def row(self, attack: str, grey_eps: float, restarts: int = 1, *, eight_bits: bool = False) -> ResultRow:
        """Returns the row of an attack at an eps in grey levels, which must exist; arguments as for `find`."""
        row = self.find(attack, grey_eps, restarts, eight_bits=eight_bits)
        assert row is not None, f"no row of {attack} at eps {grey_eps}"
        return row

    def partial_evaluation(self, attack: str, budget: Budget, restarts: int = 1) -> PartialEvaluation:
        """Returns this rank's partial progress on one attack at one eps."""
        share = f"{distributed.rank()}-of-{distributed.world_size()}"
        path = self._partial_path(attack, budget.grey_eps, restarts, share)
        evaluation = [self.run, attack, asdict(budget), share, *([restarts] if restarts > 1 else [])]
        return PartialEvaluation(path, evaluation)

    def add(self, *rows: ResultRow) -> None:
        """Appends rows of one evaluation; the main process writes both files and removes its partial progress.

        The rows `worst` at their eps are removed, since they do not know the new rows.
        """
        stale = {row.grey_eps for row in rows}
        self.rows = [row for row in self.rows if row.attack != WORST or row.grey_eps not in stale] + list(rows)
        if distributed.is_main():
            self.save()
            for row in rows:
                pattern = glob.escape(self._partial_path(row.attack, row.grey_eps, row.restarts, "").name) + "*"
                for path in self.stem.parent.glob(pattern):
                    path.unlink(missing_ok=True)

    def _partial_path(self, attack: str, grey_eps: float, restarts: int, share: str) -> Path:
        name = fitting_name(self.stem.name, NAME_BYTES - _PARTIAL_BYTES)
        starts = f"-x{restarts}" if restarts > 1 else ""
        return self.stem.with_name(f"{name}.{attack}-{grey_eps:g}{starts}.unfinished-{share}")

    def save(self) -> None:
        """Writes both files."""
        header = [*self.facts, "attack", "eps", "steps", "step_size", "n", *self.score_names, "seconds", *_LAST_COLUMNS]
        used = [name for name, default in OPTIONAL.items() if any(getattr(row, name) != default for row in self.rows)]
        lines = [[*self._csv_line(row), *(_cell(getattr(row, name)) for name in used)] for row in self.rows]
        write_text(self.csv_path, csv_text([[*header, *used], *lines]))
        rows = [row.to_json() for row in self.rows]
        write_json(self.json_path, {**self.facts, "run": self.run, **self.details, "rows": rows})

    def _csv_line(self, row: ResultRow) -> list[object]:
        budget = [row.attack, f"{row.grey_eps:g}", row.steps, f"{row.grey_step_size:g}"]
        values = [row.scores.get(name, math.nan) for name in self.score_names]
        scores = ["" if math.isnan(value) else f"{value:.6f}" for value in values]
        distances = (row.l2, row.grey_linf, row.queries)
        means = ["" if value is None or math.isnan(value) else f"{value:.6g}" for value in distances]
        warnings = "; ".join(warnings_in(self.details))
        return [*self.facts.values(), *budget, row.n, *scores, f"{row.seconds:.3f}", *means, warnings]


def _cell(value: object) -> object:
    """Returns the cell of an optional column: names with semicolons between them, or whether something is so."""
    if isinstance(value, list):
        return "; ".join(value)
    return ("yes" if value else "no") if isinstance(value, bool) else value


def result_stem(folder: Path, dataset: str, target: Path, source: Path | None, source_mark: str = "") -> Path:
    """Returns `<folder>/<dataset>__<target file>`; results of transfer attacks add `__from__<mark><source file>`.

    `source`: None for white-box results. `source_mark`: what the source's file name does not say of it. A name that is
    too long for a file ends in a digest; the record holds the whole names.
    """
    name = f"{dataset}__{target.name}" + (f"__from__{source_mark}{source.name}" if source else "")
    return folder / fitting_name(name, NAME_BYTES - len(_JSON) - 1 - _DIGEST_DIGITS)


def _digest(run: dict[str, Any]) -> str:
    """Returns eight digits that differ between runs with other settings."""
    return hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()[:_DIGEST_DIGITS]
