"""The settings of the memory allocator."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from tests.support.running import ROOT

# Frees and allocates three blocks again, one of them larger than any threshold of glibc, and counts page faults. Above
# them lie 3 GiB: a trim threshold of the largest int would return what exceeds 2 GiB.
PROGRAM = """
import resource, sys
import torch
from advmia.commands import testing, training
from advmia.runtime import machine
if sys.argv[1] == "kept":
    machine.keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def take(rounds):
    for _ in range(rounds):
        blocks = [torch.ones(size * 2**18) for size in (8, 24, 48)]
        behind = torch.empty(3 * 2**30, dtype=torch.uint8)  # not written to: it takes next to no memory
        del blocks, behind
take(1)
before = faults()
take(3)
print(faults() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="another C library than glibc")
def test_freed_memory_is_kept() -> None:
    """Fails if large tensors get new memory from the system each time, which is 20,000 pages of 4 KiB in each round."""

    def faults(how: str) -> int:
        words = [sys.executable, "-c", PROGRAM, how]
        return int(subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout)

    most = faults("default") / 4
    assert any(faults("kept") < most for _ in range(3))  # random addresses may cost a block


def test_another_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if glibc's settings are passed to another C library, or its absence raises."""
    from advmia.runtime import machine

    class Other:
        mallopt = staticmethod(lambda *_: pytest.fail("mallopt was called"))

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Other())
    machine.keep_freed_memory()
