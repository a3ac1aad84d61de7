"""The base rate of a list: the score of an answer that is the same for every image. Tells networks that do no better.

Such a network may look robust, since no attack changes its answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from advmia.data.loading import ImageData
from advmia.evaluation.checks import SLACK, Check
from advmia.evaluation.probe import TOLERANCE
from advmia.metrics import Scores
from advmia.targets import TaskName
from advmia.tasks import MULTI_LABEL, SEGMENTATION, SINGLE_LABEL, Task

_GROUNDS = ("background", "foreground")  # names of a mask's classes
_SAME_OVERLAP = 1e-4  # Dice and IoU that differ by less are equal: result files hold them as float32


@dataclass(frozen=True)
class BaseRate:
    """The best score of an answer that is the same for every image of a list, and how to tell such a network."""

    name: str  # of the score, by which the task selects epochs
    score: float
    answer: str  # the answer that has it, e.g. "class 0 for every image"
    margin: float  # a network whose score is higher by no more than this is no better
    constant_answer: Callable[[Tensor], str]  # (outcomes of all images) -> "predicts ..." for a constant network, or ""

    def fault(self, scores: Scores, outcomes: Tensor) -> str:
        """Returns what makes the clean scores worthless, as `predicts class 0 for all 6 images`; "" if nothing does.

        `outcomes`: of all images, as the task records them.
        """
        if self.is_constant(outcomes):
            return self.constant_answer(outcomes)
        if scores[self.name] <= self.score + self.margin:  # false for an undefined score, which is NaN
            return f"is no better than {self.answer} ({self.name} {self.score:.4f})"
        return ""

    def is_constant(self, outcomes: Tensor) -> bool:
        """Returns whether a network gives the same answer for all of two or more images."""
        return len(outcomes) > 1 and bool(self.constant_answer(outcomes))

    def check(self, scores: Scores, outcomes: Tensor) -> Check:
        """Returns the check `base rate` of a network's clean scores and outcomes."""
        fault, score = self.fault(scores, outcomes), f"{self.name} {scores[self.name]:.4f}"
        if fault:
            return Check("base rate", "warning", f"the network {fault}; its clean {score} shows no skill")
        return Check("base rate", "ok", f"clean {score}; {self.answer} would have {self.score:.4f}")


def base_rate(task: Task, data: ImageData) -> BaseRate:
    """Returns the base rate of a list, by the score that selects the task's epochs."""
    return _BASE_RATES[task.name](data)


def _of_classes(data: ImageData) -> BaseRate:
    """The share of the most frequent class."""
    shares = torch.bincount(data.targets(data.indices), minlength=data.samples.classes).double() / len(data)
    most_frequent, class_name = int(shares.argmax()), data.samples.spec.class_name

    def constant_answer(predicted: Tensor) -> str:
        same = bool((predicted == predicted[0]).all())
        return f"predicts {class_name(int(predicted[0]))} for all {len(predicted)} images" if same else ""

    answer = f"{class_name(most_frequent)} for every image"
    return BaseRate(SINGLE_LABEL.selection, float(shares[most_frequent]), answer, SLACK, constant_answer)


def _of_findings(data: ImageData) -> BaseRate:
    """An AUROC of 0.5. Scores drawn by chance have one that is higher by up to two standard errors."""
    positives = data.targets(data.indices).double().sum(dim=0)
    negatives = len(data) - positives
    # The variance of Mann and Whitney's U under the null hypothesis, divided by the square of the number of pairs.
    variances = ((len(data) + 1) / (12 * positives * negatives))[(positives > 0) & (negatives > 0)]
    error = float(variances.sum().sqrt()) / max(len(variances), 1)  # of the mean over the findings that are defined

    def constant_answer(logits: Tensor) -> str:
        same = bool((logits.amax(dim=0) - logits.amin(dim=0) < TOLERANCE).all())
        return f"has outputs that differ by less than {TOLERANCE} for all {len(logits)} images" if same else ""

    return BaseRate(MULTI_LABEL.selection, 0.5, "chance", max(SLACK, 2 * error), constant_answer)


def _of_masks(data: ImageData) -> BaseRate:
    """The mean Dice of a mask that is all background, or all foreground."""
    assert data.masks is not None, "segmentation has masks"
    classes, masks = data.samples.classes, data.masks
    counts = [np.bincount(masks[index].ravel(), minlength=classes) for index in data.indices]
    shares = torch.from_numpy(np.stack(counts)).double() / masks[0].size  # (N, K)
    overlaps = [_overlap_of_constant(shares, label) for label in range(classes)]
    dice = [float(overlap[:, 0].mean()) for overlap in overlaps]
    grounds = _GROUNDS if classes == 2 else [data.samples.spec.class_name(label) for label in range(classes)]
    names = [f"{ground} everywhere" for ground in grounds]
    best = int(np.argmax(dice))

    def constant_answer(outcomes: Tensor) -> str:
        for name, overlap in zip(names, overlaps, strict=True):
            if len(outcomes) == len(overlap) and ((outcomes.double() - overlap).abs() < _SAME_OVERLAP).all():
                return f"predicts {name} in all {len(outcomes)} images"
        return ""

    return BaseRate(SEGMENTATION.selection, dice[best], names[best], SLACK, constant_answer)


def _overlap_of_constant(shares: Tensor, label: int) -> Tensor:
    """Returns Dice and IoU (N, 2), as `mask_overlap` does, of a mask that is `label` everywhere.

    `shares` (N, K): the shares of the classes in the true masks.
    """
    absent = (shares == 0).double()  # a class that is absent from both masks counts as 1
    dice, iou = absent.clone(), absent
    dice[:, label] = 2 * shares[:, label] / (1 + shares[:, label])
    iou[:, label] = shares[:, label]
    return torch.stack([dice.mean(dim=1), iou.mean(dim=1)], dim=1)


_BASE_RATES: dict[TaskName, Callable[[ImageData], BaseRate]] = {
    SINGLE_LABEL.name: _of_classes,
    MULTI_LABEL.name: _of_findings,
    SEGMENTATION.name: _of_masks,
}
