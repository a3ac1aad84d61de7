"""Tables of transfer attacks: sources in rows, targets in columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count, groupby
from pathlib import Path

from advmia.results.cells import score_cell, score_of, seeds_notes
from advmia.results.differences import caption_facts, network_names
from advmia.results.layout import Cell, Table
from advmia.results.read import RunRecord
from advmia.results.rows import CLEAN
from advmia.results.scored import Column, ScoredRun, Value, column_heads
from advmia.results.scores import MAIN_SCORES
from advmia.results.seeds import ANOTHER_SEED


def transfer_tables(runs: Sequence[ScoredRun]) -> list[Table]:
    """Returns a table for each data set, attack and eps that was tested with another source than the target."""
    tables = []
    for _, group in groupby(sorted(runs, key=_comparison), key=_comparison):
        comparable = list(group)
        same_dataset = [run for run in runs if run.record.dataset == comparable[0].record.dataset]
        names = network_names([run.record for run in same_dataset])
        conditions = _conditions(comparable[0].record) if len(set(map(_comparison, same_dataset))) > 1 else ""
        transfer_columns = {column for run in comparable if run.record.is_transfer for column in run.values}
        for column, head in column_heads(comparable).items():
            if column in transfer_columns and column.attack != CLEAN:
                tables.append(_transfer_table(comparable, column, head, names, conditions))
    return tables


def _comparison(run: ScoredRun) -> tuple[str, tuple[str, ...]]:
    """Returns the key of runs that may be in one table: data set, seed, size and images."""
    return run.record.dataset, run.record.conditions


def _conditions(record: RunRecord) -> str:
    """Returns what a title adds where a data set has several tables for an attack and eps."""
    seed, size, _, digest, pixels = record.conditions
    return f" (seed {seed}, size {size}, list {digest[:8]}, pixels {pixels})"


def _transfer_table(
    runs: Sequence[ScoredRun], column: Column, head: str, names: dict[str, str], conditions: str
) -> Table:
    """Returns the table of one attack at one eps; its last row has the targets' clean scores.

    `head`: the text for `column`. `names`: the networks' names by the SHA-256 of their weights, in the order of the
    table. `conditions`: what tells the title from those of other tables.
    """
    attacked = [run for run in runs if column in run.values]
    tested = {run.record.target for run in attacked}
    targets = [target for target in names if target in tested]
    record = attacked[0].record
    score_name = MAIN_SCORES[record.task.name][0]
    lines = [
        (name, [_entry(by_target.get(target), column, score_name) for target in targets])
        for name, by_target in _by_source(attacked, names)
    ]
    lines.append(("none: clean", [_clean_entry(runs, target, score_name) for target in targets]))
    score = score_of(score_name, [[entry.value for entry in entries] for _, entries in lines])
    rows = tuple(
        (Cell(name), *(replace(score_cell(entry.value, score), warned=bool(entry.warning)) for entry in entries))
        for name, entries in lines
    )
    warnings = [
        [
            f"to {names[target]}: {entry.warning}"
            for entry, target in zip(entries, targets, strict=True)
            if entry.warning
        ]
        for _, entries in lines
    ]
    footnotes = [f"{name} {text}" for (name, _), texts in zip(lines, warnings, strict=True) for text in texts]
    title = (
        f"{record.dataset}: transfer of {head}, source (rows) to target (columns); {score.heading} of the target on"
        f" {record.images} images{conditions}"
    )
    header = ("source", *(names[target] for target in targets))
    shown = seeds_notes(entry.value for _, entries in lines for entry in entries)
    notes = (*shown, *dict.fromkeys(run.note for run in attacked if run.note))
    facts = caption_facts([run.record for run in attacked])
    return Table(title, header, rows, notes, tuple(map("; ".join, warnings)), tuple(footnotes), facts=facts)


@dataclass(frozen=True)
class _Entry:
    """A cell's score, None where nothing was measured, and what the checks of its run warn of."""

    value: Value | None = None
    warning: str = ""


def _entry(run: ScoredRun | None, column: Column, score_name: str) -> _Entry:
    value = run.get(column, score_name) if run else None
    return _Entry(value, "; ".join(run.record.warnings)) if run and value else _Entry()


def _by_source(runs: Sequence[ScoredRun], names: dict[str, str]) -> list[tuple[str, dict[str, ScoredRun]]]:
    """Returns the rows of a table: each source's name, and its runs by target.

    A second run of the same source and target goes into a further row.
    """
    by_row: dict[tuple[str, int], dict[str, ScoredRun]] = {}  # (source, number of its row): run by target
    for run in runs:
        source, target = run.record.source, run.record.target
        number = next(number for number in count() if target not in by_row.get((source, number), {}))
        by_row.setdefault((source, number), {})[target] = run
    order = {sha256: position for position, sha256 in enumerate(names)}
    rows = []
    for source, number in sorted(by_row, key=lambda key: (order.get(_network(key[0]), len(order)), key)):
        by_target = by_row[source, number]
        name = names.get(_network(source), "") + source.removeprefix(_network(source))
        name = name if _network(source) in names else _source_name(next(iter(by_target.values())).record)
        files = ", ".join(run.record.file_name for run in by_target.values())
        rows.append((f"{name} (again: {files})" if number else name, by_target))
    return rows


def _network(source: str) -> str:
    """Returns the network that a source is, or is another seed of."""
    return source.removesuffix(ANOTHER_SEED)


def _source_name(record: RunRecord) -> str:
    """Returns a name for a source that is no run's target, of which only the file is known."""
    content = record.content
    return f"{content['source_model']} {Path(content['source_weight']).name} (weights {record.source[:8]})"


def _clean_entry(runs: Sequence[ScoredRun], target: str, score_name: str) -> _Entry:
    """Returns the target's clean score from the first run that has one, white-box runs before others."""
    entries = (
        _entry(run, column, score_name)
        for run in sorted(runs, key=lambda run: run.record.is_transfer)
        for column in run.values
        if run.record.target == target and column.attack == CLEAN
    )
    return next(entries, _Entry())
