"""The scores of a result file with their confidence intervals, computed from the outcomes of its images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from advmia.errors import UserError
from advmia.results.intervals import Interval, auroc, percentile_interval, resampled_aurocs, resampled_means, wilson
from advmia.results.read import RunRecord
from advmia.results.rows import CLEAN, WORST, ResultRow, attack_label
from advmia.tasks import MULTI_LABEL, SEGMENTATION, SINGLE_LABEL

# In the order of the tables.
_ATTACKS = list({CLEAN: None, **SINGLE_LABEL.attacks, **MULTI_LABEL.attacks, **SEGMENTATION.attacks})
_UNKNOWN, _LAST = len(_ATTACKS), len(_ATTACKS) + 1  # the places of an attack of another version, and of `worst`
_TOLERANCE = 1e-4  # between a stored score and the score of the stored outcomes, which are float32


@dataclass(frozen=True)
class Column:
    """A table column: attack, eps, and how it was run, since results of other steps belong in another column."""

    attack: str
    grey_eps: float
    steps: int
    grey_step_size: float
    restarts: int = 1
    eight_bits: bool = False  # of the attacked images rounded to 8 bits
    attacks: tuple[str, ...] = ()  # of `worst`: what it is the worst of

    @classmethod
    def of(cls, row: ResultRow) -> Column:
        """Returns the column of a row."""
        how = (row.steps, row.grey_step_size, row.restarts, row.eight_bits, tuple(row.attacks))
        return cls(row.attack, row.grey_eps, *how)

    def order(self) -> tuple[Any, ...]:
        """The key by which the columns of a table are sorted: `worst` last, then as `ATTACKS`."""
        number = _ATTACKS.index(self.attack) if self.attack in _ATTACKS else _UNKNOWN
        number = _LAST if self.attack == WORST else number
        variant = (self.restarts, self.eight_bits, self.attacks)
        return number, self.attack, *variant, self.grey_eps, self.steps, self.grey_step_size

    @property
    def curve(self) -> str:
        """The attack as curves and heads name it: `pgd`, `pgd (5 restarts)`, `worst (8 bits)`."""
        label = attack_label(self.attack, self.restarts)
        return f"{label} (8 bits)" if self.eight_bits else label


@dataclass(frozen=True)
class PerImage:
    """A score in the form that a paired test over the images needs: `hits` or `resampled`."""

    degrees: int  # degrees of freedom of its variance over the images
    hits: np.ndarray | None = None  # (N,) of 0 and 1, whose mean the score is
    resampled: np.ndarray | None = None  # (R,): the score in each of the resamples that equal lists have in common


@dataclass(frozen=True)
class Value:
    """A score and its 95 % confidence interval over images, or the mean of a score over seeds."""

    score: float  # NaN where it is undefined
    interval: Interval | None = None  # None for scores without one, and for means over several seeds
    per_image: PerImage | None = field(default=None, compare=False, repr=False)
    seeds: tuple[Value, ...] = ()  # of a mean: the scores that it is of, none of them NaN

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation over seeds (n - 1 in the denominator); None where there are not two."""
        return float(np.std([value.score for value in self.seeds], ddof=1)) if len(self.seeds) > 1 else None


@dataclass(frozen=True)
class ScoredRun:
    """A result file and all its scores."""

    record: RunRecord
    values: dict[Column, dict[str, Value]]  # by score name
    note: str = ""  # why a run is not averaged with those of other seeds

    def get(self, column: Column, name: str) -> Value | None:
        """Returns a score; None where the file does not have it."""
        return self.values.get(column, {}).get(name)


def score_run(record: RunRecord) -> ScoredRun:
    """Returns a file's scores with their intervals. Raises `UserError` if the outcomes contradict the scores."""
    values = {}
    for row in record.rows:
        try:
            with_interval = _VALUES[record.task.name](record, row)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise UserError(
                f"{record.file} row {row.attack} eps {row.grey_eps:g}: the {record.task.selection} cannot be computed"
                f" from the outcomes of the images ({error}); run the test again, or leave the file out"
            ) from error
        values[Column.of(row)] = {name: with_interval.get(name, Value(score)) for name, score in row.scores.items()}
    return ScoredRun(record, values)


def column_heads(runs: Iterable[ScoredRun]) -> dict[Column, str]:
    """Returns all columns of the runs in the order of the tables, each with its head, e.g. `pgd 8`."""
    columns = sorted({column for run in runs for column in run.values}, key=Column.order)
    heads = {column: _head(column) for column in columns}
    texts = list(heads.values())
    return {column: head if texts.count(head) == 1 else f"{head} ({_how(column)})" for column, head in heads.items()}


