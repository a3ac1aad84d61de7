"""The benchmark of a GPU: each part runs on tiny inputs, on the CPU and on the pretended GPU, and nothing is lost."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType

from benchmarks import counts, gpu, workloads
from benchmarks.workloads import GROUPS, Workload, counted, subject_of
from tests.support.benchmarking import Benchmark, checked
from tests.support.networks import small_networks
from tests.support.pretended_gpu import PretendedGpu, why_not
from tests.support.running import ROOT, run_process

CORE_SECONDS, ALL_SECONDS = 300, 9 * 60


def _kind(work: Workload) -> tuple[object, ...]:
    """Returns in what works must differ for both to be run."""
    is_attack = work.what == "attack" and work.kernels == "auto"
    return work.what, work.kernels, work.layout, work.precision if is_attack else ""


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leaves one workload of each kind, and one at least in a group, on one small network, called few times."""
    kinds: dict[str, tuple[Workload, ...]] = {}
    met: set[object] = set()
    for name, works in GROUPS.items():
        new = {_kind(work): work for work in reversed(works) if _kind(work) not in met}
        kinds[name] = tuple(work for work in works if work in new.values()) or works[:1]
        met.update(new)
    monkeypatch.setattr(workloads, "GROUPS", kinds)
    monkeypatch.setattr(gpu, "GROUPS", kinds)
    monkeypatch.setattr(gpu, "PROFILED", gpu.PROFILED[:2])
    monkeypatch.setattr(gpu, "SHORTEST", 0.0)
    monkeypatch.setattr(gpu, "FEWEST_CALLS", 1)
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    monkeypatch.setattr(torch.profiler, "supported_activities", lambda: {torch.profiler.ProfilerActivity.CPU})
    subject_of.cache_clear()
    with small_networks():
        yield
    subject_of.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_workload(device: str, run_benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a row is missing, an error or without a time, or a group cannot run on a CPU or on a GPU."""
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 1)
    if device == "cuda":
        if why_not():
            pytest.skip(why_not())
        with PretendedGpu():
            rows = run_benchmark("gpu", "--tiny", device=device)["results"]
    else:
        rows = run_benchmark("gpu", "--tiny", device=device)["results"]
    assert [(row["name"], row["failed"]) for row in rows if "failed" in row] == []
    assert list(dict.fromkeys(row["group"] for row in rows)) == ["ceilings", *GROUPS, "profile"]
    for row in rows:
        rates = [row[key] for key in ("ms", "tb_per_second", "tflop_per_second") if key in row]
        assert len(rates) == 1 and (rates[0] > 0 or row["group"] == "profile"), row
    assert {row["name"].split()[1] for row in rows if row["group"] != "ceilings"} == set(workloads.WORK)


def test_an_error_and_the_end_of_the_time(run_benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a workload that does not fit, or fails, ends the others, or a row begins after the time."""

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def wrong(*_: object) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setitem(workloads.WORK, "trades", full)
    monkeypatch.setitem(workloads.WORK, "hat", wrong)
    rows = run_benchmark("gpu", "--tiny", "--groups", "memory")["results"]
    assert {row["failed"] for row in rows} == {"out of memory", "RuntimeError: no such kernel"}
    rows = run_benchmark("gpu", "--tiny", "--groups", "memory", "layouts", "--seconds", 0)["results"]
    assert all(row["skipped"] for row in rows) and {row["group"] for row in rows} == {"memory", "layouts"}


def test_what_a_profile_says() -> None:
    """Fails if what the host launches is not told from what the device does, or operators count as kernels."""

    def row(key: str, count: int, microseconds: float, device: DeviceType) -> SimpleNamespace:
        return SimpleNamespace(key=key, count=count, self_device_time_total=microseconds, device_type=device)

    rows = [
        row("aten::conv2d", 7, 500.0, DeviceType.CPU),
        row("cudaLaunchKernelExC", 2, 0.0, DeviceType.CPU),
        row("cudaLaunchKernel", 3, 0.0, DeviceType.CPU),
        row("cudaGraphLaunch", 1, 0.0, DeviceType.CPU),
        row("cudaStreamSynchronize", 1, 0.0, DeviceType.CPU),
        row("elementwise", 40, 250.0, DeviceType.CUDA),
        row("implicit_gemm", 20, 1250.0, DeviceType.CUDA),
    ]
    found = gpu.summary(rows)
    assert (found["launches"], found["kernels"], found["ms"]) == (6, 60, 1.5)
    assert found["longest"] == [["implicit_gemm", 20, 1.25], ["elementwise", 40, 0.25]]


@pytest.mark.slow
def test_counts(run_benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a workload is not counted, or graphs count in bytes or not in launches."""
    if why_not():
        pytest.skip(why_not())
    works = [work for work in counted() if work.subject == "res18" and (work.precision, work.batch) == ("tf32", 32)]
    monkeypatch.setattr(counts, "counted", lambda: works)
    results = run_benchmark("counts", "--tiny")["results"]
    attack, plain = results["res18 attack tf32 4x32"], results["res18 attack tf32 4x32 plain"]
    assert attack["launches"] < plain["launches"] == plain["launches_without_graphs"]
    assert 0 < attack["bytes"] <= plain["bytes"] and attack["waits"] == 0 < attack["peak_gib"]
    assert attack["seconds"]["A100"] >= attack["seconds"]["H100"] >= attack["launches"] * counts.LAUNCH_SECONDS
    assert results["res18 refold tf32 4x32"]["launches"] < 40


def test_committed_counts_are_of_these_workloads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a workload was added or renamed, and not counted: run `python -m benchmarks.counts --out ...`."""
    monkeypatch.undo()
    record = checked(gpu.COUNTS)
    assert set(record["results"]) == {work.name for work in counted()}


def test_names_are_distinct() -> None:
    """Fails if two workloads have one name, so that one has the other's counts."""
    works = counted()
    assert len({work.name for work in works}) == len(works)


@pytest.mark.parametrize("script", ["gpu.sh", "cpu.sh"])
def test_the_plan_of_a_script(script: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Fails if a part's benchmark or a flag does not exist, or the limits add up to more than stated."""
    environment = os.environ | {"PLAN": "1", "PYTHON": sys.executable}
    command = [ROOT / "benchmarks" / script, tmp_path / "out.json"]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    parts = [line.split() for line in process.stdout.splitlines()]
    assert len(parts) > 5 and not (tmp_path / "out.json").exists()
    for name, _, benchmark, *words in parts:
        monkeypatch.setattr(sys, "argv", [name, *words, "--out", "out.json"])
        assert importlib.import_module(f"benchmarks.{benchmark}")._arguments().out == Path("out.json")
    if script == "gpu.sh":
        limits = [int(part[1]) for part in parts]
        assert parts[0][2] == "gpu_tests" and sum(limits[:6]) <= CORE_SECONDS and sum(limits) < ALL_SECONDS
        rows = [words for _, _, benchmark, *words in parts if benchmark == "gpu"]
        groups = [group for words in rows for group in words[words.index("--groups") + 1 : words.index("--seconds")]]
        assert sorted(groups) == sorted(["ceilings", *GROUPS, "profile"])


@pytest.mark.slow
def test_outcomes_of_tests(tmp_path: Path) -> None:
    """Fails if a test's outcome or what a failed one said is lost, or a failure ends in success."""
    text = "import pytest\npytestmark = pytest.mark.gpu\n"
    text += "def test_good(): pass\ndef test_bad(): assert 1 == 2\ndef test_left(): pytest.skip()\n"
    (tmp_path / "test_some.py").write_text(text)
    out = tmp_path / "out.json"
    words = ["benchmarks.gpu_tests", tmp_path / "test_some.py", "--device", "cpu", "--out", out]
    process = run_process(*words, cwd=tmp_path)
    record = checked(out)
    assert process.returncode == 1 and record["finished"]
    assert record["results"] == {"passed": 1, "failed": 1, "skipped": 1}
    ((name, said),) = record["failures"].items()
    assert "test_bad" in name and "assert 1 == 2" in said
