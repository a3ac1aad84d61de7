"""The declaration of scores."""

from __future__ import annotations

import math

import pytest

from advmia.data.datasets import CHEST_FINDINGS, DATASETS
from advmia.results.scores import MAIN_SCORES, SCORES, Score, score_named, task_of
from advmia.tasks import MULTI_LABEL, SEGMENTATION, SINGLE_LABEL


def test_every_score_is_declared() -> None:
    """Fails if a task has a score that `SCORES` lacks, a declared score is no task's, or a main score is missing."""
    tasks = (SINGLE_LABEL, MULTI_LABEL, SEGMENTATION)
    names = {task.name: task.score_names(DATASETS[task.datasets[0]]) for task in tasks}
    assert SCORES.keys() == {name for its in names.values() for name in its} - set(CHEST_FINDINGS)
    for task in tasks:
        assert task.selection == MAIN_SCORES[task.name][0]
        assert set(MAIN_SCORES[task.name]) <= set(names[task.name])
        assert task_of(names[task.name]) is task
    assert task_of(["recall"]) is None


@pytest.mark.parametrize(
    ("name", "heading", "text", "best"),
    [
        ("accuracy", "accuracy in percent (95 % Wilson interval)", "25.0", 0.25),
        ("auroc", "mean AUROC in percent (95 % bootstrap interval)", "25.0", 0.25),
        ("dice", "Dice (95 % bootstrap interval)", "0.250", 0.25),
        ("ce_loss", "ce_loss", "0.250", 0.125),
        ("attack_success_rate", "attack_success_rate in percent", "25.0", 0.125),
    ],
)
def test_scores_are_shown(name: str, heading: str, text: str, best: float) -> None:
    """Fails if a score has another unit, interval or direction in tables."""
    score = SCORES[name]
    assert (score.heading, score.number(0.25), score.best([0.125, 0.25])) == (heading, text, best)


def test_scores_of_another_version() -> None:
    """Fails if an unknown score is printed in percent though its values are no shares."""
    assert score_named("beauty", [0.5, math.nan, 1.0]).heading == "beauty in percent"
    assert score_named("beauty", [0.5, 1.5]).heading == "beauty"
    assert score_named("dice", [1.5]) is SCORES["dice"]
    assert score_named("iou left lung", [0.5]) == Score("IoU of left lung", percent=False)
