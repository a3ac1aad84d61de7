"""The section of paired differences between networks: on the same images, clean and under the strongest attacks."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from itertools import combinations

from advmia.report.blocks import Block, Grid, Paragraph, Section
from advmia.report.source import Source, attack_columns, main_score
from advmia.results.differences import run_names
from advmia.results.layout import Cell, Table
from advmia.results.paired import paired_differences
from advmia.results.rows import CLEAN, WORST
from advmia.results.scored import Column, ScoredRun, Value, column_heads
from advmia.results.scores import SCORES, Score
from advmia.results.significance import LEVEL, MCNEMAR, Difference, holm

ALL_PAIRS = 6  # of so many networks, all pairs are compared; of more, each with the best one
_TEXT = (
    "Two networks that were tested on the same images are compared image by image, so a difference can be certain"
    " although the two intervals overlap. A difference is the first network's score minus the second's, with its 95 %"
    " interval."
)
_HOLM = (
    "p (Holm) is corrected for all comparisons under one attack at one eps. Bold: it is below"
    f" {LEVEL:g}, so that the difference is hardly chance."
)
_MIXED = "A mean over several seeds is not compared with a score of one seed."
_ONE_BY_ONE = f"Of more than {ALL_PAIRS} networks, each is compared with the best one."
_INTERVALS = {MCNEMAR: f"{MCNEMAR}; the interval is that of the paired bootstrap"}


def pairs_section(source: Source) -> Section | None:
    """Returns the section of differences between the networks of each data set and model; None where no two compare."""
    grids: list[Block] = []
    for group in source.groups:
        by_test: dict[Hashable, list[int]] = defaultdict(list)
        for number, run in enumerate(group):
            by_test[run.record.conditions].append(number)
        names = run_names([run.record for run in group])
        rows: list[tuple[Cell, ...]] = []
        tests: dict[str, None] = {}
        for numbers in by_test.values():
            runs = [group[number] for number in numbers]
            rows += _rows_of(runs, [names[number] for number in numbers], tests)
        if rows:
            grids.append(Grid(_table(group, rows, tests)))
    return Section("differences", "Differences between networks", (Paragraph(_TEXT), *grids)) if grids else None


def _table(group: Sequence[ScoredRun], rows: Sequence[tuple[Cell, ...]], tests: dict[str, None]) -> Table:
    first = group[0].record
    score = SCORES[main_score(first)]
    unit = " in percentage points" if score.percent else ""
    title = f"{first.dataset}, {first.model}: differences of {score.label}{unit}"
    header = ("attack", "first", "second", "difference", "95 % interval", "p", "p (Holm)")
    notes = [f"Test: {' or '.join(_INTERVALS.get(test, test) for test in tests)}.", _HOLM]
    notes += [_ONE_BY_ONE] if len(group) > ALL_PAIRS else []
    has_means = {
        any(len(value.seeds) > 1 for values in run.values.values() for value in values.values()) for run in group
    }
    notes += [_MIXED] if len(has_means) > 1 else []
    return Table(title, header, tuple(rows), tuple(notes))


def _rows_of(runs: Sequence[ScoredRun], names: Sequence[str], tests: dict[str, None]) -> list[tuple[Cell, ...]]:
    """Returns the rows of networks with the same test, and adds the names of the tests that were made to `tests`."""
    score_name = main_score(runs[0].record)
    score = SCORES[score_name]
    compared: list[tuple[str, int, int, Value, Value]] = []  # (head, number of the first and of the second, values)
    for column, head in _columns(runs, score_name).items():
        values = {
            number: value
            for number, run in enumerate(runs)
            if (value := run.get(column, score_name)) is not None and not math.isnan(value.score)
        }
        compared += [(head, a, b, values[a], values[b]) for a, b in _pairs(values, score)]
    if not compared:
        return []
    differences = paired_differences([(a, b) for *_, a, b in compared])
    by_head: dict[str, list[int]] = defaultdict(list)
    for number, (item, difference) in enumerate(zip(compared, differences, strict=True)):
        if difference is not None:
            by_head[item[0]].append(number)
            tests.setdefault(difference.test)
    rows = []
    for head, numbers in by_head.items():
        known = [difference for number in numbers if (difference := differences[number]) is not None]
        for number, difference, p in zip(numbers, known, holm([item.p for item in known]), strict=True):
            _, a, b, _, _ = compared[number]
            is_warned = any(runs[place].record.warnings for place in (a, b))
            shown = _cells(difference, p, score, is_warned=is_warned)
            rows.append((Cell(head), Cell(names[a]), Cell(names[b]), *shown))
    return rows


def _columns(runs: Sequence[ScoredRun], score_name: str) -> dict[Column, str]:
    """Returns the columns to compare with their heads: clean, and at each eps the one that leaves least.

    That is `worst` if two networks or more have it, else the attack under which the mean over the networks is lowest,
    among those that most networks have.
    """
    heads = column_heads(runs)
    chosen = [column for column in heads if column.attack == CLEAN]
    for grey_eps, columns in attack_columns(runs).items():
        worst = [column for column in heads if (column.attack, column.grey_eps) == (WORST, grey_eps)]
        found = [column for column in worst if _count(runs, column, score_name) > 1] or columns
        most = max(_count(runs, column, score_name) for column in found)
        shared = [column for column in found if _count(runs, column, score_name) == most]
        chosen.append(min(shared, key=lambda column: _mean(runs, column, score_name)))
    return {column: heads[column] for column in chosen}


def _scores(runs: Sequence[ScoredRun], column: Column, score_name: str) -> list[float]:
    found = [value.score for run in runs if (value := run.get(column, score_name)) is not None]
    return [score for score in found if not math.isnan(score)]


def _count(runs: Sequence[ScoredRun], column: Column, score_name: str) -> int:
    return len(_scores(runs, column, score_name))


def _mean(runs: Sequence[ScoredRun], column: Column, score_name: str) -> float:
    scores = _scores(runs, column, score_name)
    return sum(scores) / len(scores) if scores else math.inf


def _pairs(values: dict[int, Value], score: Score) -> list[tuple[int, int]]:
    """Returns the pairs of networks to compare."""
    if len(values) <= ALL_PAIRS:
        return list(combinations(values, 2))
    best_score = score.best(value.score for value in values.values())
    best = next(number for number, value in values.items() if value.score == best_score)
    return [(best, number) for number in values if number != best]


def _cells(difference: Difference, p: float, score: Score, *, is_warned: bool) -> tuple[Cell, ...]:
    value = _signed(difference.value, score)
    interval = "" if difference.interval is None else " to ".join(_signed(end, score) for end in difference.interval)
    bold = p < LEVEL and not is_warned
    return Cell(value, best=bold, warned=is_warned), Cell(interval), Cell(_p_text(difference.p)), Cell(_p_text(p))


def _signed(value: float, score: Score) -> str:
    text = score.number(value)
    return text if text.startswith("-") or not text.strip("0.") else f"+{text}"


def _p_text(p: float) -> str:
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"