def curve_names(runs: Iterable[ScoredRun]) -> dict[Column, str]:
    """Returns the name of the curve over eps that each column of the runs is a point of, in the order of the tables.

    Different steps are one curve; different attacks that `worst` is made of are not.
    """
    columns = sorted({column for run in runs for column in run.values}, key=Column.order)
    attacks: dict[str, set[tuple[str, ...]]] = {}
    for column in columns:
        attacks.setdefault(column.curve, set()).add(column.attacks)
    return {
        column: column.curve if len(attacks[column.curve]) == 1 else f"{column.curve} ({_how(column)})"
        for column in columns
    }


def _head(column: Column) -> str:
    """Returns e.g. `pgd 8`, or `pgd 8 (5 restarts)`."""
    if column.attack == CLEAN:
        return "clean"
    _, variant_start, variant = column.curve.partition(" ")
    return f"{column.attack} {column.grey_eps:g}{variant_start}{variant}"


def _how(column: Column) -> str:
    """Returns what tells columns of one head apart: the steps, or the attacks that `worst` is made of."""
    return ", ".join(column.attacks) or f"{column.steps} x {column.grey_step_size:g}"


def guessing_score(record: RunRecord) -> float | None:
    """Returns the score of the best answer that is the same for every image; None where it is not known.

    A test records it. Of older files, it is computed from the labels: that of masks cannot be.
    """
    recorded = record.content.get("base_rate")
    if recorded is not None:
        return float(recorded["score"])
    if record.task is MULTI_LABEL:
        return 0.5
    labels = record.content.get("samples", {}).get("label")
    if record.task is SEGMENTATION or not labels:
        return None
    return float(np.unique(labels, return_counts=True)[1].max()) / len(labels)


def findings_of(record: RunRecord) -> tuple[str, ...]:
    """Returns the findings of a multi-label file, in the order of its labels: the names of its scores but the mean."""
    return tuple(name for name in record.rows[0].scores if name != MULTI_LABEL.selection)


def positives_of(record: RunRecord) -> dict[str, np.ndarray]:
    """Returns for each finding which images have it: (N,) of 0 and 1."""
    findings = findings_of(record)
    labels = np.array(record.content["samples"]["label"], dtype=np.int64).reshape(-1, len(findings))
    return dict(zip(findings, labels.T, strict=True))


def _accuracy(record: RunRecord, row: ResultRow) -> dict[str, Value]:
    score = row.scores["accuracy"]
    number = round(score * row.n)
    _check_equal(number / row.n, score)
    # Files that tell too little of the images have a score, but no paired test.
    labels = record.content.get("samples", {}).get("label") or []
    hits = np.array([outcome == label for outcome, label in zip(row.outcomes, labels, strict=False)])
    per_image = PerImage(row.n - 1, hits=hits) if len(hits) == row.n and hits.sum() == number else None
    return {"accuracy": Value(score, wilson(number, row.n), per_image)}


def _overlap(record: RunRecord, row: ResultRow) -> dict[str, Value]:
    outcomes = np.array(row.outcomes, dtype=np.float64)[:, :2]
    for name, mean in zip(("dice", "iou"), outcomes.mean(axis=0), strict=True):
        _check_equal(mean, row.scores[name])
    return _bootstrapped(row, ("dice", "iou"), resampled_means(outcomes), [row.n - 1] * 2)


def _auroc(record: RunRecord, row: ResultRow) -> dict[str, Value]:
    logits, positive = np.array(row.outcomes, dtype=np.float64), np.stack(list(positives_of(record).values()), axis=1)
    names = ("auroc", *findings_of(record))
    for name, value in zip(names, auroc(logits, positive), strict=True):
        _check_equal(value, row.scores[name])
    positives = positive.sum(axis=0)
    degrees = np.maximum(np.minimum(positives, row.n - positives) - 1, 0)
    return _bootstrapped(row, names, resampled_aurocs(logits, positive), [degrees.sum(), *degrees])


def _bootstrapped(
    row: ResultRow, names: Sequence[str], resampled: np.ndarray, degrees: Sequence[int]
) -> dict[str, Value]:
    """Returns the scores with these names. `resampled` (R, names): their values in each resample."""
    return {
        name: Value(row.scores[name], percentile_interval(column), PerImage(int(freedom), resampled=column))
        for name, column, freedom in zip(names, np.ascontiguousarray(resampled.T), degrees, strict=True)
    }


_VALUES = {SINGLE_LABEL.name: _accuracy, SEGMENTATION.name: _overlap, MULTI_LABEL.name: _auroc}


def _check_equal(computed: float, stored: float) -> None:
    if not np.isclose(computed, stored, rtol=0, atol=_TOLERANCE, equal_nan=True):
        raise ValueError(f"they give {computed:.6f}, the row says {stored:.6f}")
