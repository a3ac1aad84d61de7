"""FAB's step to a plane within the pixels' range, against an independent computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from advmia.attacks.fab import step_to_boundary, to_plane
from tests.support.networks import gaussian


def plane_by_bisection(point: np.ndarray, normal: np.ndarray, value: float) -> np.ndarray:
    """Returns the smallest step that reaches the plane, found by bisection of its size; it ends at the box's bounds."""
    sign = -np.sign(value) * np.sign(normal)

    def step(r: float) -> np.ndarray:
        return np.where(sign == 0, 0.0, (point + sign * r).clip(0, 1) - point)

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if abs(normal @ step(middle)) >= abs(value) else (middle, high)
    return step(high)


@pytest.mark.parametrize("kind", ["near", "box-limited", "unreachable", "sparse"])
def test_to_plane_against_bisection(kind: str) -> None:
    """Fails if a coordinate leaves the box, others do not move further instead, or the sign is wrong."""
    rng = np.random.default_rng(0)
    batch, shape = 18, (3, 4, 5)
    point = rng.random((batch, *shape))
    point[:, :, 0] = 0  # a black border
    point[:, :, 1, 0] = 1
    normal = rng.normal(size=(batch, *shape)) * 10.0 ** rng.integers(-3, 4, (batch, 1, 1, 1))
    if kind == "sparse":
        normal[rng.random(normal.shape) < 0.7] = 0
    share = {"near": 0.01, "box-limited": 0.4, "unreachable": 3.0, "sparse": 0.1}[kind]
    value = share * np.abs(normal).sum(axis=(1, 2, 3)) * rng.choice([-1, 1], batch)
    tensors = (torch.from_numpy(values).float() for values in (point, normal, value))
    step = to_plane(*tensors).double().numpy()
    assert ((point + step > -1e-6) & (point + step < 1 + 1e-6)).all()
    for i in range(batch):
        expected = plane_by_bisection(point[i].ravel(), normal[i].ravel(), value[i])
        np.testing.assert_allclose(step[i].ravel(), expected, atol=2e-6)
        reached = value[i] + normal[i].ravel() @ step[i].ravel()
        if kind == "unreachable":
            assert np.sign(reached) == np.sign(value[i])
            assert (np.isclose(point[i] + step[i], 0, atol=1e-6) | np.isclose(point[i] + step[i], 1, atol=1e-6)).all()
        elif kind == "near":
            assert abs(reached) < 1e-5 * np.abs(normal[i]).sum()


def test_to_plane_is_the_smallest_step() -> None:
    """Fails if a smaller step reaches the plane: none of many random ones in a smaller cube does."""
    rng = np.random.default_rng(0)
    point, normal = rng.random((1, 1, 2, 3)), rng.normal(size=(1, 1, 2, 3))
    value = 0.15 * np.abs(normal).sum()
    step = to_plane(*(torch.from_numpy(np.asarray(values)).float() for values in (point, normal, [value]))).numpy()
    radius = 0.999 * np.abs(step).max()
    corners = rng.choice([-radius, radius], (2000, 6))
    inside = (point.ravel() + corners).clip(0, 1) - point.ravel()
    assert (value + inside @ normal.ravel() > 0).all()
    assert abs(value + normal.ravel() @ step.ravel()) < 1e-5


def test_to_plane_without_a_way() -> None:
    """Fails if it divides by zero where the gradient vanishes, or the point is on the plane or in the box's corner."""
    point = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0)).repeat(3, 1, 1, 1)
    normal = gaussian(3, 3, 4, 4)
    normal[0] = 0
    value = torch.tensor([1.0, 0.0, 1.0])
    point[2] = (normal[2] < 0).float()  # along the step, the box ends here
    assert torch.equal(to_plane(point, normal, value), torch.zeros_like(point))


def test_a_step_of_fab_does_not_depend_on_the_batch() -> None:
    """Fails in float32, where threads share the sum of a single image, so that it is rounded differently."""
    threads, generator = torch.get_num_threads(), torch.Generator().manual_seed(0)
    x, current, gradient = (torch.rand(4, 3, 224, 224, generator=generator) for _ in range(3))
    lead, gradient = torch.full((4,), 0.5), gradient - 0.5
    try:
        torch.set_num_threads(2)
        together = step_to_boundary(current, x, gradient, lead)
        images = zip(*(values.split(1) for values in (current, x, gradient, lead)), strict=True)
        alone = [step_to_boundary(*image) for image in images]
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(together, torch.cat(alone))
