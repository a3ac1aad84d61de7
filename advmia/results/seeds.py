"""Groups runs that are equal but for the seed of the training, and averages their scores over the seeds.

What follows from the seed is not compared: the weights, and those of HAT's helper if its own training is equal but for
the seed. All else is: every other setting of the training, the images, and every setting of the test.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import isnan
from pathlib import Path
from typing import Any

from advmia.results.read import RunRecord
from advmia.results.scored import Column, ScoredRun, Value
from advmia.runtime.files import read_json_object

ANOTHER_SEED = " (another seed)"  # behind the name of a source whose training is the target's but for the seed
_TWICE = "is not averaged over seeds: a seed has several results or networks"
_HELPER = "is not averaged over seeds: the training of its helper is not known (test the helper too)"
_Facts = dict[str, Any]


@dataclass(frozen=True)
class SeedsRecord(RunRecord):
    """The results of networks that are equal but for the seed of their training, as one row of a table.

    Whatever is not said here is that of the first one.
    """

    parts: tuple[RunRecord, ...] = ()  # in the order of their seeds
    target_name: str = ""  # stands for the weights of the target, in all results of the same training
    source_name: str = ""

    @property
    def target(self) -> str:
        return self.target_name

    @property
    def source(self) -> str:
        return self.source_name

    @property
    def training(self) -> _Facts | None:
        """The settings of the training, in which `seed` names all seeds, e.g. `0-2`."""
        return {**(self.parts[0].training or {}), "seed": _seeds_text([_seed_of(part) for part in self.parts])}

    @property
    def warnings(self) -> list[str]:
        """The warnings of all parts, with their seeds where there are several."""
        if len(self.parts) == 1:
            return self.parts[0].warnings
        return [f"seed {_seed_of(part)}: {warning}" for part in self.parts for warning in part.warnings]

    @property
    def is_unfinished(self) -> bool:
        return any(part.is_unfinished for part in self.parts)


def group_seeds(runs: Sequence[ScoredRun]) -> list[ScoredRun]:
    """Returns the runs with those averaged that are equal but for the seed, each at the place of the first of them.

    A run stays as it is if there is no other seed of its training. One that cannot be averaged has a `note`.
    """
    families = _Families([run.record for run in runs])
    groups: dict[object, list[ScoredRun]] = defaultdict(list)
    for number, run in enumerate(runs):
        has_seeds = families.has_seeds(run.record)
        groups[families.run_key(run.record) if has_seeds else number].append(run)
    grouped: list[ScoredRun] = []
    for key, members in groups.items():
        if isinstance(key, int):
            grouped.append(replace(members[0], note=families.note(members[0].record)))
        elif len({_seed_of(run.record) for run in members}) < len(members):
            grouped += [replace(families.merged([run]), note=f"{run.record.method} {_TWICE}") for run in members]
        else:
            grouped.append(families.merged(sorted(members, key=lambda run: _seed_of(run.record))))
    return grouped


class _Families:
    """The networks of all runs, by their training without its seed: a family."""

    def __init__(self, records: Sequence[RunRecord]) -> None:
        self._trainings: dict[str, _Facts] = {}  # settings by the SHA-256 of the weights
        for record in records:
            trained = {record.source: record.content.get("source_training"), record.target: record.training}
            self._trainings |= {sha256: facts for sha256, facts in trained.items() if facts}
        networks = list(self._trainings.items())
        self._add_helpers(records)
        self._members: dict[str, dict[str, int]] = defaultdict(dict)  # by family: seeds by SHA-256
        self._seeds_of_unknown: dict[str, set[int]] = defaultdict(set)  # by training without its unknown helper
        for sha256, facts in networks:
            if isinstance(facts.get("seed"), int):
                self._members[self._family(facts)][sha256] = facts["seed"]
                if self._has_unknown_helper(facts):
                    self._seeds_of_unknown[self._family({**facts, "helper": None})].add(facts["seed"])

    def has_seeds(self, record: RunRecord) -> bool:
        """Returns whether the target is one of several that are equal but for the seed, each seed once."""
        members = self._members_with(record.target)
        seeds = set(members.values())
        is_recorded = (record.training or {}).get("seed") == members.get(record.target, "unknown")
        return is_recorded and len(seeds) > 1 and len(seeds) == len(members)

    def note(self, record: RunRecord) -> str:
        """Returns why the runs of a target are not averaged, where another seed would let one expect it."""
        members = self._members_with(record.target)
        if len(members) > len(set(members.values())) > 1:
            return f"{record.method} {_TWICE}"
        facts = self._trainings.get(record.target)
        if facts and self._has_unknown_helper(facts):
            alike = self._seeds_of_unknown[self._family({**facts, "helper": None})]
            return f"{record.method} {_HELPER}" if len(alike) > 1 else ""
        return ""

    def run_key(self, record: RunRecord) -> str:
        """Returns what runs have in common that may be averaged."""
        tested = {name: value for name, value in record.run.items() if not name.endswith("_sha256")}
        names = [record.dataset, record.model, record.content["source_model"], self._name(record.target)]
        return _text([*names, self._source_name(record), tested])

    def merged(self, runs: Sequence[ScoredRun]) -> ScoredRun:
        """Returns the mean of runs of one group, which are in the order of their seeds."""
        records = tuple(run.record for run in runs)
        first = records[0]
        record = SeedsRecord(
            first.file,
            first.content,
            first.rows,
            first.shown_file,
            parts=records,
            target_name=self._name(first.target),
            source_name=self._source_name(first),
        )
        columns = dict.fromkeys(column for run in runs for column in run.values)
        return ScoredRun(record, {column: _means(column, runs) for column in columns})

    def _name(self, sha256: str) -> str:
        """Returns what stands for a network in tables: the SHA-256 of the family's network of the lowest seed."""
        members = self._members_with(sha256)
        return min(members, key=lambda name: members[name], default=sha256)

    def _source_name(self, record: RunRecord) -> str:
        target, source = self._name(record.target), self._name(record.source)
        return source + ANOTHER_SEED if record.is_transfer and source == target else source

    def _members_with(self, sha256: str) -> dict[str, int]:
        """Returns the seeds, by SHA-256, of all networks that are equal to one but for the seed."""
        facts = self._trainings.get(sha256)
        return self._members.get(self._family(facts), {}) if facts else {}

    def _family(self, facts: _Facts) -> str:
        """Returns a training without its seed as text, with the helper's training in place of the helper's SHA-256."""
        helper = self._trainings.get(str(facts.get("helper")))
        own = {**facts, "seed": None}
        return _text(own if helper is None else {**own, "helper": {**helper, "seed": None}})

    def _has_unknown_helper(self, facts: _Facts) -> bool:
        return facts.get("helper") is not None and facts["helper"] not in self._trainings

    def _add_helpers(self, records: Iterable[RunRecord]) -> None:
        """Adds the trainings of helpers that no run has tested, from the records beside the targets."""
        searched: set[Path] = set()
        for record in records:
            if not self._has_unknown_helper(record.training or {}):
                continue
            for folder in {path.parent for path in record.checkpoint_paths()} - searched:
                searched.add(folder)
                for found in map(read_json_object, folder.glob("*.json")):
                    sha256, settings = (found or {}).get("weights_sha256"), (found or {}).get("settings")
                    if isinstance(sha256, str) and isinstance(settings, dict):
                        self._trainings.setdefault(sha256, settings)


def _means(column: Column, runs: Sequence[ScoredRun]) -> dict[str, Value]:
    """Returns the mean of each score of a column over the runs that have it and in which it is defined."""
    means = {}
    for name in dict.fromkeys(name for run in runs for name in run.values.get(column, {})):
        found = [value for run in runs if (value := run.get(column, name)) is not None]
        defined = tuple(value for value in found if not isnan(value.score))
        if not defined:
            means[name] = found[0]
            continue
        interval = defined[0].interval if len(defined) == 1 else None
        means[name] = Value(statistics.fmean(value.score for value in defined), interval, seeds=defined)
    return means


def _seed_of(record: RunRecord) -> int:
    return int((record.training or {})["seed"])


def _seeds_text(seeds: Sequence[int]) -> int | str:
    """Returns e.g. 1, `0-2` or `0, 2`; how many there are where that is too long for a cell."""
    if len(seeds) == 1:
        return seeds[0]
    if list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}-{seeds[-1]}"
    text = ", ".join(map(str, seeds))
    return text if len(text) < 24 else f"{len(seeds)} of {seeds[0]}-{seeds[-1]}"


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)
