"""The losses of the attacks on masks, against their formulas pixel by pixel, and what must not change them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from advmia.attacks.common import Objective
from advmia.attacks.mask_losses import (
    all_wrong,
    cospgd_loss,
    jensen_shannon,
    masked_cross_entropy,
    masked_normalized_logit,
    normalized_logit,
    segpgd_loss,
    wrong_share,
)
from advmia.losses import cross_entropy, pixel_cross_entropy
from tests.support.networks import gaussian

PixelLoss = Callable[[list[float], int], float]


def softmax(z: list[float]) -> list[float]:
    return [math.exp(value) / sum(map(math.exp, z)) for value in z]


def is_right(z: list[float], y: int) -> bool:
    return z[y] == max(z)


def plain_ce(z: list[float], y: int) -> float:
    return -math.log(softmax(z)[y])


def plain_segpgd(z: list[float], y: int) -> float:
    return (0.7 if is_right(z, y) else 0.3) * plain_ce(z, y)


def plain_cospgd(z: list[float], y: int) -> float:
    p = softmax(z)
    return p[y] / math.sqrt(sum(value**2 for value in p)) * plain_ce(z, y)


def plain_js(z: list[float], y: int) -> float:
    p, q = softmax(z), [float(k == y) for k in range(len(z))]
    m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    return sum(a * math.log(a / c) / 2 for d in (p, q) for a, c in zip(d, m, strict=True) if a)


def plain_normalized(z: list[float], y: int) -> float:
    return -z[y] / math.sqrt(sum(value**2 for value in z))


FORMULAS: dict[str, tuple[Objective, PixelLoss]] = {
    "segpgd": (partial(segpgd_loss, wrong_weight=0.3), plain_segpgd),
    "cospgd": (cospgd_loss, plain_cospgd),
    "masked cross-entropy": (masked_cross_entropy, lambda z, y: plain_ce(z, y) if is_right(z, y) else 0),
    "Jensen-Shannon": (jensen_shannon, plain_js),
    "masked normalised logit": (masked_normalized_logit, lambda z, y: plain_normalized(z, y) * is_right(z, y)),
    "normalised logit": (normalized_logit, plain_normalized),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas(name: str) -> None:
    """Fails if a loss is not the mean over the pixels of its formula, for two or more classes."""
    loss, formula = FORMULAS[name]
    for classes in (2, 3, 5):
        logits, y = 3 * gaussian(2, classes, 3, 4), torch.arange(24).view(2, 3, 4) % classes
        pixels = [
            [formula(logits[b, :, i, j].tolist(), int(y[b, i, j])) for i in range(3) for j in range(4)]
            for b in range(2)
        ]
        torch.testing.assert_close(loss(logits, y), torch.tensor(pixels).mean(dim=1))


@pytest.mark.parametrize("name", FORMULAS)
def test_gradients(name: str) -> None:
    """Fails if a gradient is not finite at certain logits, or one flows through a weight or through what is right."""
    loss, _ = FORMULAS[name]
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4], [0.0, 0.0], [3.0, 1.0], [1.0, 3.0]]).view(5, 2, 1, 1)
    logits.requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(logits, torch.zeros(5, 1, 1, dtype=torch.int64)).sum(), logits)
    assert gradient.isfinite().all()
    ascent = -gradient[3, 0]  # the logit of a right pixel's class must fall
    assert ascent > 0 and (name.startswith("masked") == bool((gradient[4] == 0).all()))
    if name == "cospgd":
        weight = plain_cospgd([3.0, 1.0], 0) / plain_ce([3.0, 1.0], 0)
        torch.testing.assert_close(gradient[3, 0, 0, 0], torch.tensor(weight * (softmax([3.0, 1.0])[0] - 1)))


def test_what_is_right() -> None:
    """Fails if pixels are counted over the batch, or an image is taken for all wrong that is not."""
    logits = torch.tensor([[[2.0, 2.0], [2.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]]).view(1, 2, 2, 2).repeat(3, 1, 1, 1)
    y = torch.tensor([[[0, 0], [0, 1]], [[1, 1], [1, 0]], [[0, 1], [1, 1]]])
    assert wrong_share(logits, y).tolist() == [0, 1, 0.5]
    assert all_wrong(logits, y).tolist() == [False, True, False]


@pytest.mark.parametrize("name", FORMULAS)
def test_a_label_is_a_mask_of_one_pixel(name: str) -> None:
    """Fails if a loss of labels (B,) is not that of masks (B, 1, 1), or half precision is not converted first."""
    loss, _ = FORMULAS[name]
    logits, y = 2 * gaussian(6, 3), torch.arange(6) % 3
    torch.testing.assert_close(loss(logits, y), loss(logits[:, :, None, None], y[:, None, None]))
    half: Tensor = loss(logits.bfloat16(), y)
    assert half.dtype == torch.float32 and torch.equal(half, loss(logits.bfloat16().float(), y))


def test_segpgd_begins_and_ends_with_known_losses() -> None:
    """Fails if the weights are exchanged: with 0 it is the masked cross-entropy, with a half half of the plain one."""
    logits, y = gaussian(4, 3, 5, 5), torch.arange(100).view(4, 5, 5) % 3
    torch.testing.assert_close(segpgd_loss(logits, y, 0), masked_cross_entropy(logits, y))
    torch.testing.assert_close(segpgd_loss(logits, y, 0.5), pixel_cross_entropy(logits, y) / 2)
    labels = y[:, 0, 0]
    torch.testing.assert_close(
        segpgd_loss(logits[:, :, 0, 0], labels, 0.5), cross_entropy(logits[:, :, 0, 0], labels) / 2
    )
