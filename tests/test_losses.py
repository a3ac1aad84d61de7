"""The losses that attacks ascend, each against a plain computation, image by image."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from advmia.losses import (
    binary_cross_entropy,
    confident_margin,
    cross_entropy,
    label_margin,
    margin,
    targeted_cross_entropy,
    targeted_dlr,
    targeted_margin,
)
from tests.support.networks import gaussian

Loss = Callable[[Tensor, Tensor], Tensor]


def plain_margin(logits: Tensor, y: int) -> Tensor:
    return logits[y] - torch.stack([z for k, z in enumerate(logits) if k != y]).max()


def plain_confident_margin(logits: Tensor, y: int) -> Tensor:
    lead = plain_margin(logits, y) + 50
    return -lead if lead > 0 else 0 * lead


def plain_dlr(logits: Tensor, y: int, target: int) -> Tensor:
    ranked = logits.sort(descending=True).values
    return -(logits[y] - logits[target]) / (ranked[0] - 0.5 * (ranked[2] + ranked[3]))


def by_label(plain: Callable[[Tensor, int], Tensor], y: Tensor, image_logits: Tensor, index: int) -> Tensor:
    return plain(image_logits, int(y[index]))


def by_label_and_target(
    plain: Callable[[Tensor, int, int], Tensor], pair: Tensor, image_logits: Tensor, index: int
) -> Tensor:
    return plain(image_logits, *pair[index].tolist())


def check_values_and_gradients(loss: Loss, y: Tensor, plain: Callable[[Tensor, int], Tensor], logits: Tensor) -> None:
    """Checks that a loss and its gradient equal those of `plain`, which takes one image's logits and its index."""
    logits = logits.clone().requires_grad_(True)
    actual = loss(logits, y)
    expected = torch.stack([plain(image_logits, index) for index, image_logits in enumerate(logits)])
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    gradients = [torch.autograd.grad(values.sum(), logits)[0] for values in (actual, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
    assert gradients[0].isfinite().all()


@pytest.mark.parametrize(("classes", "scale"), [(2, 1.0), (3, 60.0), (7, 1.0), (7, 60.0)])
def test_margins(classes: int, scale: float) -> None:
    """Fails if the true class counts as one of the others, or CW's loss is cut off elsewhere than at 50."""
    logits, y = scale * gaussian(30, classes), torch.arange(30) % classes
    for loss, plain in ((margin, plain_margin), (confident_margin, plain_confident_margin)):
        check_values_and_gradients(loss, y, partial(by_label, plain, y), logits)
    assert (confident_margin(logits, y) == 0).any() == (scale > 1)


@pytest.mark.parametrize("classes", [4, 5, 9])
def test_targeted_losses_against_plain_ones(classes: int) -> None:
    """Fails if label and target are swapped, or DLR ranks the logits without the label or the target."""
    logits, y = 3 * gaussian(30, classes), torch.arange(30) % classes
    pair = torch.stack([y, (y + 1 + torch.arange(30) % (classes - 1)) % classes], dim=1)
    plain: dict[Loss, Callable[[Tensor, int, int], Tensor]] = {
        targeted_dlr: plain_dlr,
        targeted_margin: lambda z, label, target: z[target] - z[label],
        targeted_cross_entropy: lambda z, label, target: z[target] - z.exp().sum().log(),
    }
    for loss, by_pair in plain.items():
        check_values_and_gradients(loss, pair, partial(by_label_and_target, by_pair, pair), logits)


def test_dlr_does_not_depend_on_shift_and_scale() -> None:
    """Fails if a logit is missing in the denominator, or the constant against division by 0 is too large."""
    logits = gaussian(30, 6)
    pair = torch.tensor([[0, 3]]).repeat(30, 1)
    expected = targeted_dlr(logits, pair)
    for other in (logits * 1e4, logits * 1e-3, logits + 5):
        torch.testing.assert_close(targeted_dlr(other, pair), expected, rtol=1e-3, atol=1e-4)


def test_label_margin() -> None:
    """Fails if an absent finding counts as a present one, or labels that are already wrong do not count."""
    logits, y = 3 * gaussian(20, 5), (gaussian(20, 5, seed=1) > 0).float()

    def plain(image_logits: Tensor, index: int) -> Tensor:
        signed = [z if present else -z for z, present in zip(image_logits, y[index] > 0, strict=True)]
        return -torch.stack(signed).mean()

    check_values_and_gradients(label_margin, y, plain, logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_scored_in_float32(dtype: torch.dtype) -> None:
    """Fails if a difference of two logits is computed in half precision."""
    logits, y = (40 * gaussian(20, 5)).to(dtype), torch.arange(20) % 5
    pair = torch.stack([y, (y + 1) % 5], dim=1)
    cases: list[tuple[Loss, Tensor]] = [(loss, y) for loss in (margin, confident_margin, cross_entropy)]
    cases += [(loss, pair) for loss in (targeted_margin, targeted_dlr, targeted_cross_entropy)]
    for loss, labels in [*cases, (label_margin, (logits > 0).float())]:
        values = loss(logits, labels)
        assert values.dtype == torch.float32
        assert torch.equal(values, loss(logits.float(), labels))


def test_a_gradient_of_findings_does_not_depend_on_the_position() -> None:
    """Fails in float32, where exponentials differ in the last bit by their position in a vector."""
    generator = torch.Generator().manual_seed(0)
    logits, y = torch.randn(64, 14, generator=generator), torch.randint(2, (64, 14), generator=generator).float()

    def gradients(size: int) -> Tensor:
        parts = []
        for part, labels in zip(logits.split(size), y.split(size), strict=True):
            leaf = part.clone().requires_grad_(True)
            parts.append(torch.autograd.grad(binary_cross_entropy(leaf, labels).sum(), leaf)[0])
        return torch.cat(parts)

    assert torch.equal(gradients(8), gradients(1))
