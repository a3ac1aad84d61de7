"""Which images a contact sheet shows."""

from __future__ import annotations

import pytest

from advmia.pictures.choosing import choose

RANKING = [7, 3, 9, 0, 5, 1, 8, 2, 6, 4]  # from the worst to the best


@pytest.mark.parametrize(
    ("ranking", "count", "expected"),
    [
        (RANKING, 1, {0: "first", 7: "worst", 5: "median", 4: "best"}),
        (RANKING, 2, {0: "first", 1: "first, median", 7: "worst", 3: "worst", 5: "median", 4: "best", 6: "best"}),
        ([1, 0], 2, {0: "first, worst, median, best", 1: "first, worst, median, best"}),
        ([2, 0, 1], 1, {0: "first, median", 2: "worst", 1: "best"}),
        ([0], 5, {0: "first, worst, median, best"}),
    ],
)
def test_choice(ranking: list[int], count: int, expected: dict[int, str]) -> None:
    """Fails if another image is chosen, an image is shown twice, or a reason is missing or in another order."""
    chosen = choose(ranking, count)
    assert chosen == expected
    assert [reason.split(", ")[0] for reason in chosen.values()] == sorted(
        (reason.split(", ")[0] for reason in chosen.values()), key=["first", "worst", "median", "best"].index
    )
