"""The cells of tables: scores, intervals and deviations as text, with the best of each column marked."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace

from advmia.results.layout import Cell
from advmia.results.scored import Value
from advmia.results.scores import Score, score_named
from advmia.results.significance import LEVEL, best_rows

Values = Sequence[Sequence[Value | None]]  # by table row and column; None where nothing was measured
_OVER_SEEDS = (
    "+- is the standard deviation over the seeds of otherwise equal trainings; an interval in parentheses is over the"
    " images."
)
_MIXED = "Beside means over several seeds, a score of one seed is not compared and not bold."
_UNTESTED = "Nothing is bold where the results hold too little of each image for a paired test."


def score_of(name: str, values: Values) -> Score:
    """Returns how the score of a table is shown."""
    return score_named(name, [value.score for row in values for value in row if value is not None])


def score_cells(
    values: Values, comparable: Sequence[Hashable], score: Score, warned: Sequence[bool]
) -> tuple[list[list[Cell]], tuple[str, ...]]:
    """Returns the cells of a table, the best of each column marked, and lines that say what the marks mean.

    `comparable`: a key for each row. The best is chosen among rows with equal keys. `warned`: for each row whether a
    check warns of it; such a row is never the best.
    """
    cells = [
        [replace(score_cell(value, score), warned=is_warned and value is not None) for value in row]
        for row, is_warned in zip(values, warned, strict=True)
    ]
    tests: set[str] = set()
    mixed = False
    for column in range(len(values[0])):
        rivals: dict[Hashable, dict[int, Value]] = {}  # by row
        for row, key in enumerate(comparable):
            value = values[row][column]
            if value is not None and not warned[row] and not math.isnan(value.score):
                rivals.setdefault(key, {})[row] = value
        for scores in rivals.values():
            means = {row: value for row, value in scores.items() if len(value.seeds) > 1}
            mixed |= 0 < len(means) < len(scores)
            if len(means or scores) < 2:
                continue
            marking = best_rows(means or scores, score)
            tests.add(marking.test)
            for row in marking.rows:
                cells[row][column] = replace(cells[row][column], best=True)
    return cells, _legend(tests, mixed=mixed)


def _legend(tests: set[str], *, mixed: bool) -> tuple[str, ...]:
    """Returns what bold means. `tests`: the names of those made, "" for none. `mixed`: some rows are of one seed."""
    names = sorted(filter(None, tests))
    bold = (
        f"Bold: the best of its column, and every row that {' or '.join(names)} does not tell from it (level {LEVEL:g},"
        " Holm's correction for several rows). Nothing is bold where no row is told from the best."
    )
    return tuple(text for text, is_said in ((bold, names), (_UNTESTED, "" in tests), (_MIXED, mixed)) if is_said)


def seeds_notes(values: Iterable[Value | None]) -> tuple[str, ...]:
    """Returns what is said beneath a table whose cells are means over seeds; nothing of another one."""
    return (_OVER_SEEDS,) if any(value is not None and len(value.seeds) > 1 for value in values) else ()


def score_cell(value: Value | None, score: Score) -> Cell:
    """Returns the cell of a score, without marks."""
    is_number = value is not None and not math.isnan(value.score)
    return Cell(cell_text(value, score), number=score.number(value.score) if value and is_number else "")


def cell_text(value: Value | None, score: Score) -> str:
    """Returns e.g. `84.6 (81.2-87.5)` or `83.4 +- 1.2 (3 seeds)`; an empty text where nothing was measured."""
    if value is None:
        return ""
    if math.isnan(value.score):
        return "undefined"
    number = score.number(value.score)
    if value.deviation is not None:
        return f"{number} +- {score.number(value.deviation)} ({len(value.seeds)} seeds)"
    if value.interval is not None and not math.isnan(value.interval[0]):
        low, high = map(score.number, value.interval)
        number += f" ({low}-{high})"
    return f"{number} (1 seed)" if value.seeds else number
