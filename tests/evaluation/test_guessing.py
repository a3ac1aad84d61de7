"""The base rate of a list, and networks that do no better: every value by plain arithmetic on the labels."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from advmia.data.datasets import CHEST_FINDINGS, DATASETS
from advmia.data.loading import ImageData
from advmia.evaluation.guessing import base_rate
from advmia.metrics import mask_overlap
from advmia.tasks import MULTI_LABEL, SEGMENTATION, SINGLE_LABEL
from tests.support.networks import image_data

LABELS = [0, 0, 0, 1, 1]


def data_with(labels: torch.Tensor, dataset: str) -> ImageData:
    """Returns images of noise with these labels; the last image is in another part of a split."""
    data = image_data(len(labels) + 1)
    more = torch.cat([labels, labels[:1] + 1])
    samples = replace(data.samples, spec=DATASETS[dataset], labels=more, classes=2)
    return replace(data, samples=samples, indices=data.indices[:-1])


def test_accuracy() -> None:
    """Fails if the base rate is not the share of the most frequent class of the part that is tested, a network that
    predicts one class or is no better is not told, or one that is better is."""
    rate = base_rate(SINGLE_LABEL, data_with(torch.tensor(LABELS), "melBin"))
    assert (rate.score, rate.answer) == (3 / 5, "class 0 for every image")
    assert not rate.is_constant(torch.tensor([1])) and rate.is_constant(torch.tensor([1, 1]))
    for predicted, fault in [
        ([1, 1, 1, 1, 1], "predicts class 1 for all 5 images"),
        ([0, 0, 0, 0, 0], "predicts class 0 for all 5 images"),
        ([0, 0, 1, 1, 0], "is no better than class 0 for every image (accuracy 0.6000)"),
        ([0, 0, 0, 1, 0], ""),
    ]:
        accuracy = float(np.mean(np.array(predicted) == LABELS))
        assert rate.fault({"accuracy": accuracy}, torch.tensor(predicted)) == fault
        check = rate.check({"accuracy": accuracy}, torch.tensor(predicted))
        assert check.check == "base rate" and check.verdict == ("warning" if fault else "ok")
        assert f"{accuracy:.4f}" in check.reason and fault in check.reason


def test_auroc() -> None:
    """Fails if outputs that are the same for every image are not told, or the margin of chance is not two standard
    errors of the mean AUROC, over the findings that have one."""
    labels = torch.zeros(40, len(CHEST_FINDINGS))
    labels[:10, :2], labels[:, 2] = 1, 1
    rate = base_rate(MULTI_LABEL, data_with(labels, "xray_multilabel"))
    error = math.sqrt(2 * 41 / (12 * 10 * 30)) / 2  # Mann and Whitney's U of two findings, 10 of 40 images each
    logits = torch.linspace(-1, 1, 40)[:, None].repeat(1, len(CHEST_FINDINGS))
    for auroc, verdict in ((0.5 + 1.99 * error, "warning"), (0.5 + 2.01 * error, "ok"), (0.1, "warning")):
        assert rate.check({"auroc": auroc}, logits).verdict == verdict, auroc
    assert rate.fault({"auroc": 0.9}, logits / 1e4) == "has outputs that differ by less than 0.001 for all 40 images"
    assert rate.fault({"auroc": math.nan}, logits) == ""


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_dice(share: float) -> None:
    """Fails if the Dice of a constant mask is not that of `mask_overlap` and of the formula 2a / (1 + a), or a network
    with a constant mask is not told from one whose mean is as high."""
    size, count = 8, 3
    masks = np.zeros((count, size, size), dtype=np.uint8)
    masks[:2, : round(share * size)] = 1  # the third mask is empty
    data = image_data(count, size=size)
    samples = replace(data.samples, spec=DATASETS["mel"], labels=torch.empty(count, 0), classes=2)
    rate = base_rate(SEGMENTATION, replace(data, samples=samples, masks=masks))
    logits = torch.zeros(count, 2, size, size)
    outcomes = {}
    for label, name in enumerate(("background", "foreground")):
        constant = logits.clone()
        constant[:, label] = 1
        outcomes[name] = mask_overlap(constant, torch.from_numpy(masks).long())
        dice = float(outcomes[name][:, 0].mean())
        assert rate.fault({"dice": dice}, outcomes[name]) == f"predicts {name} everywhere in all 3 images"
    background = (2 * (2 * (1 - share) / (2 - share)) / 2 + 1) / 3  # two masks with a foreground, and an empty one: 1
    foreground = (2 * (2 * share / (1 + share)) / 2 + 0) / 3
    assert rate.score == pytest.approx(max(background, foreground))
    assert rate.answer == ("background everywhere" if background > foreground else "foreground everywhere")
    shuffled = outcomes["background"].flip(0)
    assert rate.fault({"dice": rate.score}, shuffled) == f"is no better than {rate.answer} (dice {rate.score:.4f})"
    assert rate.fault({"dice": rate.score + 0.01}, shuffled) == ""
