"""Meters: they keep what scores need of each image, so that they add up over batches and over processes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from advmia.losses import log_odds, pixel_cross_entropy

Scores = dict[str, float]


class Meter(ABC):
    """Accumulates batches, then computes scores: the same ones, to the last bit, however the list was cut."""

    def __init__(self) -> None:
        self._seen: dict[str, list[Tensor]] = {}

    def update(self, logits: Tensor, y: Tensor) -> None:
        self._append(self._facts(logits, y))

    def merge(self, other: Meter) -> None:
        """Takes over what `other` has seen, as the images that come next."""
        self._append(other.state_dict())

    def state_dict(self) -> dict[str, Tensor]:
        """All that was seen, each with the images as its first axis; empty before the first."""
        for name, parts in self._seen.items():
            self._seen[name] = [torch.cat(parts)]
        return {name: whole for name, (whole,) in self._seen.items()}

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        self._seen = {name: [whole] for name, whole in state_dict.items()}

    @abstractmethod
    def compute(self) -> Scores: ...

    @abstractmethod
    def _facts(self, logits: Tensor, y: Tensor) -> dict[str, Tensor]:
        """What is to be kept of each image of a batch, (B, ...) each."""

    def _append(self, facts: dict[str, Tensor]) -> None:
        for name, values in facts.items():
            self._seen.setdefault(name, []).append(values.cpu())


class ClassificationMeter(Meter):
    """The survey's scores, accuracy and macro recall, precision and F1, from a confusion matrix; and clinical ones.

    A class's score is 0 where it is undefined; a class that is neither in the labels nor predicted is left out of the
    mean: scikit-learn's `average="macro", zero_division=0`. Clinical: balanced accuracy (the mean recall of the classes
    in the labels), AUROC (with more than two classes the mean of one against the rest), and for two classes sensitivity
    and specificity, the recalls of `positive` and of the other class. Undefined clinical scores are NaN.
    """

    def __init__(self, classes: int, positive: int = 1) -> None:
        """`positive`: the class that means disease, where there are two."""
        super().__init__()
        self._classes, self._positive = classes, positive

    def _facts(self, logits: Tensor, y: Tensor) -> dict[str, Tensor]:
        """logits (B, K), y (B,) int64."""
        odds = [log_odds(logits, torch.full_like(y, each)) for each in range(self._classes)]
        return {"y": y, "predicted": logits.argmax(dim=1), "odds": torch.stack(odds, dim=1).float()}

    @property
    def confusion(self) -> Tensor:
        """Counts (K, K) int64 by [label, prediction]."""
        seen, classes = self.state_dict(), self._classes
        if not seen:
            return torch.zeros(classes, classes, dtype=torch.int64)
        cells = seen["y"] * classes + seen["predicted"]
        return torch.bincount(cells, minlength=classes**2).reshape(classes, classes)

    def compute(self) -> Scores:
        seen, counts = self.state_dict(), self.confusion.double()
        hits, labelled, predicted = counts.diag(), counts.sum(dim=1), counts.sum(dim=0)
        present = labelled + predicted > 0

        def macro(denominator: Tensor, weight: float = 1.0) -> float:
            return float((weight * hits / denominator.clamp(min=1))[present].mean())

        recalls = hits / labelled  # NaN where no label is of the class
        is_binary, negative = len(counts) == 2, 1 - self._positive
        return {
            "accuracy": float(hits.sum() / counts.sum()),
            "recall": macro(labelled),
            "precision": macro(predicted),
            "f1": macro(labelled + predicted, weight=2.0),
            "balanced_accuracy": float(recalls.nanmean()),
            "auroc": mean_defined(areas_under_roc(seen["odds"], F.one_hot(seen["y"], self._classes))),
            "sensitivity": float(recalls[self._positive]) if is_binary else math.nan,
            "specificity": float(recalls[negative]) if is_binary else math.nan,
        }


def success_rate(clean: Tensor, attacked: Tensor, y: Tensor) -> float:
    """The share of the rightly classified images that the attack turns; predictions and labels (N,). NaN for none."""
    right = clean == y
    return float((attacked[right] != y[right]).double().mean())


class MultiLabelMeter(Meter):
    """AUROC of each label and their mean.

    A label without a positive or without a negative has no AUROC: NaN, and left out of the mean.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self._names = tuple(names)

    def _facts(self, logits: Tensor, y: Tensor) -> dict[str, Tensor]:
        """logits and y (B, L), y of 0 and 1."""
        return {"logits": logits.float(), "y": y}

    def compute(self) -> Scores:
        seen = self.state_dict()
        scores = dict(zip(self._names, areas_under_roc(seen["logits"], seen["y"]), strict=True))
        return {"auroc": mean_defined(scores.values()), **scores}


def areas_under_roc(scores: Tensor, y: Tensor) -> list[float]:
    """AUROC of each label; scores (N, L), y (N, L) of 0 and 1."""
    return [area_under_roc(scores[:, label], y[:, label] > 0) for label in range(scores.shape[1])]


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


class SegmentationMeter(Meter):
    """Mean over images of the class-mean Dice and IoU, and of the cross-entropy."""

    def _facts(self, logits: Tensor, y: Tensor) -> dict[str, Tensor]:
        """logits (B, K, H, W), y (B, H, W) int64."""
        return {"scores": torch.cat([mask_overlap(logits, y), pixel_cross_entropy(logits, y)[:, None]], dim=1)}

    def compute(self) -> Scores:
        means = self.state_dict()["scores"].mean(dim=0, dtype=torch.float64)
        return dict(zip(("dice", "iou", "ce_loss"), means.tolist(), strict=True))


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
