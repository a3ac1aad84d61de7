"""From result files to the survey's tables, and curves over eps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, groupby
from pathlib import Path

from advmia.results.cells import _DEFAULT, Column, ScoredRun, Value, _is_percent, _measure, _text, _writer, columns
from advmia.results.differences import network_names
from advmia.results.read import RunRecord
from advmia.results.record import CLEAN
from advmia.results.render import Cell, Table


def transfer_tables(scored: Sequence[ScoredRun]) -> list[Table]:
    """For each data set, attack and eps where some source is not the target: sources in rows, targets in columns."""
    tables = []
    for _, same in groupby(sorted(scored, key=_arena), key=_arena):
        arena = list(same)
        rivals = [one for one in scored if one.entry.dataset == arena[0].entry.dataset]
        names = network_names([one.entry for one in rivals])
        where = _conditions(arena[0].entry) if len(set(map(_arena, rivals))) > 1 else ""
        transferred = {column for one in arena if one.entry.source != one.entry.target for column in one.values}
        for column, head in columns(arena).items():
            if column in transferred and column.attack != CLEAN:
                tables.append(_matrix(arena, column, head, names, where))
    return tables


def _arena(one: ScoredRun) -> tuple[str, tuple[str, ...]]:
    """Results that may stand in one matrix: of one data set, the same images, size and seed."""
    return one.entry.dataset, one.entry.tested


def _conditions(entry: RunRecord) -> str:
    seed, size, _, digest, pixels = entry.tested
    return f" (seed {seed}, size {size}, list {digest[:8]}, pixels {pixels})"


def _matrix(arena: Sequence[ScoredRun], column: Column, head: str, names: dict[str, str], where: str) -> Table:
    """One attack at one eps; the last row holds the targets' clean scores."""
    involved = [one for one in arena if column in one.values]
    met = {one.entry.target for one in involved}
    targets = [sha for sha in names if sha in met]
    entry = involved[0].entry
    score_name = _DEFAULT[entry.kind][0]
    lines: list[tuple[str, list[Value | None]]] = [
        (name, [cells[target].get(column, score_name) if target in cells else None for target in targets])
        for name, cells in _by_source(involved, names)
    ]
    lines.append(("none: clean", [_clean(arena, target, score_name) for target in targets]))
    values = [line for _, line in lines]
    written = _writer(_is_percent(score_name, values))
    rows = tuple(tuple(map(Cell, (name, *(_text(value, written) for value in line)))) for name, line in lines)
    title = (
        f"{entry.dataset}: transfer of {head}, source (rows) to target (columns); {_measure(score_name, values)} of the"
        f" target on {entry.images} images{where}"
    )
    return Table(title, ("source", *(names[target] for target in targets)), rows)


def _by_source(involved: Sequence[ScoredRun], names: dict[str, str]) -> list[tuple[str, dict[str, ScoredRun]]]:
    """Rows of a matrix: the source's name, and the results by target. A pair's second result gets a row of its own."""
    lines: dict[tuple[str, int], dict[str, ScoredRun]] = {}
    for one in involved:
        source, target = one.entry.source, one.entry.target
        number = next(number for number in count() if target not in lines.get((source, number), {}))
        lines.setdefault((source, number), {})[target] = one
    order = list(names)
    named = []
    for source, number in sorted(lines, key=lambda at: (order.index(at[0]) if at[0] in order else len(order), at)):
        cells = lines[source, number]
        name = names.get(source) or _source_name(next(iter(cells.values())).entry)
        again = ", ".join(str(one.entry.file) for one in cells.values())
        named.append((f"{name} (again: {again})" if number else name, cells))
    return named


def _source_name(entry: RunRecord) -> str:
    """Of a network that no result is of as a target: what is known of it is its file."""
    return f"{entry.record['source_model']} {Path(entry.record['source_weight']).name} (weights {entry.source[:8]})"


def _clean(arena: Sequence[ScoredRun], target: str, name: str) -> Value | None:
    found = (
        scores.get(name)
        for one in arena
        for column, scores in one.values.items()
        if one.entry.target == target and column.attack == CLEAN
    )
    return next(found, None)
