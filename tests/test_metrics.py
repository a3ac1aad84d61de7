"""Meters against scikit-learn: on labels with absent and never-predicted classes, in batches, and in parts."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    jaccard_score,
    precision_score,
    recall_score,
    roc_auc_score,
)
from torch import Tensor

from advmia.data.specs import CHEST_FINDINGS, DATASETS
from advmia.losses import log_odds
from advmia.metrics import ClassificationMeter, MultiLabelMeter, SegmentationMeter, mask_overlap, success_rate
from advmia.tasks import MULTI_LABEL, SEGMENTATION, SINGLE_LABEL, Task
from tests.support.networks import targets


def expected_scores(predicted: Tensor, y: Tensor) -> dict[str, float]:
    settings = {"average": "macro", "zero_division": 0}
    return {
        "accuracy": accuracy_score(y, predicted),
        "recall": recall_score(y, predicted, **settings),
        "precision": precision_score(y, predicted, **settings),
        "f1": f1_score(y, predicted, **settings),
    }


def metered(classes: int, logits: Tensor, y: Tensor, batch_size: int = 16) -> ClassificationMeter:
    meter = ClassificationMeter(classes)
    for part in zip(logits.split(batch_size), y.split(batch_size), strict=True):
        meter.update(*part)
    return meter


def one_hot(predicted: list[int], classes: int) -> Tensor:
    return F.one_hot(torch.tensor(predicted), classes).float()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("count", [1, 5, 200])
@pytest.mark.parametrize("classes", range(2, 8))
def test_scores_are_those_of_scikit_learn(classes: int, count: int, seed: int) -> None:
    """Fails when rows and columns of the confusion matrix change places, or a mean is over the wrong classes.

    With 1 and 5 images most classes are absent or never predicted.
    """
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (count,), generator=generator)
    logits = torch.randn(count, classes, generator=generator) + 1.5 * F.one_hot(y, classes)
    scores = metered(classes, logits, y).compute()
    expected = expected_scores(logits.argmax(dim=1), y)
    assert {name: scores[name] for name in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("count", [1, 5, 200])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_clinical_scores_are_those_of_scikit_learn(classes: int, count: int, seed: int) -> None:
    """Fails when AUROC ranks another class, ties are not halved, or sensitivity and specificity change places.

    Scores are rounded, so that ties abound; where scikit-learn has no number, ours is NaN.
    """
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (count,), generator=generator)
    logits = (torch.randn(count, classes, generator=generator) + F.one_hot(y, classes)).round(decimals=1)
    scores, predicted = metered(classes, logits, y).compute(), logits.argmax(dim=1)
    present = [each for each in range(classes) if 0 < (y == each).sum() < count]
    # By log-odds, which rank as probabilities do: those of the softmax would tie where these differ by rounding.
    aurocs = [roc_auc_score(y == each, log_odds(logits, torch.full_like(y, each))) for each in present]
    assert scores["auroc"] == pytest.approx(np.mean(aurocs) if aurocs else math.nan, nan_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a predicted class that no label has
        assert scores["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(y, predicted))
    recalls = recall_score(y, predicted, labels=[0, 1], average=None, zero_division=math.nan)
    expected = recalls if classes == 2 else [math.nan, math.nan]
    assert [scores["specificity"], scores["sensitivity"]] == pytest.approx(list(expected), nan_ok=True)


def test_which_class_means_disease() -> None:
    """Fails when class 1 is taken for disease where it means No Finding."""
    assert DATASETS["xrayBin"].positive == 0 and DATASETS["melBin"].positive == DATASETS["mesidorBin"].positive == 1
    y, logits = torch.tensor([0, 0, 0, 1]), one_hot([0, 0, 1, 1], 2)
    meter = SINGLE_LABEL.meter(2, DATASETS["xrayBin"].positive)
    meter.update(logits, y)
    scores = meter.compute()
    assert (scores["sensitivity"], scores["specificity"]) == pytest.approx((2 / 3, 1.0))


def test_success_rate_is_of_the_images_that_were_right() -> None:
    """Fails when images that were wrong to begin with count as the attack's success."""
    y, clean = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 1, 0])
    assert success_rate(clean, torch.tensor([1, 0, 1, 0]), y) == pytest.approx(1 / 3)
    assert math.isnan(success_rate(1 - y, y, y))


