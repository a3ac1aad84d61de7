"""The scores of result files with their confidence intervals, from the outcome of each image."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from advmia.data.specs import CHEST_FINDINGS
from advmia.errors import UserError
from advmia.results.intervals import Interval, auroc, bootstrap_auroc, bootstrap_mean, wilson
from advmia.results.read import RunRecord
from advmia.results.record import CLEAN
from advmia.results.render import Cell, rounded
from advmia.tasks import MULTI_LABEL, SEGMENTATION, SINGLE_LABEL

_METHODS = {"accuracy": "Wilson", "auroc": "bootstrap", "dice": "bootstrap", "iou": "bootstrap"}
_DEFAULT = {"accuracy": ("accuracy",), "auroc": ("auroc",), "dice": ("dice", "iou")}  # scores, by kind
_ORDER = list({CLEAN: None, **SINGLE_LABEL.attacks, **MULTI_LABEL.attacks, **SEGMENTATION.attacks})


@dataclass(frozen=True)
class Column:
    """What images went through: an attack at one eps; its steps too, lest other settings stand in one column."""

    attack: str
    eps: float
    steps: int
    step_size: float

    def order(self) -> tuple[Any, ...]:
        place = _ORDER.index(self.attack) if self.attack in _ORDER else len(_ORDER)
        return place, self.attack, self.eps, self.steps, self.step_size


@dataclass(frozen=True)
class Value:
    score: float  # NaN where it is undefined
    interval: Interval | None = None


@dataclass(frozen=True)
class ScoredRun:
    """A result file and all its scores."""

    entry: RunRecord
    values: dict[Column, dict[str, Value]]

    def get(self, column: Column, name: str) -> Value | None:
        return self.values.get(column, {}).get(name)


def score(entry: RunRecord) -> ScoredRun:
    """Adds intervals to a file's scores. Raises `UserError` where outcomes contradict the scores."""
    values = {}
    for row in entry.rows:
        column = Column(row["attack"], row["eps"], row["steps"], row["step_size"])
        try:
            found = _INTERVALS[entry.kind](entry, row)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise UserError(
                f"{entry.file} row {row['attack']} eps {row['eps']:g}: the outcomes of the images are no {entry.kind}'s"
                f" ({error}); test again, or leave it out"
            ) from error
        plain = {name: Value(math.nan if given is None else given) for name, given in row["scores"].items()}
        values[column] = plain | {name: Value(plain[name].score, interval) for name, interval in found.items()}
    return ScoredRun(entry, values)


def columns(scored: Iterable[ScoredRun]) -> dict[Column, str]:
    """All columns in the order of the tables, and their heads: `pgd 8`."""
    found = sorted({column for one in scored for column in one.values}, key=Column.order)
    heads = {column: "clean" if column.attack == CLEAN else f"{column.attack} {column.eps:g}" for column in found}
    names = list(heads.values())
    return {
        column: head if names.count(head) == 1 else f"{head} ({column.steps} x {column.step_size:g})"
        for column, head in heads.items()
    }


def labels(entry: RunRecord) -> np.ndarray:
    """Which of the 14 findings each image has, (N, 14) of 0 and 1."""
    return np.array(entry.record["samples"]["label"], dtype=np.int64).reshape(-1, len(CHEST_FINDINGS))


Intervals = dict[str, Interval]


def _accuracy(entry: RunRecord, row: dict[str, Any]) -> Intervals:
    hits = round(row["scores"]["accuracy"] * row["n"])
    _check_equal(hits / row["n"], row["scores"]["accuracy"])
    return {"accuracy": wilson(hits, row["n"])}


def _overlap(entry: RunRecord, row: dict[str, Any]) -> Intervals:
    outcomes = np.array(row["outcomes"], dtype=np.float64)[:, :2]
    for name, mean in zip(("dice", "iou"), outcomes.mean(axis=0), strict=True):
        _check_equal(mean, row["scores"][name])
    return dict(zip(("dice", "iou"), bootstrap_mean(outcomes), strict=True))


def _auroc(entry: RunRecord, row: dict[str, Any]) -> Intervals:
    logits, positive = np.array(row["outcomes"], dtype=np.float64), labels(entry)
    names = ("auroc", *CHEST_FINDINGS)
    for name, found in zip(names, auroc(logits, positive), strict=True):
        given = row["scores"][name]
        _check_equal(found, math.nan if given is None else given)
    return dict(zip(names, bootstrap_auroc(logits, positive), strict=True))


_INTERVALS = {"accuracy": _accuracy, "dice": _overlap, "auroc": _auroc}  # by kind


def _check_equal(found: float, given: float) -> None:
    if not np.isclose(found, given, rtol=0, atol=1e-4, equal_nan=True):
        raise ValueError(f"they give {found:.6f}, the row says {given:.6f}")


_NAMES = {"accuracy": "accuracy", "auroc": "mean AUROC", "dice": "Dice", "iou": "IoU"}
_AS_THEY_ARE = ("dice", "iou")  # three decimals, as the survey prints them; other shares are in percent
_LOWER_IS_BETTER = ("attack_success_rate", "ce_loss")
Values = Sequence[Sequence[Value | None]]


def _measure(name: str, values: Values) -> str:
    """What a table shows: `accuracy in percent (95 % Wilson interval)`."""
    unit = " in percent" if _is_percent(name, values) else ""
    return f"{_NAMES.get(name, name)}{unit}" + (f" (95 % {_METHODS[name]} interval)" if name in _METHODS else "")


def _is_percent(name: str, values: Values) -> bool:
    """Whether a score is a share that is printed in percent; a loss or a distance is not."""
    shares = (value.score for row in values for value in row if value is not None and not math.isnan(value.score))
    return name not in (*_AS_THEY_ARE, "ce_loss") and all(0 <= share <= 1 for share in shares)


def score_cells(values: Values, rivals: Sequence[Hashable], name: str) -> list[list[Cell]]:
    """Texts of a table's numbers, in each column the best of the rows that may be compared marked as such."""
    written = _writer(_is_percent(name, values))
    best = min if name in _LOWER_IS_BETTER else max
    cells = [[Cell(_text(value, written)) for value in row] for row in values]
    for column in range(len(values[0])):
        for rival in dict.fromkeys(rivals):
            found = {row: values[row][column] for row in range(len(values)) if rivals[row] == rival}
            scores = {row: value.score for row, value in found.items() if value and not math.isnan(value.score)}
            for row in scores if len(scores) > 1 else ():
                # Equal as printed is equally good.
                if written(scores[row]) == written(best(scores.values())):
                    cells[row][column] = Cell(cells[row][column].text, best=True)
    return cells


def _writer(percent: bool) -> Callable[[float], str]:
    return lambda value: rounded(value, 1, 100) if percent else rounded(value, 3)


def _text(value: Value | None, written: Callable[[float], str]) -> str:
    """`84.6 (81.2-87.5)`; empty where nothing was measured."""
    if value is None:
        return ""
    if math.isnan(value.score):
        return "undefined"
    if value.interval is None or math.isnan(value.interval[0]):
        return written(value.score)
    low, high = value.interval
    return f"{written(value.score)} ({written(low)}-{written(high)})"
