"""Tests of the meters: equal to scikit-learn, with absent and never predicted classes, however images are divided."""

from __future__ import annotations

import math
import warnings
from itertools import product
from typing import Any

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

from advmia.data.datasets import DATASETS
from advmia.losses import log_odds
from advmia.metrics import ClassificationMeter, Meter, MultiLabelMeter, SegmentationMeter, mask_overlap, success_rate
from advmia.tasks import SINGLE_LABEL


def expected_scores(predicted: Tensor, y: Tensor) -> dict[str, float]:
    """Returns the survey's scores by scikit-learn."""
    settings: dict[str, Any] = {"average": "macro", "zero_division": 0}
    return {
        "accuracy": accuracy_score(y, predicted),
        "recall": recall_score(y, predicted, **settings),
        "precision": precision_score(y, predicted, **settings),
        "f1": f1_score(y, predicted, **settings),
    }


def updated(meter: Meter, logits: Tensor, y: Tensor, batch_size: int = 16) -> Meter:
    """Returns the meter after all images, batch by batch."""
    for batch in zip(logits.split(batch_size), y.split(batch_size), strict=True):
        meter.update(*batch)
    return meter


def classified(classes: int, logits: Tensor, y: Tensor, batch_size: int = 16) -> ClassificationMeter:
    """Returns a `ClassificationMeter` of all images."""
    meter = ClassificationMeter(classes)
    updated(meter, logits, y, batch_size)
    return meter


def one_hot(predicted: list[int], classes: int) -> Tensor:
    """Returns logits (B, K) whose largest entries are at the predicted classes."""
    return F.one_hot(torch.tensor(predicted), classes).float()


def test_scores_equal_those_of_scikit_learn() -> None:
    """Fails if the confusion matrix is transposed, or a mean is taken over the wrong classes.

    With 1 and 5 images most classes are absent or never predicted.
    """
    for classes, count, seed in product(range(2, 8), (1, 5, 200), range(4)):
        generator = torch.Generator().manual_seed(seed)
        y = torch.randint(classes, (count,), generator=generator)
        logits = torch.randn(count, classes, generator=generator) + 1.5 * F.one_hot(y, classes)
        scores = classified(classes, logits, y).compute()
        expected = expected_scores(logits.argmax(dim=1), y)
        assert {name: scores[name] for name in expected} == pytest.approx(expected, abs=1e-12), (classes, count, seed)


