"""The parts that attacks share: freezing the network, gradients, starting points, projection and ascent."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from advmia.attacks.common import ascend, frozen_eval, input_gradient, normal_start, project, uniform_start
from advmia.budgets import Budget
from advmia.losses import cross_entropy
from tests.support.attacks import EPS, SLACK
from tests.support.networks import Snapshot, Wrapped, network, pixels, streams, trained, unsettle


def test_frozen_eval_nests() -> None:
    """Fails if the inner context unfreezes what the outer one has frozen: attacks may be nested."""
    model = unsettle(network("small"))
    before = Snapshot.of(model)
    with frozen_eval(model):
        inside = Snapshot.of(model)
        assert not any(inside.requires_grad.values()) and not any(inside.modes.values())
        with frozen_eval(model):
            pass
        inside.assert_same(model)
    before.assert_same(model)


def test_input_gradient_is_of_the_sum() -> None:
    """Fails if it is of the batch's mean: an image's gradient would shrink with the number of images in its batch."""
    model = trained().double()
    x, y = pixels(6)

    def objective(logits: Tensor, y: Tensor) -> Tensor:
        return -torch.log_softmax(logits, dim=1).gather(1, y[:, None])[:, 0]

    together = input_gradient(model, x.double(), y, objective)
    alone = torch.cat([input_gradient(model, x[i : i + 1].double(), y[i : i + 1], objective) for i in range(6)])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-15)
    assert (together.flatten(1).abs().amax(dim=1) > 0).all()


def test_input_gradient_against_finite_differences() -> None:
    """Fails if the gradient is taken with respect to another tensor, or of a network in train mode."""
    model = trained().double()
    x, y = pixels(1)
    x = x.double()
    gradient = input_gradient(model, x, y, lambda logits, _: logits[:, 0] - logits[:, 1])

    def value(x: Tensor) -> float:
        with torch.no_grad():
            logits = model(x)
        return float(logits[0, 0] - logits[0, 1])

    step = torch.zeros_like(x)
    step[0, 1, 7, 9] = 1e-6
    assert float(gradient[0, 1, 7, 9]) == pytest.approx((value(x + step) - value(x - step)) / 2e-6, rel=1e-5)


def test_ascent_of_a_sum_of_pixels() -> None:
    """Fails if the gradient is changed in place: that of a sum of pixels is an expanded (stride-0) tensor."""
    x = torch.full((2, 3, 4, 4), 0.5)
    budget = Budget(EPS, steps=2, step_size=EPS)
    model = Wrapped(nn.Identity(), lambda x: x.sum(dim=(2, 3)))
    x_adv = ascend(model, x, torch.zeros(2), lambda logits, _: logits.sum(dim=1), budget, x.clone())
    torch.testing.assert_close(x_adv, torch.full_like(x, 0.5 + EPS))


def test_no_steps_give_the_start() -> None:
    """Fails if a step is taken although the budget has none."""
    x = torch.rand(2, 3, 4, 4)
    start = x.clone()
    x_adv = ascend(nn.Identity(), x, torch.zeros(2), cross_entropy, Budget(EPS, 0, EPS), start)
    assert torch.equal(x_adv, start)


@pytest.mark.parametrize("eps", [0.0, EPS, 1.0])
def test_projection_is_the_nearest_image_in_the_budget(eps: float) -> None:
    """Fails if one of the two bounds is left out, or clamping to [0, 1] comes before clamping to eps."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 8, 8, generator=generator)
    x[0, 0] = 0
    x[0, 1] = 1
    x_adv = x + torch.randn(x.shape, generator=generator)
    before = x_adv.clone()
    projected = project(x_adv, x, eps)
    nearest = x_adv.double().clamp((x.double() - eps).clamp(min=0), (x.double() + eps).clamp(max=1))
    torch.testing.assert_close(projected.double(), nearest, rtol=0, atol=SLACK)
    assert projected.min() >= 0 and projected.max() <= 1
    assert torch.equal(x_adv, before)
    torch.testing.assert_close(project(projected, x, eps), projected, rtol=0, atol=SLACK)


def test_uniform_start_fills_the_budget_evenly() -> None:
    """Fails if the noise has one sign only, is not uniform up to eps, or is not clamped to [0, 1]."""
    grey = torch.full((1, 3, 64, 64), 0.5)
    noise = uniform_start(grey, EPS, streams(1)) - grey
    assert noise.abs().max() <= EPS + SLACK
    quarters = torch.histc(noise, bins=4, min=-EPS, max=EPS) / noise.numel()
    torch.testing.assert_close(quarters, torch.full((4,), 0.25), rtol=0, atol=0.02)

    black = uniform_start(torch.zeros(1, 3, 64, 64), EPS, streams(1))
    assert black.min() == 0 and black.max() > 0.9 * EPS
    assert 0.45 < float((black == 0).double().mean()) < 0.55


@pytest.mark.parametrize(("eps", "expected"), [(EPS, 0.001), (0.0005, None), (0.0, 0.0)])
def test_normal_start_is_small_and_within_the_budget(eps: float, expected: float | None) -> None:
    """Fails if the noise has another scale than 0.001, or exceeds an eps below that."""
    grey = torch.full((1, 3, 64, 64), 0.5)
    noise = normal_start(grey, eps, streams(1)) - grey
    assert noise.abs().max() <= eps + 1e-7
    if expected is not None:
        assert float(noise.std()) == pytest.approx(expected, rel=0.05)
