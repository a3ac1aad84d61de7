"""Meters: they keep counts, so that they add up over batches and over processes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from advmia.losses import log_odds, pixel_cross_entropy

Scores = dict[str, float]


class Meter(Protocol):
    """Accumulates batches, then computes scores."""

    def update(self, logits: Tensor, y: Tensor) -> None: ...

    def merge(self, other: Meter) -> None: ...

    def compute(self) -> Scores: ...


class ClassificationMeter:
    """The survey's scores, accuracy and macro recall, precision and F1, from a confusion matrix; and clinical ones.

    A class's score is 0 where it is undefined; a class that is neither in the labels nor predicted is left out of the
    mean: scikit-learn's `average="macro", zero_division=0`. Clinical: balanced accuracy (the mean recall of the classes
    in the labels), AUROC (with more than two classes the mean of one against the rest), and for two classes sensitivity
    and specificity, the recalls of `positive` and of the other class. Undefined clinical scores are NaN.
    """

    def __init__(self, classes: int, positive: int = 1) -> None:
        """`positive`: the class that means disease, where there are two."""
        self.confusion = torch.zeros(classes, classes, dtype=torch.int64)  # [label, prediction]
        self._positive = positive
        self._ranking = _Ranking()

    def update(self, logits: Tensor, y: Tensor) -> None:
        """logits (B, K), y (B,) int64."""
        classes = len(self.confusion)
        cells = y * classes + logits.argmax(dim=1)
        self.confusion += torch.bincount(cells, minlength=classes**2).reshape(classes, classes).cpu()
        odds = torch.stack([log_odds(logits, torch.full_like(y, each)) for each in range(classes)], dim=1)
        self._ranking.update(odds, F.one_hot(y, classes))

    def merge(self, other: Meter) -> None:
        assert isinstance(other, ClassificationMeter)
        self.confusion += other.confusion
        self._ranking.merge(other._ranking)

    def compute(self) -> Scores:
        counts = self.confusion.double()
        hits, labelled, predicted = counts.diag(), counts.sum(dim=1), counts.sum(dim=0)
        seen = labelled + predicted > 0

        def macro(denominator: Tensor, weight: float = 1.0) -> float:
            return float((weight * hits / denominator.clamp(min=1))[seen].mean())

        recalls = hits / labelled  # NaN where no label is of the class
        is_binary, negative = len(counts) == 2, 1 - self._positive
        return {
            "accuracy": float(hits.sum() / counts.sum()),
            "recall": macro(labelled),
            "precision": macro(predicted),
            "f1": macro(labelled + predicted, weight=2.0),
            "balanced_accuracy": float(recalls.nanmean()),
            "auroc": mean_defined(self._ranking.auroc()),
            "sensitivity": float(recalls[self._positive]) if is_binary else math.nan,
            "specificity": float(recalls[negative]) if is_binary else math.nan,
        }


def success_rate(clean: Tensor, attacked: Tensor, y: Tensor) -> float:
    """The share of the rightly classified images that the attack turns; predictions and labels (N,). NaN for none."""
    right = clean == y
    return float((attacked[right] != y[right]).double().mean())


class MultiLabelMeter:
    """AUROC of each label and their mean.

    A label without a positive or without a negative has no AUROC: NaN, and left out of the mean.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._ranking = _Ranking()

    def update(self, logits: Tensor, y: Tensor) -> None:
        """logits and y (B, L), y of 0 and 1."""
        self._ranking.update(logits, y)

    def merge(self, other: Meter) -> None:
        assert isinstance(other, MultiLabelMeter)
        self._ranking.merge(other._ranking)

    def compute(self) -> Scores:
        scores = dict(zip(self._names, self._ranking.auroc(), strict=True))
        return {"auroc": mean_defined(scores.values()), **scores}


class _Ranking:
    """Scores and labels of all images, (N, L) numbers: ranks need every one."""

    def __init__(self) -> None:
        self._scores: list[Tensor] = []
        self._y: list[Tensor] = []

    def update(self, scores: Tensor, y: Tensor) -> None:
        self._scores.append(scores.float().cpu())
        self._y.append(y.cpu())

    def merge(self, other: _Ranking) -> None:
        self._scores += other._scores
        self._y += other._y

    def auroc(self) -> list[float]:
        """Of each label."""
        scores, y = torch.cat(self._scores), torch.cat(self._y) > 0
        return [area_under_roc(scores[:, label], y[:, label]) for label in range(scores.shape[1])]


def area_under_roc(scores: Tensor, y: Tensor) -> float:
    """AUROC of scores (N,) for labels y (N,) bool; NaN without a positive or without a negative.

    The share of pairs of a positive and a negative in which the positive ranks higher, ties counted half (Hanley and
    McNeil 1982). Not scikit-learn's, which takes a second to import, in every process.
    """
    positives, negatives = scores[y], scores[~y].sort().values
    if not len(positives) or not len(negatives):
        return math.nan
    below = torch.searchsorted(negatives, positives, right=False) + torch.searchsorted(negatives, positives, right=True)
    return float(below.double().mean() / 2 / len(negatives))


def mean_defined(scores: Iterable[float]) -> float:
    """The mean of those that are not NaN; NaN if none is."""
    defined = [score for score in scores if not math.isnan(score)]
    return sum(defined) / len(defined) if defined else math.nan


class SegmentationMeter:
    """Mean over images of the class-mean Dice and IoU, and of the cross-entropy."""

    def __init__(self) -> None:
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