def test_clinical_scores_equal_those_of_scikit_learn() -> None:
    """Fails if AUROC ranks another class, ties do not count half, or sensitivity and specificity are exchanged.

    Logits are rounded, so that there are many ties. Scores that scikit-learn cannot compute must be NaN.
    """
    for classes, count, seed in product((2, 3, 5), (1, 5, 200), range(4)):
        generator = torch.Generator().manual_seed(seed)
        y = torch.randint(classes, (count,), generator=generator)
        logits = (torch.randn(count, classes, generator=generator) + F.one_hot(y, classes)).round(decimals=1)
        scores, predicted = classified(classes, logits, y).compute(), logits.argmax(dim=1)
        present = [label for label in range(classes) if 0 < (y == label).sum() < count]
        # Log-odds rank as probabilities do, but softmax rounds, which would make other ties.
        aurocs = [roc_auc_score(y == label, log_odds(logits, torch.full_like(y, label))) for label in present]
        case = (classes, count, seed)
        assert scores["auroc"] == pytest.approx(np.mean(aurocs) if aurocs else math.nan, nan_ok=True), case
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn warns of a predicted class without labels
            assert scores["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(y, predicted)), case
        recalls = recall_score(y, predicted, labels=[0, 1], average=None, zero_division=math.nan)
        expected = recalls if classes == 2 else [math.nan, math.nan]
        assert [scores["specificity"], scores["sensitivity"]] == pytest.approx(list(expected), nan_ok=True), case


def test_which_class_means_disease() -> None:
    """Fails if class 1 is taken for disease in the chest lists, where it means No Finding."""
    assert DATASETS["xrayBin"].positive == 0 and DATASETS["melBin"].positive == DATASETS["mesidorBin"].positive == 1
    y, logits = torch.tensor([0, 0, 0, 1]), one_hot([0, 0, 1, 1], 2)
    meter = SINGLE_LABEL.meter(DATASETS["xrayBin"], 2)
    meter.update(logits, y)
    scores = meter.compute()
    assert (scores["sensitivity"], scores["specificity"]) == pytest.approx((2 / 3, 1.0))


def test_success_rate_is_of_correctly_classified_images() -> None:
    """Fails if images that are misclassified without an attack count as its successes."""
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
    """Fails if a class without labels or predictions gives NaN, or one without both is counted in the mean."""
    scores = classified(classes, one_hot(predicted, classes), torch.tensor(y)).compute()
    expected = expected_scores(torch.tensor(predicted), torch.tensor(y))
    assert {name: scores[name] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_scores_do_not_depend_on_the_batches() -> None:
    """Fails if batches' scores are averaged: the last, shorter batch would weigh too much."""
    generator = torch.Generator().manual_seed(0)
    y, logits = torch.randint(3, (50,), generator=generator), torch.randn(50, 3, generator=generator)
    expected = classified(3, logits, y, 50).compute()
    for batch_size in (1, 3, 64):
        assert classified(3, logits, y, batch_size).compute() == expected


def test_merged_meters_equal_one_of_all_images() -> None:
    """Fails if processes' scores are averaged: the shares differ in size and in their classes."""
    generator = torch.Generator().manual_seed(0)
    y, logits = torch.randint(4, (50,), generator=generator).sort().values, torch.randn(50, 4, generator=generator)
    expected = classified(4, logits, y)
    first, second = classified(4, logits[:13], y[:13]), classified(4, logits[13:], y[13:])
    second_before = second.confusion.clone()
    first.merge(second)
    assert torch.equal(first.confusion, expected.confusion)
    assert first.compute() == expected.compute()
    assert torch.equal(second.confusion, second_before)


def test_merging_with_an_empty_meter() -> None:
    """Fails if a process without images changes the others' scores."""
    y, logits = torch.tensor([0, 1, 1]), one_hot([0, 1, 0], 2)
    meter = classified(2, logits, y)
    expected = meter.compute()
    meter.merge(ClassificationMeter(2))
    assert meter.compute() == expected


def test_computing_changes_nothing() -> None:
    """Fails if computing scores before the last batch changes the final ones."""
    y, logits = torch.tensor([0, 1, 1]), one_hot([0, 1, 0], 2)
    meter = classified(2, logits, y)
    assert meter.compute() == meter.compute()
    meter.update(logits, y)
    assert meter.compute() == classified(2, torch.cat([logits, logits]), torch.cat([y, y])).compute()


def test_confusion_is_label_by_prediction() -> None:
    """Fails if the matrix is transposed."""
    meter = classified(3, one_hot([2, 2, 1], 3), torch.tensor([0, 0, 1]))
    assert meter.confusion.tolist() == [[0, 0, 2], [0, 1, 0], [0, 0, 0]]


# --- several labels --------------------------------------------------------------------------------------------------

NAMES = ("Mass", "Hernia", "Edema")


def findings(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Returns logits with ties, and labels 0 or 1; (N, 3) each."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(2, (count, len(NAMES)), generator=generator).float()
    return (2 * torch.randn(y.shape, generator=generator) + y).round(decimals=1), y


def test_auroc_is_that_of_all_images() -> None:
    """Fails if batches' AUROCs are averaged, labels are exchanged, or ties do not count half."""
    logits, y = findings(50)
    expected = {name: roc_auc_score(y[:, i], logits[:, i]) for i, name in enumerate(NAMES)}
    assert len(set(expected.values())) == 3
    for batch_size in (1, 7, 64):
        scores = updated(MultiLabelMeter(NAMES), logits, y, batch_size).compute()
        assert scores == pytest.approx({"auroc": sum(expected.values()) / 3, **expected}, abs=1e-12)
    # The definition: the share of pairs of a positive and a negative image that are ranked correctly.
    positive, negative = logits[y[:, 0] == 1, 0], logits[y[:, 0] == 0, 0]
    pairs = positive[:, None] - negative[None]
    assert scores["Mass"] == pytest.approx(float((pairs > 0).double().mean() + (pairs == 0).double().mean() / 2))


@pytest.mark.parametrize("value", [0.0, 1.0], ids=["no positive", "no negative"])
def test_a_label_of_one_value_has_no_auroc(value: float) -> None:
    """Fails if an undefined AUROC is an error, or counts as 0 or 0.5 in the mean."""
    logits, y = findings(50)
    y[:, 1] = value
    scores = updated(MultiLabelMeter(NAMES), logits, y).compute()
    assert math.isnan(scores["Hernia"])
    assert scores["auroc"] == pytest.approx((scores["Mass"] + scores["Edema"]) / 2)
    y[:] = value
    assert math.isnan(updated(MultiLabelMeter(NAMES), logits, y).compute()["auroc"])


def test_merged_auroc_is_that_of_all_images() -> None:
    """Fails if processes' AUROCs are averaged."""
    logits, y = findings(50)
    first = updated(MultiLabelMeter(NAMES), logits[:13], y[:13])
    first.merge(updated(MultiLabelMeter(NAMES), logits[13:], y[13:]))
    assert first.compute() == updated(MultiLabelMeter(NAMES), logits, y).compute()


def test_auroc_of_saturated_probabilities() -> None:
    """Fails if probabilities are ranked instead of logits: in float32, the sigmoids of 20 and 30 are equal."""
    logits, y = torch.tensor([[20.0], [30.0]]).expand(2, 3), torch.tensor([[0.0], [1.0]]).expand(2, 3)
    assert updated(MultiLabelMeter(NAMES), logits, y).compute()["auroc"] == 1.0


# --- masks -----------------------------------------------------------------------------------------------------------


def masks(count: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Returns logits and masks. Class 1 is absent from the first two masks, and from the second's prediction."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (count, 6, 7), generator=generator)
    y[0] = 0
    y[1] = 0
    logits = torch.randn(count, classes, 6, 7, generator=generator) + F.one_hot(y, classes).permute(0, 3, 1, 2)
    logits[1, 1] -= 100
    return logits, y


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_dice_and_iou_equal_those_of_scikit_learn(classes: int) -> None:
    """Fails if pixels of several images are pooled, batches are averaged, or an absent class does not count as 1."""
    logits, y = masks(10, classes)
    settings: dict[str, Any] = {"labels": range(classes), "average": "macro", "zero_division": 1.0}
    pairs = list(zip(y.flatten(1), logits.argmax(dim=1).flatten(1), strict=True))
    dice = [f1_score(*pair, **settings) for pair in pairs]
    iou = [jaccard_score(*pair, **settings) for pair in pairs]
    losses = F.cross_entropy(logits, y, reduction="none").mean(dim=(1, 2))
    expected = {"dice": sum(dice) / 10, "iou": sum(iou) / 10, "ce_loss": float(losses.mean())}
    for batch_size in (1, 3, 64):
        scores = updated(SegmentationMeter(), logits, y, batch_size).compute()
        assert scores == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(mask_overlap(logits, y), torch.tensor([dice, iou]).T.float())


def test_absent_and_missed_classes() -> None:
    """Fails if an image without a lesion scores 0 although none is predicted, or 1 although one is."""
    y = torch.zeros(3, 2, 2, dtype=torch.int64)
    y[2] = 1
    predicted = torch.zeros_like(y)
    predicted[1, 0, 0] = 1
    overlap = mask_overlap(F.one_hot(predicted, 2).permute(0, 3, 1, 2).float(), y)
    torch.testing.assert_close(overlap, torch.tensor([[1, 1], [(6 / 7 + 0) / 2, (3 / 4 + 0) / 2], [0, 0]]))


def test_merged_dice_is_that_of_all_images() -> None:
    """Fails if processes' means are averaged: the shares differ in size."""
    logits, y = masks(10, 2)
    first = updated(SegmentationMeter(), logits[:3], y[:3])
    first.merge(updated(SegmentationMeter(), logits[3:], y[3:]))
    assert first.compute() == pytest.approx(updated(SegmentationMeter(), logits, y).compute(), rel=1e-12)


@pytest.mark.gpu
def test_counts_of_a_gpu_are_kept_on_the_cpu(gpu: torch.device) -> None:
    """Fails if meters of several devices cannot be merged."""
    generator = torch.Generator().manual_seed(0)
    y, logits = torch.randint(3, (50,), generator=generator), torch.randn(50, 3, generator=generator)
    meter = classified(3, logits.to(gpu), y.to(gpu))
    assert meter.confusion.device.type == "cpu"
    assert meter.compute() == classified(3, logits, y).compute()
