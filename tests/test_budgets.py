"""Budgets in grey levels and in pixel values, and the survey's step sizes."""

from __future__ import annotations

import dataclasses

import pytest

from advmia.budgets import Budget, fgsm_budget, grey_step_size_for, grey_token, pgd_budget, training_budget
from advmia.errors import UserError

PUBLISHED = [(1, 0.5), (2, 0.5), (4, 1), (8, 2)]  # eps and step size in grey levels


@pytest.mark.parametrize(("grey_eps", "step_size"), PUBLISHED)
def test_published_budgets(grey_eps: float, step_size: float) -> None:
    """Fails if a step size, a number of steps or the divisor differs from the survey's."""
    eps = grey_eps / 255
    assert grey_step_size_for(grey_eps) == step_size
    assert training_budget(grey_eps) == Budget(eps, 10, step_size / 255)
    assert pgd_budget(grey_eps) == Budget(eps, 20, step_size / 255)
    assert fgsm_budget(grey_eps) == Budget(eps, 1, eps)


@pytest.mark.parametrize(("grey_eps", "step_size"), [(0, 0.5), (0.5, 0.5), (3, 0.75), (16, 4), (255, 63.75)])
def test_step_size_of_other_budgets(grey_eps: float, step_size: float) -> None:
    """Fails if an eps that is not the survey's gets a step size other than max(0.5, eps / 4)."""
    assert grey_step_size_for(grey_eps) == step_size


@pytest.mark.parametrize("grey_eps", [0, 0.5, 1, 2, 4, 8, 12.75, 255])
def test_grey_levels_are_not_rounded(grey_eps: float) -> None:
    """Fails if rounding changes grey_eps, by which earlier results are looked up."""
    budget = Budget.grey(grey_eps, 20, grey_eps / 4)
    assert budget.grey_eps == grey_eps
    assert budget.grey_step_size == round(grey_eps / 4, 6)


@pytest.mark.parametrize(
    ("eps", "steps", "step_size", "says"),
    [
        pytest.param(8, 20, 0.01, r"eps 8 is outside \[0, 1\].*write 8 / 255", id="grey eps as pixel value"),
        pytest.param(-0.01, 20, 0.01, "eps -0.01 is outside", id="negative eps"),
        pytest.param(float("nan"), 20, 0.01, "eps nan is outside", id="eps not a number"),
        pytest.param(0.03, -1, 0.01, "steps >= 0.*got -1 and 0.01", id="negative steps"),
        pytest.param(0.03, 20, -0.01, "step size >= 0, got 20 and -0.01", id="negative step size"),
    ],
)
def test_bad_budgets(eps: float, steps: int, step_size: float, says: str) -> None:
    """Fails if a budget that makes no sense is accepted."""
    with pytest.raises(UserError, match=says):
        Budget(eps, steps, step_size)


def test_grey_levels_beyond_white() -> None:
    """Fails if eps is checked before it is divided by 255."""
    with pytest.raises(UserError, match="is outside"):
        Budget.grey(256, 20, 1)
    assert Budget.grey(255, 20, 1).eps == 1


def test_a_budget_cannot_be_changed() -> None:
    """Fails if an attack could change the budget that is recorded."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Budget.grey(8, 20, 2).eps = 0.5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("level", "token"), [(0, "0"), (0.5, "05"), (1, "1"), (1.0, "1"), (2, "2"), (2.5, "2.5"), (8, "8"), (0.25, "025")]
)
def test_grey_token(level: float, token: str) -> None:
    """Fails if file names and output lines do not have the published spelling (0.5 is `05`)."""
    assert grey_token(level) == token
