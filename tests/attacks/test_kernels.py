"""The Triton kernels of the fused copy, without a GPU: interpreted on a CPU, and compiled."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.running import ROOT


def run(**environment: str) -> dict[str, str]:
    """Returns what `tests.support.kernels` prints, {name: value}."""
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "tests.support.kernels"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(line.rsplit(": ", 1) for line in done.stdout.splitlines())


@pytest.mark.slow
def test_they_compute_what_torch_does() -> None:
    """Fails if a kernel leaves out a pixel, a channel or a mask, or reads over an edge, at odd sizes and strides."""
    found = run(TRITON_INTERPRET="1")
    assert len(found) >= 12 and {name.partition(" ")[0] for name in found} == {
        "masked_sum", "depthwise_relu", "depthwise_relu_backward",
    }  # fmt: skip
    for name, difference in found.items():
        assert float(difference) <= (2**-7 if "bfloat16" in name else 1e-6), (name, difference)


@pytest.mark.slow
def test_they_compile() -> None:
    """Fails if Triton's compiler refuses a kernel, as the interpreter does not."""
    assert len(run(TRITON_INTERPRET="0")) == 6
