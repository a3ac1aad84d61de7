"""A fixture for the tests of benchmarks."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.benchmarking import Benchmark, checked, small_network


@pytest.fixture
def run_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Benchmark:
    """Returns a function that runs a benchmark on a small network, in this process, and returns its checked record."""
    from benchmarks import subjects, timing

    monkeypatch.setattr(subjects, "network", small_network)
    monkeypatch.setattr(timing, "set_memory", lambda settings: None)  # would outlive the test

    def run(benchmark: str, *words: object, device: str = "cpu") -> dict[str, Any]:
        out = tmp_path / "out.json"
        monkeypatch.setattr(sys, "argv", [benchmark, *map(str, words), "--device", device, "--out", str(out)])
        importlib.import_module(f"benchmarks.{benchmark}").main()
        assert capsys.readouterr().out.strip(), "no table"
        return checked(out)

    return run