@pytest.mark.parametrize(
    ("predicted", "y", "classes"),
    [
        ([0, 0, 0, 0], [0, 1, 1, 2], 3),  # a constant prediction
        ([0, 1, 0, 1], [0, 0, 0, 0], 4),  # one class labelled; 2 and 3 nowhere
        ([2, 2, 1, 1], [0, 0, 0, 0], 3),  # nothing right
        ([1, 1], [1, 1], 7),  # all right, and most classes nowhere
        ([0, 1, 2, 3], [1, 2, 3, 0], 4),  # nothing right, each class once
    ],
    ids=["constant", "one labelled", "none right", "mostly absent", "all wrong"],
)
def test_undefined_scores_are_0(predicted: list[int], y: list[int], classes: int) -> None:
    """Fails when a class without labels or predictions gives NaN, or is counted though it is neither."""
    scores = metered(classes, one_hot(predicted, classes), torch.tensor(y)).compute()
    expected = expected_scores(torch.tensor(predicted), torch.tensor(y))
    assert {name: scores[name] for name in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_scores_do_not_depend_on_the_batches(batch_size: int) -> None:
    """Fails when a batch's scores are averaged: the last short batch would weigh too much."""
    generator = torch.Generator().manual_seed(0)
    y, logits = torch.randint(3, (50,), generator=generator), torch.randn(50, 3, generator=generator)
    assert metered(3, logits, y, batch_size).compute() == metered(3, logits, y, 50).compute()


def test_merged_parts_are_the_whole() -> None:
    """Fails when processes' scores are averaged: the parts differ in size and in their classes."""
    generator = torch.Generator().manual_seed(0)
    y, logits = torch.randint(4, (50,), generator=generator).sort().values, torch.randn(50, 4, generator=generator)
    whole = metered(4, logits, y)
    first, second = metered(4, logits[:13], y[:13]), metered(4, logits[13:], y[13:])
    second_before = second.confusion.clone()
    first.merge(second)
    assert torch.equal(first.confusion, whole.confusion)
    assert first.compute() == whole.compute()
    assert torch.equal(second.confusion, second_before)


def test_merging_with_an_empty_meter() -> None:
    """Fails when a process without images spoils the others' scores."""
    y, logits = torch.tensor([0, 1, 1]), one_hot([0, 1, 0], 2)
    meter = metered(2, logits, y)
    expected = meter.compute()
    meter.merge(ClassificationMeter(2))
    assert meter.compute() == expected


def test_computing_changes_nothing() -> None:
    """Fails when scores taken midway spoil the final ones."""
    y, logits = torch.tensor([0, 1, 1]), one_hot([0, 1, 0], 2)
    meter = metered(2, logits, y)
    assert meter.compute() == meter.compute()
    meter.update(logits, y)
    assert meter.compute() == metered(2, torch.cat([logits, logits]), torch.cat([y, y])).compute()


def test_confusion_is_label_by_prediction() -> None:
    """Fails when the matrix is transposed."""
    meter = metered(3, one_hot([2, 2, 1], 3), torch.tensor([0, 0, 1]))
    assert meter.confusion.tolist() == [[0, 0, 2], [0, 1, 0], [0, 0, 0]]


# --- several labels --------------------------------------------------------------------------------------------------

NAMES = ("Mass", "Hernia", "Edema")


def findings(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits with ties, for ranks, and labels of 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(2, (count, len(NAMES)), generator=generator).float()
    return (2 * torch.randn(y.shape, generator=generator) + y).round(decimals=1), y


def ranked(logits: Tensor, y: Tensor, batch_size: int = 16) -> MultiLabelMeter:
    meter = MultiLabelMeter(NAMES)
    for part in zip(logits.split(batch_size), y.split(batch_size), strict=True):
        meter.update(*part)
    return meter


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_auroc_is_that_of_all_images(batch_size: int) -> None:
    """Fails when batches' AUROCs are averaged, labels change places, or ties count as won."""
    logits, y = findings(50)
    scores = ranked(logits, y, batch_size).compute()
    expected = {name: roc_auc_score(y[:, i], logits[:, i]) for i, name in enumerate(NAMES)}
    assert scores == pytest.approx({"auroc": sum(expected.values()) / 3, **expected}, abs=1e-12)
    assert len(set(expected.values())) == 3
    # By its definition: the share of pairs of a positive and a negative that are ranked rightly.
    positive, negative = logits[y[:, 0] == 1, 0], logits[y[:, 0] == 0, 0]
    pairs = positive[:, None] - negative[None]
    assert scores["Mass"] == pytest.approx(float((pairs > 0).double().mean() + (pairs == 0).double().mean() / 2))


@pytest.mark.parametrize("value", [0.0, 1.0], ids=["no positive", "no negative"])
def test_a_label_of_one_value_has_no_auroc(value: float) -> None:
    """Fails when an undefined AUROC is an error, or counts as 0 or 0.5 in the mean."""
    logits, y = findings(50)
    y[:, 1] = value
    scores = ranked(logits, y).compute()
    assert math.isnan(scores["Hernia"])
    assert scores["auroc"] == pytest.approx((scores["Mass"] + scores["Edema"]) / 2)
    y[:] = value
    assert math.isnan(ranked(logits, y).compute()["auroc"])


def test_merged_rankings_are_the_whole() -> None:
    """Fails when processes' AUROCs are averaged."""
    logits, y = findings(50)
    first = ranked(logits[:13], y[:13])
    first.merge(ranked(logits[13:], y[13:]))
    assert first.compute() == ranked(logits, y).compute()


def test_ranks_of_saturated_scores() -> None:
    """Fails when probabilities are ranked: in float32 the sigmoid of 20 and of 30 are one."""
    logits = torch.tensor([[20.0], [30.0]]).expand(2, 3)
    assert ranked(logits, torch.tensor([[0.0], [1.0]]).expand(2, 3)).compute()["auroc"] == 1.0


# --- masks -----------------------------------------------------------------------------------------------------------


def masks(count: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits and masks; the first mask lacks a class, the second's prediction too."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (count, 6, 7), generator=generator)
    y[0] = 0
    y[1] = 0
    logits = torch.randn(count, classes, 6, 7, generator=generator) + F.one_hot(y, classes).permute(0, 3, 1, 2)
    logits[1, 1] -= 100
    return logits, y


def overlapped(classes: int, logits: Tensor, y: Tensor, batch_size: int = 4) -> SegmentationMeter:
    meter = SegmentationMeter()
    for part in zip(logits.split(batch_size), y.split(batch_size), strict=True):
        meter.update(*part)
    return meter


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("classes", [2, 3, 4])
def test_dice_and_iou_are_those_of_scikit_learn(classes: int, batch_size: int) -> None:
    """Fails when pixels of several images are pooled, batches are averaged, or an absent class is not 1."""
    logits, y = masks(10, classes)
    settings = {"labels": range(classes), "average": "macro", "zero_division": 1.0}
    pairs = [(mask.flatten(), one.argmax(dim=0).flatten()) for mask, one in zip(y, logits, strict=True)]
    dice = [f1_score(*pair, **settings) for pair in pairs]
    iou = [jaccard_score(*pair, **settings) for pair in pairs]
    losses = F.cross_entropy(logits, y, reduction="none").mean(dim=(1, 2))
    expected = {"dice": sum(dice) / 10, "iou": sum(iou) / 10, "ce_loss": float(losses.mean())}
    assert overlapped(classes, logits, y, batch_size).compute() == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(mask_overlap(logits, y), torch.tensor([dice, iou]).T.float())


def test_absent_and_missed_classes() -> None:
    """Fails when an image without a lesion scores 0 though none is predicted, or 1 though one is."""
    y = torch.zeros(3, 2, 2, dtype=torch.int64)
    y[2] = 1
    predicted = torch.zeros_like(y)
    predicted[1, 0, 0] = 1
    overlap = mask_overlap(F.one_hot(predicted, 2).permute(0, 3, 1, 2).float(), y)
    torch.testing.assert_close(overlap, torch.tensor([[1, 1], [(6 / 7 + 0) / 2, (3 / 4 + 0) / 2], [0, 0]]))


def test_merged_masks_are_the_whole() -> None:
    """Fails when processes' means are averaged: the parts differ in size."""
    logits, y = masks(10, 2)
    first = overlapped(2, logits[:3], y[:3])
    first.merge(overlapped(2, logits[3:], y[3:]))
    assert first.compute() == pytest.approx(overlapped(2, logits, y).compute(), rel=1e-12)


# --- tasks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [SINGLE_LABEL, MULTI_LABEL, SEGMENTATION], ids=lambda task: task.name)
def test_the_tasks_meter_gives_the_scores_of_its_columns(task: Task) -> None:
    """Fails when the result files name a score that the meter does not compute, or the selection is by none."""
    classes = len(CHEST_FINDINGS) if task is MULTI_LABEL else 2
    meter = task.meter(classes, 1)
    shape = (4, classes, 8, 8) if task is SEGMENTATION else (4, classes)
    logits, y = torch.randn(shape), targets(task, 4, 8, classes)
    meter.update(logits, y)
    outcomes = task.outcome(logits, y)
    assert tuple(meter.compute() | task.against_clean(outcomes, outcomes, y)) == task.score_names
    assert task.selection in task.score_names
    assert len(outcomes) == 4


@pytest.mark.gpu
def test_counts_of_a_gpu_are_kept_on_the_cpu() -> None:
    """Fails when meters of several devices cannot be merged."""
    generator = torch.Generator().manual_seed(0)
    y, logits = torch.randint(3, (50,), generator=generator), torch.randn(50, 3, generator=generator)
    meter = metered(3, logits.cuda(), y.cuda())
    assert meter.confusion.device.type == "cpu"
    assert meter.compute() == metered(3, logits, y).compute()
