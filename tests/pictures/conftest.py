"""The fixture that runs the commands of `tests.pictures.commands`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.pictures.commands import RunTest
from tests.support.running import run_main


@pytest.fixture
def run_test(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few_steps: None, small_networks: None
) -> RunTest:
    """Runs a test command in this process and returns its exit status; its results go to a folder in `tmp_path`."""
    monkeypatch.chdir(world)

    def run(words: Sequence[object], out: str, *more: object) -> int:
        return run_main(monkeypatch, [*words, "--resultDir", tmp_path / out, *more])

    return run
