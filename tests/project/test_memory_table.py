"""The tables of memory in docs/speed.md, and the benchmark that counts them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import memory
from tests.support import networks
from tests.support.pretended_gpu import why_not
from tests.support.running import ROOT

RECORD = ROOT / "benchmarks" / "results" / "memory.json"

needs_pretended_gpu = pytest.mark.skipif(bool(why_not()), reason=why_not() or "it is there")


def test_the_tables_are_those_of_the_benchmark() -> None:
    """Fails if docs/speed.md shows other numbers than the committed file, or a network, method or size is missing."""
    results, text = json.loads(RECORD.read_text())["results"], (ROOT / "docs" / "speed.md").read_text()
    assert {result["network"] for result in results} == set(memory.MODELS)
    assert len(results) == 4 * (4 * 2 * 3 + 2 * 2)  # with both precisions, and with and without recomputation
    for is_recomputed in (False, True):
        assert f"\n\n{memory.table(results, is_recomputed)}\n\n" in text


@needs_pretended_gpu
def test_a_count_is_still_right() -> None:
    """Fails if a step needs another peak of memory than the committed file says: count and write the tables again."""
    (counted,) = (
        result["gib"]
        for result in json.loads(RECORD.read_text())["results"]
        if (result["network"], result["size"], result["method"]) == ("res18", 224, "hat")
        and (result["precision"], result["recomputed"]) == ("bf16", True)
    )
    found = memory.peak(memory.Case("res18", 224, "hat", "bf16", recomputed=True), 32)
    assert found / 2**30 == pytest.approx(counted, rel=0.02)


@needs_pretended_gpu
def test_the_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails if a case is left out, bf16 or recomputation needs no less, or memory does not grow with the batch."""
    peaks = []
    words = ["memory", "--device", "cpu", "--models", "mv2", "unet", "--size", "32", "--maskSize", "32"]
    for batch_size, methods in ((4, ["nat"]), (8, ["nat", "hat"])):
        path = tmp_path / f"{batch_size}.json"
        more = ["--methods", *methods, "--bs", str(batch_size), "--out", str(path)]
        monkeypatch.setattr(sys, "argv", [*words, *more])
        with networks.small_networks():
            memory.main()
        results = json.loads(path.read_text())["results"]
        peaks.append({tuple(result.values())[:-1]: result["gib"] for result in results})
    few, many = peaks
    assert (len(few), len(many)) == (4 * 2, 4 * (2 + 1)) and all(many[case] > few[case] for case in few)
    assert many["mv2", 32, "nat", "bf16", False] < 0.7 * many["mv2", 32, "nat", "tf32", False]
    assert many["mv2", 32, "hat", "tf32", True] < 0.7 * many["mv2", 32, "hat", "tf32", False]
    assert "| network | pixels | nat | hat |" in capsys.readouterr().out
