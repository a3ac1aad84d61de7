"""The squares that Square proposes, and which of them it keeps."""

from __future__ import annotations

import torch

from advmia.attacks.square_attack import QueryNumbers, Square, random_integers, side_length, square
from advmia.budgets import Budget
from advmia.losses import margin
from tests.support.networks import LogitsFromList, record_calls, streams

EPS = 8 / 255


def test_side_of_the_square() -> None:
    """Fails if the share is halved at another query than in section 5's table."""
    shares = {1: 0.8, 10: 0.8, 11: 0.4, 50: 0.4, 51: 0.2, 201: 0.1, 500: 0.1, 501: 0.05, 1001: 0.025, 2001: 0.0125}
    shares |= {4000: 0.0125, 4001: 0.00625, 6001: 0.003125, 8001: 0.0015625, 9999: 0.0015625}
    for query, share in shares.items():
        assert side_length(query, 224, 224) == max(round((share * 224 * 224) ** 0.5), 1), query
        assert side_length(query, 8, 8) == max(round((share * 64) ** 0.5), 1), query


def test_the_square_fits_a_narrow_image() -> None:
    """Fails if the side exceeds the shorter edge, or is 0."""
    assert side_length(1, 4, 100) == 4 and side_length(1, 100, 4) == 4
    assert side_length(9000, 4, 4) == 1


def test_random_integers_are_uniform_and_within_range() -> None:
    """Fails if the highest integer never occurs, or one above it does."""
    uniform = torch.rand(7000, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(random_integers(uniform, 6)[:, 0], minlength=7)
    assert len(counts) == 7 and counts.min() > 850 and counts.max() < 1150
    edges = torch.tensor([0.0, 1 - 2**-24])
    assert random_integers(edges, 6)[:, 0].tolist() == [0, 6] and random_integers(edges, 0)[:, 0].tolist() == [0, 0]


def test_proposals_of_square() -> None:
    """Fails if the stripes are not vertical, or a square has another size, or more than one sign in a channel."""
    attack = Square(Budget(EPS, 100, 0))
    x = torch.full((8, 3, 10, 12), 0.5)
    numbers = QueryNumbers(streams(8), x)
    stripes = attack.propose(0, x, x, numbers) - x
    torch.testing.assert_close(stripes.abs(), torch.full_like(x, EPS))
    assert torch.equal(stripes, stripes[:, :, :1].expand_as(stripes))
    assert (stripes[:, :, 0].diff(dim=2) != 0).any() and (stripes[:, 0] != stripes[:, 1]).any()
    for query in (1, 30, 300):
        side = side_length(query, 10, 12)
        change = attack.propose(query, x, x, numbers) - x
        for image in change:
            rows, columns = (image != 0).any(dim=0).nonzero().unbind(dim=1)
            assert rows.max() - rows.min() + 1 == side and columns.max() - columns.min() + 1 == side
            square = image[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            torch.testing.assert_close(square.abs(), torch.full_like(square, EPS))
            assert all(len(channel.unique()) == 1 for channel in square)


def test_square_keeps_what_lowers_the_margin() -> None:
    """Fails if a proposal that raises the margin is kept, or the next one starts from it."""
    model = LogitsFromList([(9.0, 0.0), (5.0, 0.0), (6.0, 0.0), (4.0, 0.0), (4.5, 0.0)])
    calls = record_calls(model)
    x = torch.full((1, 3, 8, 8), 0.5)
    x_adv = square(Budget(EPS, 4, 0), margin)(model, x, torch.tensor([0]), rng=streams(1))
    assert model.calls == 5 and torch.equal(x_adv, calls[3].x)


def test_square_keeps_a_success_with_a_higher_margin() -> None:
    """Fails if the search stops at a success, but returns an earlier image with a lower margin.

    The first proposal has the lower margin, but is no clear success, because one logit is large. The second is a clear
    one.
    """
    model = LogitsFromList([(9.0, 0.0, 0.0), (0.0, 9e-4, -100.0), (0.0, 1e-4, 0.0)])
    calls = record_calls(model)
    x = torch.full((1, 3, 8, 8), 0.5)
    x_adv = square(Budget(EPS, 2, 0), margin)(model, x, torch.tensor([0]), rng=streams(1))
    assert torch.equal(x_adv, calls[2].x) and not torch.equal(calls[1].x, calls[2].x)
