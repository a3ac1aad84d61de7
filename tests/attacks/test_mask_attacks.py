"""SegPGD and CosPGD against their algorithms, written plainly."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advmia.attacks import ATTACKS
from advmia.budgets import Budget
from advmia.losses import pixel_cross_entropy
from advmia.tasks import SEGMENTATION
from tests.support.networks import StubRng, network, pixels, share_equal, targets

BUDGET = Budget.grey(8, 4, 3)


def segpgd_weights(logits: Tensor, y: Tensor, step: int) -> Tensor:
    """Returns lambda on wrong pixels and 1 - lambda on right ones, with lambda = (t - 1) / 2T in the t-th step."""
    share = step / (2 * BUDGET.steps)
    return torch.where(logits.argmax(dim=1) == y, 1 - share, share)


def cospgd_weights(logits: Tensor, y: Tensor, step: int) -> Tensor:
    one_hot = F.one_hot(y, logits.shape[1]).permute(0, 3, 1, 2).float()
    return F.cosine_similarity(logits.softmax(dim=1), one_hot, dim=1)


def plain(model: nn.Module, x: Tensor, y: Tensor, start: Tensor, weights: Callable[..., Tensor]) -> Tensor:
    """Takes sign steps up the weighted cross-entropy, each projected to eps and [0, 1]."""
    x_adv = start
    for step in range(BUDGET.steps):
        x_adv = x_adv.detach().requires_grad_(True)
        logits = model(x_adv)
        loss = weights(logits.detach(), y, step) * F.cross_entropy(logits, y, reduction="none")
        (gradient,) = torch.autograd.grad(loss.sum(), x_adv)
        moved = x_adv.detach() + BUDGET.step_size * gradient.sign()
        x_adv = torch.minimum(torch.maximum(moved, x - BUDGET.eps), x + BUDGET.eps).clamp(0, 1)
    return x_adv


@pytest.mark.parametrize(("attack", "weights"), [("segpgd", segpgd_weights), ("cospgd", cospgd_weights)])
def test_the_algorithm(attack: str, weights: Callable[..., Tensor]) -> None:
    """Fails if a weight, its schedule, the start or a step is not that of the paper, for two or three classes."""
    for classes in (2, 3):
        model = network("small-segmenter", classes).eval().requires_grad_(False)
        (x, _), y = pixels(4), targets(SEGMENTATION, 4, 16, classes)
        noise = torch.rand_like(x)
        start = (x + BUDGET.eps * (2 * noise - 1)).clamp(0, 1)
        x_adv = ATTACKS[attack].build(BUDGET, SEGMENTATION.attacks[attack])(model, x, y, rng=StubRng(noise))
        assert share_equal(x_adv, plain(model, x, y, start, weights)) > 0.995
        ordinary = ATTACKS["pgd"].build(BUDGET, pixel_cross_entropy)(model, x, y, rng=StubRng(noise))
        assert share_equal(x_adv, ordinary) < 0.99
