"""The losses that training descends, each against a plain implementation; those of attacks are in test_losses.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from advmia.attacks.common import Objective
from advmia.losses import (
    binary_cross_entropy,
    cross_entropy,
    kl_divergence,
    label_divergence,
    pixel_cross_entropy,
    pixel_divergence,
    soft_dice,
)
from advmia.tasks import MULTI_LABEL, SEGMENTATION, Task
from tests.support.formulas import (
    plain_bce,
    plain_ce,
    plain_kl,
    plain_label_kl,
    plain_pixel_ce,
    plain_pixel_kl,
    plain_soft_dice,
)
from tests.support.networks import targets

IMAGES = 20


def random_logits(classes: int, seed: int, scale: float = 3.0, pixels: tuple[int, ...] = ()) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(IMAGES, classes, *pixels, generator=generator, dtype=torch.float64)


def labels(classes: int) -> Tensor:
    return torch.arange(IMAGES) % classes


@pytest.mark.parametrize("classes", [2, 7])
def test_cross_entropy(classes: int) -> None:
    """Fails if samples are averaged, or another class's probability is used."""
    logits = random_logits(classes, 0).requires_grad_(True)
    y = labels(classes)
    loss, expected = cross_entropy(logits, y), plain_ce(logits, y)
    assert loss.shape == (IMAGES,)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    weights = torch.linspace(1, 2, IMAGES, dtype=torch.float64)
    gradients = [torch.autograd.grad((weights * value).sum(), logits)[0] for value in (loss, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("divergence", "plain", "pixels"),
    [(kl_divergence, plain_kl, ()), (label_divergence, plain_label_kl, ()), (pixel_divergence, plain_pixel_kl, (2, 3))],
)
@pytest.mark.parametrize("classes", [2, 7])
def test_divergences(divergence: Objective, plain: Objective, pixels: tuple[int, ...], classes: int) -> None:
    """Fails if the arguments are swapped, one of them has no gradient, or labels or pixels are summed."""
    logits = random_logits(classes, 0, pixels=pixels).requires_grad_(True)
    reference = random_logits(classes, 1, pixels=pixels).requires_grad_(True)
    loss, expected = divergence(logits, reference), plain(reference, logits)
    assert loss.shape == (IMAGES,) and loss.dtype == torch.float32
    assert not torch.allclose(expected, plain(logits, reference), rtol=0.01)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    weights = torch.linspace(1, 2, IMAGES, dtype=torch.float64)
    gradients = [torch.autograd.grad((weights * value).sum(), (logits, reference)) for value in (loss, expected)]
    for ours, theirs in zip(*gradients, strict=True):
        assert theirs.abs().max() > 0.1
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("loss", "plain", "task"),
    [
        (binary_cross_entropy, plain_bce, MULTI_LABEL),
        (pixel_cross_entropy, plain_pixel_ce, SEGMENTATION),
        (soft_dice, plain_soft_dice, SEGMENTATION),
    ],
    ids=["binary", "pixels", "soft dice"],
)
@pytest.mark.parametrize("classes", [2, 3])
def test_losses_of_the_other_tasks(loss: Objective, plain: Objective, task: Task, classes: int) -> None:
    """Fails if a loss is averaged over the batch or the wrong axis. The last image has one class only."""
    generator = torch.Generator().manual_seed(0)
    shape = (5, classes) if task is MULTI_LABEL else (5, classes, 6, 7)
    logits = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    logits.requires_grad_(True)
    y = targets(task, 5, 7, classes)
    if task is SEGMENTATION:
        y = y[:, :6]
        y[-1] = 0
    ours, theirs = loss(logits, y), plain(logits, y)
    assert ours.shape == (5,) and ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-6)
    weights = torch.linspace(1, 2, 5, dtype=torch.float64)
    gradients = [torch.autograd.grad((weights * value).sum(), logits)[0] for value in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


def test_soft_dice_is_between_0_and_1() -> None:
    """Fails if a class that is absent from the mask and from the prediction counts as missed."""
    y = torch.zeros(2, 8, 8, dtype=torch.int64)
    y[0, :4] = 1
    sure = 50.0 * torch.stack([y == 0, y == 1], dim=1).double()
    torch.testing.assert_close(soft_dice(sure, y), torch.zeros(2), rtol=0, atol=1e-6)
    assert (soft_dice(-sure, y) > 0.9).all() and (soft_dice(-sure, y) < 1).all()


@pytest.mark.parametrize(
    "loss",
    [
        cross_entropy,
        lambda logits, y: kl_divergence(logits, logits.flip(1)),
        lambda logits, y: label_divergence(logits, logits.flip(1)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_scored_in_float32(loss: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype) -> None:
    """Fails if the softmax is computed in half precision, whose probabilities have two or three digits."""
    logits, y = random_logits(4, 0).to(dtype), labels(4)
    assert loss(logits, y).dtype == torch.float32
    assert torch.equal(loss(logits, y), loss(logits.float(), y))
    assert not torch.equal(loss(logits, y), loss(random_logits(4, 0).float(), y))


@pytest.mark.parametrize("scale", [1e3, 1e5])
def test_losses_of_extreme_logits_are_finite(scale: float) -> None:
    """Fails if a probability is computed before its logarithm, which is then the logarithm of 0."""
    logits = random_logits(3, 0, scale).float().requires_grad_(True)
    reference = random_logits(3, 1, scale).float().requires_grad_(True)
    total = cross_entropy(logits, labels(3)).sum() + kl_divergence(logits, reference).sum()
    total += label_divergence(logits, reference).sum()
    assert total.isfinite()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(total, (logits, reference)))


@pytest.mark.parametrize("divergence", [kl_divergence, label_divergence])
def test_divergence_from_itself_is_0(divergence: Objective) -> None:
    """Fails if the two arguments are treated differently. The gradient is 0 too: this is why TRADES adds noise."""
    logits = random_logits(3, 0).float().requires_grad_(True)
    loss = divergence(logits, logits.detach())
    torch.testing.assert_close(loss, torch.zeros(IMAGES), rtol=0, atol=1e-6)
    assert torch.autograd.grad(loss.sum(), logits)[0].abs().max() < 1e-6
