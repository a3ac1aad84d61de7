"""Meters compute a task's scores from the logits of all images.

A meter keeps what its scores need of each image, and computes them at the end. The scores therefore do not depend on
how the images were divided into batches or among processes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from advmia.losses import log_odds, pixel_cross_entropy
from advmia.surfaces import surface_distances

Scores = dict[str, float]  # values by name


class Meter(ABC):
    """Accumulates batches with `update`, then computes scores with `compute`.

    A subclass defines `_columns` and `compute`.
    """

    def __init__(self) -> None:
        self._parts: dict[str, list[Tensor]] = {}  # by column: the values of each batch

    def update(self, logits: Tensor, y: Tensor) -> None:
        """Adds a batch: logits (B, ...) and labels or masks (B, ...), on any device."""
        self._append(self._columns(logits, y))

    def merge(self, other: Meter) -> None:
        """Appends the images of another meter of the same class."""
        self._append(other.state_dict())

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the columns of all images, (N, ...) each; empty before the first batch."""
        for name, parts in self._parts.items():
            self._parts[name] = [torch.cat(parts)]
        return {name: column for name, (column,) in self._parts.items()}

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        """Replaces all images by those of a `state_dict`."""
        self._parts = {name: [column] for name, column in state_dict.items()}

    @abstractmethod
    def compute(self) -> Scores:
        """Computes the scores of all images, by name. A score that is undefined is NaN, unless the class says so."""

    @abstractmethod
    def _columns(self, logits: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Returns what the scores need of each image of a batch, by name: columns of shape (B, ...)."""

    def _append(self, columns: dict[str, Tensor]) -> None:
        for name, values in columns.items():
            self._parts.setdefault(name, []).append(values.cpu())


class ClassificationMeter(Meter):
    """Computes the survey's scores of a classifier and some clinical ones.

    The survey's: accuracy, and the mean over classes of recall, precision and F1. They are scikit-learn's with
    `average="macro", zero_division=0`: a score that is undefined for a class counts as 0, and a class that is neither
    among the labels nor among the predictions is left out of the mean.

    The clinical ones: balanced accuracy (the mean recall of the classes among the labels); AUROC (for more than two
    classes, the mean over classes of the AUROC against all others); and, for two classes, sensitivity (the recall of
    class `positive`) and specificity (the recall of the other class). They are NaN if they are undefined.
    """

    def __init__(self, classes: int, positive: int = 1) -> None:
        """Takes the number of classes and `positive`: of two classes, the one that means disease."""
        super().__init__()
        self._classes, self._positive = classes, positive

    def _columns(self, logits: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Takes logits (B, K) and labels y (B,) int64."""
        odds = [log_odds(logits, torch.full_like(y, label)) for label in range(self._classes)]
        return {"y": y, "predicted": logits.argmax(dim=1), "odds": torch.stack(odds, dim=1).float()}

    @property
    def confusion(self) -> Tensor:
        """The confusion matrix (K, K) int64: the number of images by [label, predicted class]."""
        columns, classes = self.state_dict(), self._classes
        if not columns:
            return torch.zeros(classes, classes, dtype=torch.int64)
        return confusion(columns["y"], columns["predicted"], classes)

    def compute(self) -> Scores:
        columns, scores = self.state_dict(), scores_of_confusion(self.confusion, self._positive)
        aurocs = areas_under_roc(columns["odds"], F.one_hot(columns["y"], self._classes))
        return scores | {"auroc": mean_defined(aurocs)}


def confusion(y: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Returns the number of images by [label, predicted class], (K, K) int64; y and predicted (N,) int64."""
    return torch.bincount(y * classes + predicted, minlength=classes**2).reshape(classes, classes)


def scores_of_confusion(counts: Tensor, positive: int) -> Scores:
    """Returns the scores of `ClassificationMeter` from a confusion matrix (K, K); AUROC, which needs more, is NaN."""
    counts = counts.double()
    hits, labelled, predicted = counts.diag(), counts.sum(dim=1), counts.sum(dim=0)
    present = labelled + predicted > 0

    def macro(denominator: Tensor, weight: float = 1.0) -> float:
        return float((weight * hits / denominator.clamp(min=1))[present].mean())

    recalls = hits / labelled  # NaN for a class without labels
    is_binary = len(counts) == 2
    return {
        "accuracy": float(hits.sum() / counts.sum()),
        "recall": macro(labelled),
        "precision": macro(predicted),
        "f1": macro(labelled + predicted, weight=2.0),
        "balanced_accuracy": float(recalls.nanmean()),
        "auroc": math.nan,
        "sensitivity": float(recalls[positive]) if is_binary else math.nan,
        "specificity": float(recalls[1 - positive]) if is_binary else math.nan,
    }


def success_rate(clean: Tensor, adversarial: Tensor, y: Tensor) -> float:
    """Returns the share of correctly classified images that are misclassified after the attack.

    `clean` and `adversarial`: the predicted classes (N,) of the clean and of the adversarial images; labels y (N,). NaN
    if no clean image is classified correctly.
    """
    correct = clean == y
    return float((adversarial[correct] != y[correct]).double().mean())


class MultiLabelMeter(Meter):
    """Computes the AUROC of each label, and their mean as "auroc".

    A label without positive or without negative images has no AUROC: it is NaN and left out of the mean.
    """

    def __init__(self, names: Sequence[str]) -> None:
        """Takes the labels' names, in the order of the logits."""
        super().__init__()
        self._names = tuple(names)

    def _columns(self, logits: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Takes logits and labels y (B, L), y 0 or 1."""
        return {"logits": logits.float(), "y": y}

    def compute(self) -> Scores:
        columns = self.state_dict()
        scores = dict(zip(self._names, areas_under_roc(columns["logits"], columns["y"]), strict=True))
        return {"auroc": mean_defined(scores.values()), **scores}


def areas_under_roc(scores: Tensor, y: Tensor) -> list[float]:
    """Returns the AUROC of each label; scores and y (N, L), y 0 or 1."""
    return [area_under_roc(scores[:, label], y[:, label] > 0) for label in range(scores.shape[1])]


def area_under_roc(scores: Tensor, y: Tensor) -> float:
    """Returns the AUROC of scores (N,) for labels y (N,) bool; NaN without positive or without negative images.

    It is the share of pairs of a positive and a negative image in which the positive one has the higher score; ties
    count half (Hanley and McNeil, The Meaning and Use of the Area under a ROC Curve, Radiology 1982). scikit-learn is
    not used, because every process would spend a second importing it.
    """
    positives, negatives = scores[y], scores[~y].sort().values
    if not len(positives) or not len(negatives):
        return math.nan
    below = torch.searchsorted(negatives, positives, right=False) + torch.searchsorted(negatives, positives, right=True)
    return float(below.double().mean() / 2 / len(negatives))


def mean_defined(scores: Iterable[float]) -> float:
    """Returns the mean of the scores that are not NaN, or NaN if all are."""
    defined = [score for score in scores if not math.isnan(score)]
    return sum(defined) / len(defined) if defined else math.nan


class SegmentationMeter(Meter):
    """Computes Dice and IoU, averaged over the classes and then over the images, and the mean cross-entropy.

    For masks of more than two classes, also those of each class, averaged over the images.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        """Takes the names of the classes whose own scores are computed too."""
        super().__init__()
        self._names = tuple(names)

    def _columns(self, logits: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Takes logits (B, K, H, W) and masks y (B, H, W) int64."""
        dice, iou = class_overlap(logits, y)
        means = [dice.mean(dim=1), iou.mean(dim=1), pixel_cross_entropy(logits, y)]
        columns = {"scores": torch.stack(means, dim=1)}
        return columns | ({"by_class": torch.cat([dice, iou], dim=1)} if self._names else {})

    def compute(self) -> Scores:
        columns = {name: column.mean(dim=0, dtype=torch.float64).tolist() for name, column in self.state_dict().items()}
        scores = dict(zip(("dice", "iou", "ce_loss"), columns["scores"], strict=True))
        return scores | dict(zip(overlap_names(self._names), columns.get("by_class", ()), strict=True))


class ForegroundMeter(Meter):
    """Computes Dice of the foreground, HD95 and the average surface distance, in pixels, averaged over the images.

    The foreground is all classes but 0. A Dice that is averaged over the classes is high where little is foreground,
    because the background is right almost everywhere.
    """

    names: ClassVar = ("foreground_dice", "hd95", "surface_distance")

    def _columns(self, logits: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Takes logits (B, K, H, W) and masks y (B, H, W) int64."""
        predicted, truth = logits.argmax(dim=1) > 0, y > 0
        both, sizes = (predicted & truth).sum(dim=(1, 2)), (predicted.sum(dim=(1, 2)) + truth.sum(dim=(1, 2)))
        dice = torch.where(sizes == 0, 1.0, 2 * both / sizes.clamp(min=1)).cpu()
        pairs = zip(predicted.cpu().numpy(), truth.cpu().numpy(), strict=True)
        distances = torch.tensor([surface_distances(*pair) for pair in pairs], dtype=torch.float64).reshape(-1, 2)
        return {"scores": torch.cat([dice.double()[:, None], distances], dim=1)}

    def compute(self) -> Scores:
        return dict(zip(self.names, self.state_dict()["scores"].mean(dim=0).tolist(), strict=True))


def overlap_names(classes: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of each class's Dice, then of each class's IoU."""
    return tuple(f"{score} {name}" for score in ("dice", "iou") for name in classes)


def mask_overlap(logits: Tensor, y: Tensor) -> Tensor:
    """Returns Dice and IoU of each image, averaged over the classes; logits (B, K, H, W), y (B, H, W) int64 -> (B, 2).

    A class that is absent from both the prediction and the mask counts as 1.
    """
    return torch.stack([overlap.mean(dim=1) for overlap in class_overlap(logits, y)], dim=1)


def class_overlap(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Returns Dice and IoU of each class, (B, K) each; arguments and absent classes as in `mask_overlap`."""
    classes = logits.shape[1]
    predicted = F.one_hot(logits.argmax(dim=1), classes).flatten(1, 2)  # (B, H*W, K)
    truth = F.one_hot(y, classes).flatten(1, 2)
    intersection = (predicted & truth).sum(dim=1)  # (B, K)
    union = (predicted | truth).sum(dim=1)
    absent = union == 0
    dice = torch.where(absent, 1.0, 2 * intersection / (intersection + union).clamp(min=1))
    iou = torch.where(absent, 1.0, intersection / union.clamp(min=1))
    return dice, iou
