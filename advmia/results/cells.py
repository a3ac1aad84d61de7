"""The cells of tables: scores and intervals as text, with the best of each column marked."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

from advmia.results.render import Cell
from advmia.results.scored import Value
from advmia.results.scores import Score, score_named

Values = Sequence[Sequence[Value | None]]  # by table row and column; None where nothing was measured


def score_of(name: str, values: Values) -> Score:
    """Returns how the score of a table is shown."""
    return score_named(name, [value.score for row in values for value in row if value is not None])


def score_cells(
    values: Values, comparable: Sequence[Hashable], score: Score, warned: Sequence[bool]
) -> list[list[Cell]]:
    """Returns the cells of a table, the best of each column marked.

    `comparable`: a key for each row. The best is chosen among rows with equal keys. `warned`: for each row whether a
    check warns of it; such a row is never the best.
    """
    cells = [
        [Cell(cell_text(value, score), warned=is_warned and value is not None) for value in row]
        for row, is_warned in zip(values, warned, strict=True)
    ]
    for column in range(len(values[0])):
        for key in dict.fromkeys(comparable):
            scores: dict[int, float] = {}  # by row
            for row, row_key in enumerate(comparable):
                value = values[row][column]
                if row_key == key and not warned[row] and value is not None and not math.isnan(value.score):
                    scores[row] = value.score
            if len(scores) < 2:
                continue
            best = score.number(score.best(scores.values()))
            for row in scores:
                if score.number(scores[row]) == best:  # rows that print alike are equally good
                    cells[row][column] = Cell(cells[row][column].text, best=True)
    return cells


def cell_text(value: Value | None, score: Score) -> str:
    """Returns e.g. `84.6 (81.2-87.5)`; an empty text where nothing was measured."""
    if value is None:
        return ""
    if math.isnan(value.score):
        return "undefined"
    if value.interval is None or math.isnan(value.interval[0]):
        return score.number(value.score)
    low, high = map(score.number, value.interval)
    return f"{score.number(value.score)} ({low}-{high})"
