"""An image's outcome on a CPU does not depend, to the bit, on the other images of its batch or on their order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from advmia.attacks import ATTACKS
from advmia.budgets import Budget
from advmia.data.datasets import CHEST_FINDINGS, DATASETS
from advmia.data.loading import EvaluationLoader, ImageData
from advmia.evaluation.loop import EvaluationOptions, evaluate
from advmia.tasks import MULTI_LABEL, SEGMENTATION, SINGLE_LABEL, Task
from tests.support.attacks import SMALL_ONLY
from tests.support.networks import CPU, image_data, network, targets

IMAGES = 9
SIZES = {"unet": 16, "short-wrn": 16}  # the other networks get 32 pixels
NETWORKS = {
    SINGLE_LABEL.name: ("res18-normalized", "mv2", "chexnet-normalized", "short-wrn"),
    MULTI_LABEL.name: ("res18-normalized", "mv2", "chexnet-normalized"),
    SEGMENTATION.name: ("unet", "segnet"),
}
# Every attack runs on one network of its task, and PGD on all: what may differ is the network's rounding.
EVERY_ATTACK = {SINGLE_LABEL.name: "mv2", MULTI_LABEL.name: "mv2", SEGMENTATION.name: "unet"}
SMALL = {SINGLE_LABEL.name: "small", MULTI_LABEL.name: "small", SEGMENTATION.name: "small-segmenter"}
CASES = [
    (task, name, attack)
    for task in (SINGLE_LABEL, MULTI_LABEL, SEGMENTATION)
    for name in NETWORKS[task.name]
    for attack in task.attacks
    if attack not in SMALL_ONLY and (attack == "pgd" or name == EVERY_ATTACK[task.name])
]
CASES += [
    (task, SMALL[task.name], attack)
    for task in (SINGLE_LABEL, MULTI_LABEL, SEGMENTATION)
    for attack in task.attacks
    if attack in SMALL_ONLY
]
# The budgets of attacks that need one of their own; the others have `OTHERS`.
BUDGETS = {
    "square": Budget(8 / 255, steps=6, step_size=0),
    "simba": Budget(1.0, steps=6, step_size=0),
    "aa": Budget(0.015 / 255, steps=1, step_size=0),  # so small that some images withstand each part
}
OTHERS = Budget(8 / 255, steps=2, step_size=4 / 255)


def data_of(task: Task, size: int) -> ImageData:
    """Returns nine images with labels, findings or masks."""
    data = image_data(IMAGES, size=size)
    if task is MULTI_LABEL:
        labels = targets(task, IMAGES, size, len(CHEST_FINDINGS))
        spec = DATASETS["xray_multilabel"].at_size(size)
        return replace(data, samples=replace(data.samples, spec=spec, labels=labels))
    if task is SEGMENTATION:
        samples = replace(data.samples, spec=DATASETS["mel"].at_size(size), classes=2)
        return replace(data, samples=samples, masks=targets(task, IMAGES, size, 2).numpy().astype(np.uint8))
    return data


def model_of(task: Task, name: str, data: ImageData) -> nn.Module:
    """Returns an untrained network whose running statistics are those of the data.

    With other statistics, attacks hardly change the logits of deep networks.
    """
    classes = {SINGLE_LABEL.name: 3, MULTI_LABEL.name: len(CHEST_FINDINGS), SEGMENTATION.name: 2}[task.name]
    model = network(name, classes).to(memory_format=torch.channels_last)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches, of which there is one
    with torch.no_grad():
        model(next(iter(EvaluationLoader(data, IMAGES, CPU))).x)
    return model.eval()


def with_predicted_labels(data: ImageData, logits: torch.Tensor) -> ImageData:
    """Replaces the labels by the predictions, because early-stopping attacks leave misclassified images alone."""
    return replace(data, samples=replace(data.samples, labels=logits.argmax(dim=1)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "name", "attack"), CASES, ids=[f"{task.name}-{name}-{attack}" for task, name, attack in CASES]
)
def test_outcomes_depend_on_no_batch(task: Task, name: str, attack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if rounding, noise or a loss depends on the batch: batches of 64, of 1, and of 7 with the list backwards.

    The logits are compared, because equal predictions on few images may hide small differences.
    """
    data = data_of(task, SIZES.get(name, 32))
    model = model_of(task, name, data)
    monkeypatch.setattr("advmia.attacks.auto_attack.QUERIES_PER_STEP", 4)
    built = ATTACKS[attack].build(BUDGETS.get(attack, OTHERS), task.attacks[attack])
    with_logits = replace(task, outcome=lambda logits, y: logits)

    def outcomes(data: ImageData, batch_size: int) -> torch.Tensor:
        loader = EvaluationLoader(data, batch_size, CPU)
        return evaluate(model, loader, with_logits, built, options=EvaluationOptions((0, attack, 8.0))).outcomes

    clean = evaluate(model, EvaluationLoader(data, 64, CPU), with_logits).outcomes
    if task is SINGLE_LABEL:
        data = with_predicted_labels(data, clean)
    expected = outcomes(data, 64)
    assert (expected != clean).flatten(1).any(dim=1).sum() > IMAGES / 2  # the attack has an effect
    assert torch.equal(outcomes(replace(data, indices=data.indices[:2]), 1), expected[:2])
    backwards = replace(data, indices=data.indices[::-1].copy())
    assert torch.equal(outcomes(backwards, 7), expected.flip(0))
