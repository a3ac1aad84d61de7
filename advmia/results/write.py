"""Writes result files: a CSV table and a JSON record, with one row for each attack at each eps.

Several runs may add rows to the same files at the same time, such as tests of one network under different attacks. Each
takes over what the others have added before it writes, under a lock that it holds only meanwhile, and a row is computed
by one of them only.
"""

from __future__ import annotations

import glob
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from advmia.budgets import Budget
from advmia.results.partial import PartialEvaluation
from advmia.results.read import RunRecord, results_at, warnings_in
from advmia.results.rows import CLEAN, OPTIONAL, WORST, ResultRow, RowKey
from advmia.runtime import distributed
from advmia.runtime.files import NAME_BYTES, csv_text, fitting_name, rename_existing, write_json, write_lock, write_text
from advmia.runtime.terminal import say

_LAST_COLUMNS = ("mean_l2", "mean_linf", "mean_queries", "warnings")
_JSON = ".json"
_DIGEST_DIGITS = 8  # of a run's settings, in a file's name
_KEPT_BYTES = 200  # of a long name, by `result_stem`
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
        self._seen: object = None  # the state of the files when their rows were taken over

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
        of another version, or damaged ones, are renamed; returns their new names. A probe is taken over too, unless
        packages have changed. Only in `locked`, if other runs may write the files meanwhile.
        """
        published_stem, named = self._stems
        own, published = results_at(_json_at(named)), results_at(_json_at(published_stem))
        self.stem = published_stem
        if own is not None or (published is not None and published.run != self.run):
            self.stem, published = named, own
        self.details.pop("probe", None)
        if published is None or published.run != self.run or published.unknown_keys:
            return rename_existing(self.csv_path, self.json_path)
        if "probe" in published.content and self._has_versions_of(published):
            self.details["probe"] = published.content["probe"]
        self.rows, rows = list(published.rows), self.rows
        self._append(rows)
        return []

    @contextmanager
    def locked(self) -> Iterator[list[Path]]:
        """Keeps other runs from writing the files during the block, and takes over first what they have written.

        Yields what `resume` returns. Does nothing in other processes than the main one.
        """
        if not distributed.is_main():
            yield []
            return
        with write_lock(self._stems[0], wait=True):
            yield self.resume() if self._state() != self._seen else []
            self._seen = self._state()

    @contextmanager
    def turn(self, *keys: RowKey) -> Iterator[bool]:
        """Yields whether rows of one evaluation, with these keys, are still to be computed and added (collective).

        If another run computes them now, waits until it has added them or has ended. No other run computes them during
        the block.
        """
        with ExitStack() as stack:
            if distributed.is_main() and len(self._with_keys(keys)) < len(keys):
                stack.enter_context(write_lock(self._evaluation_path(*keys[0][:3]), wait=True))
                with self.locked():
                    pass
            self.stem, rows = distributed.broadcast((self.stem, self._with_keys(keys)))
            self._append(rows)
            yield len(rows) < len(keys)

    @property
    def _stems(self) -> tuple[Path, Path]:
        """The published stem, and the one for a run whose settings are not those of the run that has this."""
        published = self.stem.with_name(self.published_name)
        return published, published.with_name(f"{self.published_name}.{_digest(self.run)}")

    def _state(self) -> list[tuple[Path, object]]:
        """Returns what changes when one of the files that `resume` reads is written."""
        return [(path, _identity(path)) for path in map(_json_at, self._stems)]

    def _has_versions_of(self, other: RunRecord) -> bool:
        return bool(other.content.get("versions") == self.details.get("versions"))

    def beside(self) -> Iterator[RunRecord]:
        """Yields the other results of the same target in the same folder, ordered by their files' names."""
        # All are named after the target, and long names keep these bytes. Reading any other file would only take time.
        beginning = os.fsencode(self.published_name.partition("__from__")[0])[:_KEPT_BYTES]
        for path in sorted(self.stem.parent.glob(f"*{_JSON}")):
            if path != self.json_path and os.fsencode(path.name).startswith(beginning):
                record = results_at(path)
                if record is not None and record.target == self.run["target_sha256"]:
                    yield record

    def clean_row_beside(self) -> ResultRow | None:
        """Returns the row of the clean images from results `beside`, if it is the same here; None if not (collective).

        It does not depend on the source or on random numbers, but on all else in `run`: the network, the images and the
        precision; and in its last digits on the versions of the packages and the device. On a GPU it is never taken:
        there, the last digits depend on the batch size too.
        """
        found, is_cpu = None, self.details["versions"]["device"] == "cpu"
        for other in self.beside() if is_cpu and distributed.is_main() else ():
            is_same = _without_attack(other.run) == _without_attack(self.run) and self._has_versions_of(other)
            row = next((row for row in other.rows if row.attack == CLEAN), None)
            if row is not None and is_same and not other.unknown_keys:
                say(f"the clean images are scored in {other.file} already")
                found = row
                break
        return distributed.broadcast(found)

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

    def _with_keys(self, keys: Sequence[RowKey]) -> list[ResultRow]:
        return [row for row in self.rows if row.key in keys]

    def partial_evaluation(self, attack: str, budget: Budget, restarts: int = 1) -> PartialEvaluation:
        """Returns this rank's partial progress on one attack at one eps."""
        share = f"{distributed.rank()}-of-{distributed.world_size()}"
        path = self._partial_path(attack, budget.grey_eps, restarts, share)
        evaluation = [self.run, attack, asdict(budget), share, *([restarts] if restarts > 1 else [])]
        return PartialEvaluation(path, evaluation)

    def add(self, *rows: ResultRow) -> None:
        """Appends rows of one evaluation, beside those that other runs have added; those that are there already stay.

        The main process writes both files and removes the partial progress of the evaluation. The rows `worst` at its
        eps are removed, since they do not know the new rows.
        """
        with self.locked():
            self._append(rows)
            if not distributed.is_main():
                return
            self.save()
            for row in rows:
                pattern = glob.escape(self._partial_path(row.attack, row.grey_eps, row.restarts, "").name) + "*"
                for path in self.stem.parent.glob(pattern):
                    path.unlink(missing_ok=True)

    def _append(self, rows: Iterable[ResultRow]) -> None:
        """Appends those of the rows that are not there, without rows `worst`, and removes these at their eps."""
        known = {row.key for row in self.rows}
        new = [row for row in rows if row.key not in known and row.attack != WORST]
        stale = {row.grey_eps for row in new}
        self.rows = [row for row in self.rows if row.attack != WORST or row.grey_eps not in stale] + new

    def _evaluation_path(self, attack: str, grey_eps: float, restarts: int) -> Path:
        name = fitting_name(self.stem.name, NAME_BYTES - _PARTIAL_BYTES)
        starts = f"-x{restarts}" if restarts > 1 else ""
        return self.stem.with_name(f"{name}.{attack}-{grey_eps:g}{starts}")

    def _partial_path(self, attack: str, grey_eps: float, restarts: int, share: str) -> Path:
        path = self._evaluation_path(attack, grey_eps, restarts)
        return path.with_name(f"{path.name}.unfinished-{share}")

    def save(self) -> None:
        """Writes both files. Only in `locked`, if other runs may write them meanwhile."""
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


def _json_at(stem: Path) -> Path:
    return stem.with_name(stem.name + _JSON)


def _identity(path: Path) -> tuple[int, ...]:
    """Returns what differs between files that were written to a path one after another; () if there is none."""
    try:
        facts = path.stat()
    except OSError:
        return ()
    return facts.st_ino, facts.st_mtime_ns, facts.st_size


def _without_attack(run: dict[str, Any]) -> dict[str, Any]:
    """Returns what of a run's facts the scores of the clean images depend on."""
    return {name: value for name, value in run.items() if name not in ("seed", "generator", "source_sha256")}


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
