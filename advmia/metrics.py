"""Meters: they keep counts, so that they add up over batches and over processes."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

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
