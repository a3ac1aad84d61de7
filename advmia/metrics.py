"""Meters: they keep counts, so that they add up over batches and over processes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from advmia.losses import pixel_cross_entropy

Scores = dict[str, float]


class Meter(Protocol):
    """Accumulates batches, then computes scores."""

    def update(self, logits: Tensor, y: Tensor) -> None: ...

    def merge(self, other: Meter) -> None: ...

    def compute(self) -> Scores: ...


class ClassificationMeter:
    """Accuracy and macro recall, precision and F1 from a confusion matrix.

    A class's score is 0 where it is undefined; a class that is neither in the labels nor predicted is left out of the
    mean: scikit-learn's `average="macro", zero_division=0`.
    """

    def __init__(self, classes: int) -> None:
        self.confusion = torch.zeros(classes, classes, dtype=torch.int64)  # [label, prediction]

    def update(self, logits: Tensor, y: Tensor) -> None:
        """logits (B, K), y (B,) int64."""
        classes = len(self.confusion)
        cells = y * classes + logits.argmax(dim=1)
        self.confusion += torch.bincount(cells, minlength=classes**2).reshape(classes, classes).cpu()

    def merge(self, other: Meter) -> None:
        assert isinstance(other, ClassificationMeter)
        self.confusion += other.confusion

    def compute(self) -> Scores:
        counts = self.confusion.double()
        hits, labelled, predicted = counts.diag(), counts.sum(dim=1), counts.sum(dim=0)
        seen = labelled + predicted > 0

        def macro(denominator: Tensor, weight: float = 1.0) -> float:
            return float((weight * hits / denominator.clamp(min=1))[seen].mean())

        return {
            "accuracy": float(hits.sum() / counts.sum()),
            "recall": macro(labelled),
            "precision": macro(predicted),
            "f1": macro(labelled + predicted, weight=2.0),
        }


class MultiLabelMeter:
    """AUROC of each label and their mean.

    A label without a positive or without a negative has no AUROC: NaN, and left out of the mean. Ranks need every
    score, so scores are kept: (N, L) numbers, never images.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._logits: list[Tensor] = []
        self._y: list[Tensor] = []

    def update(self, logits: Tensor, y: Tensor) -> None:
        """logits and y (B, L), y of 0 and 1."""
        self._logits.append(logits.float().cpu())
        self._y.append(y.cpu())

    def merge(self, other: Meter) -> None:
        assert isinstance(other, MultiLabelMeter)
        self._logits += other._logits
        self._y += other._y

    def compute(self) -> Scores:
        from sklearn.metrics import roc_auc_score  # here, because it takes a second to import

        logits, y = torch.cat(self._logits).numpy(), torch.cat(self._y).numpy()
        scores = {
            name: float(roc_auc_score(y[:, label], logits[:, label])) if 0 < y[:, label].sum() < len(y) else math.nan
            for label, name in enumerate(self._names)
        }
        defined = [score for score in scores.values() if not math.isnan(score)]
        return {"auroc": sum(defined) / len(defined) if defined else math.nan, **scores}


class SegmentationMeter:
    """Mean over images of the class-mean Dice and IoU, and of the cross-entropy."""

    def __init__(self, classes: int) -> None:
        self._sums = torch.zeros(3, dtype=torch.float64)  # Dice, IoU, cross-entropy
        self._images = 0

    def update(self, logits: Tensor, y: Tensor) -> None:
        """logits (B, K, H, W), y (B, H, W) int64."""
        overlaps = mask_overlap(logits, y)  # (B, 2)
        losses = pixel_cross_entropy(logits, y)
        self._sums += torch.cat([overlaps, losses[:, None]], dim=1).sum(dim=0, dtype=torch.float64).cpu()
        self._images += len(y)

    def merge(self, other: Meter) -> None:
        assert isinstance(other, SegmentationMeter)
        self._sums += other._sums
        self._images += other._images

    def compute(self) -> Scores:
        return dict(zip(("dice", "iou", "ce_loss"), (self._sums / self._images).tolist(), strict=True))


def mask_overlap(logits: Tensor, y: Tensor) -> Tensor:
    """Class-mean Dice and IoU of each image; logits (B, K, H, W), y (B, H, W) int64; shape (B, 2).

    A class absent from both prediction and mask counts as 1.
    """
    classes = logits.shape[1]
    predicted = F.one_hot(logits.argmax(dim=1), classes).flatten(1, 2)  # (B, H*W, K)
    truth = F.one_hot(y, classes).flatten(1, 2)
    both = (predicted & truth).sum(dim=1)  # (B, K)
    either = (predicted | truth).sum(dim=1)
    absent = either == 0
    dice = torch.where(absent, 1.0, 2 * both / (both + either).clamp(min=1))
    iou = torch.where(absent, 1.0, both / either.clamp(min=1))
    return torch.stack([dice.mean(dim=1), iou.mean(dim=1)], dim=1)
