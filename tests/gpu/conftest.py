"""The pretended GPU, for tests of what it records."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from advmia.runtime.precision import Precision
from tests.support.pretended_gpu import PretendedGpu, why_not


@pytest.fixture(autouse=True)
def torchs_switches() -> Iterator[None]:
    """Switches tf32 off for each test, and leaves it off."""
    Precision.allow_tf32(False)
    yield
    Precision.allow_tf32(False)


def _pretend(*, shapes_only: bool) -> PretendedGpu:
    """Returns a pretended GPU to be entered; skips the test where torch cannot have one."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    torch.manual_seed(0)
    return PretendedGpu(shapes_only=shapes_only)


@pytest.fixture
def pretended() -> Iterator[PretendedGpu]:
    """The pretended GPU during the test, also on a machine that has a real one."""
    with _pretend(shapes_only=False) as gpu:
        yield gpu


@pytest.fixture
def shapes() -> Iterator[PretendedGpu]:
    """The pretended GPU without numbers."""
    with _pretend(shapes_only=True) as gpu:
        yield gpu
