"""The benchmark of a GPU: each part runs on tiny inputs, on the CPU and on the pretended GPU, and nothing is lost."""

from __future__ import annotations

import pytest
import torch

from benchmarks import gpu, workloads
from benchmarks.workloads import GROUPS, Workload

NETWORK_FREE = "convolution"


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves one workload of each kind, precision and form of the copy, on one network, timed once each."""

    def is_shown(work: Workload) -> bool:
        return (
            work.subject in ("res18", "mv2", "unet", "depthwise-deep") and work.layout == "nchw"
        ) or work.batch != 64

    kept = {name: works[:2] if name == "compiled" else tuple(filter(is_shown, works)) for name, works in GROUPS.items()}
    monkeypatch.setattr(workloads, "GROUPS", kept)
    monkeypatch.setattr(gpu, "GROUPS", kept)
    monkeypatch.setattr(gpu, "MOST_CALLS", 1)
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    monkeypatch.setattr(torch.profiler, "supported_activities", lambda: {torch.profiler.ProfilerActivity.CPU})
