"""Settings that make attacks fast enough for tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def few_queries() -> Iterator[None]:
    """Makes AutoAttack's Square use 10 queries for each step of the other attacks, not 50."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("advmia.attacks.auto_attack.QUERIES_PER_STEP", 10)
        yield
