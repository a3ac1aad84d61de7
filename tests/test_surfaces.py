"""Distances of outlines, against all pairs of pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from advmia.metrics import ForegroundMeter
from advmia.surfaces import surface_distances

SIDE = 24


def ellipse(x: float, y: float, width: float, height: float) -> np.ndarray:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return ((columns - x) / width) ** 2 + ((rows - y) / height) ** 2 <= 1


def outline(mask: np.ndarray) -> np.ndarray:
    """The pixels (N, 2) of a mask with a neighbour outside it or outside the image, one by one."""
    padded = np.pad(mask, 1)
    pixels = np.argwhere(mask)
    return np.array([p for p in pixels if not all(padded[p[0] + 1 + a, p[1] + 1 + b] for a, b in STEPS)])


STEPS = ((-1, 0), (1, 0), (0, -1), (0, 1))
MASKS = {
    "shifted": (ellipse(10, 12, 6, 4), ellipse(12, 12, 6, 4)),
    "inside": (ellipse(12, 12, 9, 9), ellipse(12, 12, 3, 3)),
    "at the border": (ellipse(0, 0, 9, 5), ellipse(2, 0, 9, 7)),
    "a single pixel": (ellipse(12, 12, 0.5, 0.5), ellipse(5, 20, 3, 3)),
    "two parts": (ellipse(5, 5, 3, 3) | ellipse(18, 18, 3, 3), ellipse(5, 5, 3, 3)),
    "noise": tuple(np.random.default_rng(0).random((2, SIDE, SIDE)) > 0.5),
}


@pytest.mark.parametrize("kind", MASKS)
def test_against_all_pairs(kind: str) -> None:
    """Fails if a distance is not to the nearest pixel of the other outline, or a percentile is of the wrong side."""
    predicted, truth = MASKS[kind]
    pairs = cdist(outline(predicted), outline(truth))
    there, back = pairs.min(axis=1), pairs.min(axis=0)
    expected = max(np.percentile(there, 95), np.percentile(back, 95)), np.concatenate([there, back]).mean()
    assert surface_distances(predicted, truth) == pytest.approx(expected)
    assert surface_distances(truth, predicted) == pytest.approx(expected)
    assert surface_distances(truth, truth) == (0, 0)


def test_empty_masks() -> None:
    """Fails if an overlooked lesion has no distance, or two empty masks have one."""
    empty, lesion = np.zeros((3, 4), bool), np.ones((3, 4), bool)
    assert surface_distances(empty, empty) == (0, 0)
    assert surface_distances(empty, lesion) == surface_distances(lesion, empty) == (5, 5)


def test_scores_of_images() -> None:
    """Fails if the meter's scores are not means over the images, or another class than 0 counts as background."""
    pairs = [MASKS["shifted"], MASKS["inside"]]
    y = torch.from_numpy(np.stack([truth for _, truth in pairs])).long() * 2
    predicted = torch.from_numpy(np.stack([its for its, _ in pairs])).long()
    logits = torch.nn.functional.one_hot(predicted, 3).permute(0, 3, 1, 2).float()
    meter = ForegroundMeter()
    for n in range(2):
        meter.update(logits[n : n + 1], y[n : n + 1])
    dice = [2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs]
    distances = np.mean([surface_distances(*pair) for pair in pairs], axis=0)
    assert list(meter.compute().values()) == pytest.approx([np.mean(dice), *distances])
    meter = ForegroundMeter()
    meter.update(torch.zeros(1, 2, 3, 4), torch.zeros(1, 3, 4).long())
    assert meter.compute() == {"foreground_dice": 1, "hd95": 0, "surface_distance": 0}
