"""What the tests of sweeps share: data, and an undisturbed sweep to compare with."""

from __future__ import annotations

from pathlib import Path

import pytest

from advmia.data.phantoms import make_phantoms
from tests.sweeps.running import HAT_SWEEP, Sweeps


@pytest.fixture(scope="session")
def sweeps(warm_interpreter: Path, tmp_path_factory: pytest.TempPathFactory) -> Sweeps:
    folder = tmp_path_factory.mktemp("sweeps")
    make_phantoms(folder / "data", ["mel2017"], count=32, size=32)
    return Sweeps(warm_interpreter, folder)


@pytest.fixture(scope="session")
def undisturbed(sweeps: Sweeps) -> tuple[Path, str]:
    """The folder of a sweep that ran one step after another, and what it printed."""
    return sweeps.folder / "undisturbed", sweeps.run(*HAT_SWEEP, "--out", "undisturbed")[0]
