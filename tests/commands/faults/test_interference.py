"""Two runs of one checkpoint, a process that dies, signals, files that vanish, and memory that is full."""

from __future__ import annotations

import shlex
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from advmia.commands import inputs
from advmia.data import cache
from advmia.runtime.files import write_lock
from tests.support.faults import TEST, TRAIN, VISUAL, RunHere, digests, last_line, run_process
from tests.support.running import read_until, start
from tests.support.spoiling import spoil_image


@pytest.mark.slow
def test_two_writers(folder: Path, warm_interpreter: Path) -> None:
    """Fails if a second training writes the files that a first one is writing."""
    path = "new/MobileNetV2_melBin_nat_class2_maxLR0.01_weightDecay0.001"
    with write_lock(folder / path):
        before = digests(folder)
        process = run_process(warm_interpreter, folder, TRAIN)
        assert digests(folder) == before
    assert process.returncode == 2
    assert f"another run is writing {path} now: wait for its end, or write to another folder" in last_line(process)


@pytest.mark.slow
def test_a_bad_image_in_two_processes(folder: Path, warm_interpreter: Path) -> None:
    """Fails if each of two processes reports a fault that both have met."""
    spoil_image("image", "cut")(folder)
    process = run_process(warm_interpreter, folder, TRAIN.replace("--gpu cpu", "--gpu cpu cpu"))
    assert process.returncode == 2 and process.stderr.count("error: ") == 1, process.stderr
    assert "testbin.csv row 1: cannot read" in last_line(process)


@pytest.mark.slow
def test_a_signal(folder: Path, warm_interpreter: Path) -> None:
    """Fails if a signal ends a test in a traceback, or in another status than a shell expects."""
    running = start(shlex.split(f"{TEST} --attacks aa"), folder, warm_interpreter)
    read_until(running, "aa\n")
    running.send_signal(signal.SIGTERM)
    _, stderr = running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGTERM and "Traceback" not in stderr, stderr
    assert stderr.splitlines()[-1] == "testCls.py: stopped; the same command continues"


def test_an_image_vanishes_during_a_run(folder: Path, monkeypatch: pytest.MonkeyPatch, run_here: RunHere) -> None:
    """Fails if a file that was there when the list was read is not named once it is gone."""
    monkeypatch.chdir(folder)
    load = cache.load_image

    def load_and_remove(path: Path, **options: Any) -> np.ndarray:
        path.with_name("ISIC_0000023.jpg").unlink(missing_ok=True)
        return load(path, **options)

    monkeypatch.setattr(cache, "load_image", load_and_remove)
    status, stderr = run_here(f"{TEST} --imgSize 24 --workers 1")
    assert status == 2 and "testbin.csv row 6: cannot read" in stderr


GPU_FULL = torch.OutOfMemoryError("CUDA out of memory. Tried")
ALLOCATION_FAILED = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate")
FULL_MEMORY = [
    (GPU_FULL, TRAIN, "the GPU's memory is full: try --bs 4, which"),
    (GPU_FULL, f"{TEST} --bs 1", "--bs 1 is the smallest; try a smaller"),
    (GPU_FULL, f"{VISUAL} --bs 9", "try --bs 4, which"),
    (GPU_FULL, f"{TEST} --autoBatch", "is full: name a batch size, e.g. --bs 16: more"),
    (GPU_FULL, TEST.replace("--bs 8", ""), "is full: name a batch size, e.g. --bs 16: more"),
    (GPU_FULL, f"{TEST} --bs 6", "is full: try --bs 3, which"),
    (MemoryError(), f"{TRAIN} --bs 9", "the memory is full: try --bs 4, which"),
    (MemoryError(), f"{TEST} --autoBatch", "the memory is full: try --bs 4"),  # on a CPU, --bs counts
    (ALLOCATION_FAILED, TEST, "the memory is full: try --bs 4"),
]
GPU_FAILED = [
    (
        RuntimeError(f"{reason}\nfurther lines"),
        TRAIN,
        f"the GPU or its driver failed ({reason}): run the command again (a",
    )
    for reason in (
        "CUDA error: an illegal memory access was encountered",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "NCCL communicator was aborted on rank 1.",
    )
]


def test_full_memory_and_a_gpu_that_fails(folder: Path, monkeypatch: pytest.MonkeyPatch, run_here: RunHere) -> None:
    """Fails if full memory or an error of the GPU ends in a traceback, or no line says what to try."""
    monkeypatch.chdir(folder)
    for error, command, message in [*FULL_MEMORY, *GPU_FAILED]:

        def fail(*_: object, error: Exception = error, **_options: object) -> None:
            raise error

        monkeypatch.setattr(inputs, "load_data", fail)
        status, stderr = run_here(command)
        assert status == 2 and message in stderr and stderr.count("\n") == 1, (command, stderr)
