"""SimBA's directions, its steps, and how it counts queries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from advmia.attacks.simba_dct import SimBA, dct_basis, draw_directions
from advmia.budgets import Budget
from advmia.losses import log_odds
from tests.support.networks import LinearNet, LogitsFromList, Wrapped, gaussian, pixels, record_calls, streams


def test_the_dct_basis_is_orthonormal() -> None:
    """Fails if the first row, which is constant, is not scaled to norm 1 like the others."""
    for length in (1, 2, 7, 32, 224):
        basis = dct_basis(length).double()
        torch.testing.assert_close(basis @ basis.T, torch.eye(length).double(), atol=1e-5, rtol=0)
        assert basis[0].unique().numel() == 1, length


def inverse_dct(coefficients: np.ndarray) -> np.ndarray:
    """Returns the inverse DCT of a plane, by the sum that defines it."""
    height, width = coefficients.shape
    rows, columns = np.arange(height), np.arange(width)
    plane = np.zeros((height, width))
    for u in range(height):
        for v in range(width):
            scale = np.sqrt((1 if u == 0 else 2) / height * (1 if v == 0 else 2) / width)
            wave = np.outer(np.cos(np.pi * (rows + 0.5) * u / height), np.cos(np.pi * (columns + 0.5) * v / width))
            plane += coefficients[u, v] * scale * wave
    return plane


def test_a_direction_is_one_coefficient_of_the_dct() -> None:
    """Fails if rows and columns (the image is not square) or channels are mixed up, or a step's L2 norm is not eps.

    The network's odds fall at the first step, which goes backwards.
    """
    eps, x = 0.3, torch.full((1, 3, 4, 6), 0.5)
    for seed in (0, 1, 2):
        model = LogitsFromList([(9.0, 0.0), (8.0, 0.0)])
        x_adv = SimBA(Budget(eps, 1, eps))(model, x, torch.tensor([0]), rng=streams(1, seed))
        coefficients = np.zeros((3, 4, 6))
        coefficients.flat[int(draw_directions(x, 1, streams(1, seed)))] = -eps
        expected = np.stack([inverse_dct(plane) for plane in coefficients])
        np.testing.assert_allclose((x_adv - x)[0].numpy(), expected, atol=1e-6)
        assert float((x_adv - x).norm()) == pytest.approx(eps, rel=1e-5)


def test_directions_are_all_different_and_in_random_order() -> None:
    """Fails if a direction is tried twice, one is left out, or all images share an order."""
    x = torch.zeros(2, 3, 4, 5)
    order = draw_directions(x, 1000, streams(2))
    assert all(sorted(image.tolist()) == list(range(60)) for image in order) and not torch.equal(order[0], order[1])
    assert torch.equal(draw_directions(x, 7, streams(2)), order[:, :7])


@pytest.mark.parametrize(
    ("odds", "queries", "kept"),
    [
        ((9, 8, 7, 6), 3, (1, 2, 3)),  # each step backwards helps
        ((9, 10, 8, 7), 3, (2, 3)),  # the first direction helps only forwards
        ((9, 9, 9, 8, 10, 7), 5, (3, 5)),  # the first direction does not help: the odds stay equal
        ((9, 8, -1), 2, (1, 2)),  # the second step succeeds
    ],
)
def test_steps_and_queries_of_simba(odds: tuple[int, ...], queries: int, kept: tuple[int, ...]) -> None:
    """Fails if a step that does not lower p_y is kept, the next starts elsewhere, or queries are miscounted."""
    count = {(9, 8, 7, 6): 3, (9, 10, 8, 7): 2, (9, 9, 9, 8, 10, 7): 3, (9, 8, -1): 10}[odds]
    model = LogitsFromList([(float(lead), 0.0) for lead in odds])
    calls = record_calls(model)
    x, attack = torch.full((1, 3, 4, 4), 0.5), SimBA(Budget(0.1, count, 0.1))
    x_adv = attack(model, x, torch.tensor([0]), rng=streams(1))
    assert attack.notes["queries"].tolist() == [queries] and len(calls) == queries + 1
    assert torch.equal(x_adv, calls[kept[-1]].x)
    for before, after in zip((0, *kept), kept, strict=False):
        assert float((calls[after].x - calls[before].x).norm()) == pytest.approx(0.1, rel=1e-4)


def test_simba_goes_beyond_eps() -> None:
    """Fails if SimBA is bounded by eps, which is the size of a step.

    The network looks at one pixel only. Each of the 16 directions of its channel changes it, so that 16 steps add up.
    """
    x, eps = torch.full((1, 3, 4, 4), 0.5), 0.05

    model = Wrapped(nn.Identity(), lambda x: torch.stack([40 + x[:, 0, 0, 0], 0 * x[:, 0, 0, 0]], dim=1).double())
    x_adv = SimBA(Budget(eps, 48, eps))(model, x, torch.tensor([0]), rng=streams(1))
    reach = np.abs(np.outer(dct_basis(4)[:, 0], dct_basis(4)[:, 0])).sum()
    assert float(x[0, 0, 0, 0] - x_adv[0, 0, 0, 0]) == pytest.approx(eps * reach, rel=1e-3)
    assert eps * reach > 3 * eps


def test_simba_lowers_the_probability() -> None:
    """Fails if a step that is kept raises the probability of the true class, or log_odds is not its log odds."""
    x, y = pixels(4, classes=4)
    model = LinearNet(4, 16)
    with torch.no_grad():
        model.weight.div_(20)
        y = model(x).argmax(dim=1)
        x_adv = SimBA(Budget(0.2, 40, 0.2))(model, x, y, rng=streams(4))
        before, after = (model(images).softmax(dim=1).gather(1, y[:, None]) for images in (x, x_adv))
        assert (after < before).all()
    p = gaussian(50, 4).softmax(dim=1)
    torch.testing.assert_close(log_odds(p.log(), torch.ones(50, dtype=torch.int64)), (p[:, 1] / (1 - p[:, 1])).log())
