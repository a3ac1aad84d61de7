"""The scores of result files: each one's label, unit, confidence interval and direction, declared once."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Literal

from advmia.results.render import rounded
from advmia.targets import TaskName
from advmia.tasks import MULTI_LABEL, SEGMENTATION, SINGLE_LABEL, Task


@dataclass(frozen=True)
class Score:
    """How tables and plots show a score."""

    label: str
    percent: bool = True  # a share: printed in percent with one decimal. False: printed as it is, with three decimals
    interval: Literal["Wilson", "bootstrap"] | None = None  # the 95 % confidence interval that titles name
    higher_is_better: bool = True

    @property
    def heading(self) -> str:
        """What a table's title says, e.g. `accuracy in percent (95 % Wilson interval)`."""
        unit = " in percent" if self.percent else ""
        return f"{self.label}{unit}" + (f" (95 % {self.interval} interval)" if self.interval else "")

    def number(self, value: float) -> str:
        """Returns a value of this score as it is printed."""
        return rounded(value, 1, 100) if self.percent else rounded(value, 3)

    def best(self, values: Iterable[float]) -> float:
        """Returns the best of some values of this score."""
        return max(values) if self.higher_is_better else min(values)


# By the name in result files.
SCORES: dict[str, Score] = {
    "accuracy": Score("accuracy", interval="Wilson"),
    "recall": Score("recall"),
    "precision": Score("precision"),
    "f1": Score("f1"),
    "balanced_accuracy": Score("balanced_accuracy"),
    "auroc": Score("mean AUROC", interval="bootstrap"),
    "sensitivity": Score("sensitivity"),
    "specificity": Score("specificity"),
    "attack_success_rate": Score("attack_success_rate", higher_is_better=False),
    "dice": Score("Dice", percent=False, interval="bootstrap"),  # a share, but the survey prints 0.846
    "iou": Score("IoU", percent=False, interval="bootstrap"),
    "ce_loss": Score("ce_loss", percent=False, higher_is_better=False),
    "foreground_dice": Score("foreground Dice", percent=False),
    "hd95": Score("HD95 in pixels", percent=False, higher_is_better=False),
    "surface_distance": Score("surface distance in pixels", percent=False, higher_is_better=False),
}
# The scores that have a table without being named in --scores.
MAIN_SCORES: dict[TaskName, tuple[str, ...]] = {
    SINGLE_LABEL.name: ("accuracy",),
    MULTI_LABEL.name: ("auroc",),
    SEGMENTATION.name: ("dice", "iou"),
}
# Single-label rows may hold an AUROC as well as an accuracy, so the order counts.
_BY_SELECTION = {task.selection: task for task in (SINGLE_LABEL, SEGMENTATION, MULTI_LABEL)}
SELECTIONS = tuple(_BY_SELECTION)


def task_of(scores: Container[str]) -> Task | None:
    """Returns the task whose test wrote a row with these scores; None where no task's main score is among them."""
    return next((task for name, task in _BY_SELECTION.items() if name in scores), None)


def score_named(name: str, values: Iterable[float] = ()) -> Score:
    """Returns how a score is shown.

    The Dice or IoU of one class is shown as the mean, without an interval. Any other score, such as a finding's AUROC,
    counts as a share if all its values (NaN where undefined) are in [0, 1].
    """
    if name in SCORES:
        return SCORES[name]
    kind, _, label = name.partition(" ")
    if label and kind in MAIN_SCORES[SEGMENTATION.name]:
        return Score(f"{SCORES[kind].label} of {label}", percent=False)
    return Score(name, percent=all(math.isnan(value) or 0 <= value <= 1 for value in values))
