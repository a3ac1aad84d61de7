"""Functions that run the entry scripts: as processes, or their `main` in this process."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def run_process(
    *words: object, cwd: Path, python: Path | str = sys.executable, timeout: float = 600
) -> subprocess.CompletedProcess[str]:
    """Runs `python WORDS`, a script or a module, in the folder `cwd` on one thread; returns the finished process."""
    program = str(words[0])
    script = [str(ROOT / program)] if program.endswith(".py") else ["-m", program]
    return subprocess.run(
        [python, *script, *map(str, words[1:])],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def run_well(*words: object, cwd: Path, python: Path | str = sys.executable) -> str:
    """Runs a process as `run_process`; returns its standard output. Fails if its exit status is not 0."""
    process = run_process(*words, cwd=cwd, python=python)
    assert process.returncode == 0, process.stderr
    return process.stdout


def run_main(monkeypatch: pytest.MonkeyPatch, words: Sequence[object]) -> int:
    """Runs a script's `main` in this process; returns the exit status."""
    name = str(words[0])
    module = importlib.import_module("advmia.__main__" if name == "advmia" else name.removesuffix(".py"))
    monkeypatch.setattr(sys, "argv", list(map(str, words)))
    try:
        return int(module.main())
    except SystemExit as stop:  # argparse
        return int(stop.code or 0)


def start(words: Sequence[object], folder: Path, python: Path | str = sys.executable) -> subprocess.Popen[str]:
    """Starts a script in a folder, as a process of its own, to which signals can be sent."""
    return subprocess.Popen(
        [python, str(ROOT / str(words[0])), *map(str, words[1:])],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_until(running: subprocess.Popen[str], text: str, stream: IO[str] | None = None) -> str:
    """Reads standard output, or another stream, up to the first line that contains the text; returns that line."""
    lines = stream or running.stdout
    assert lines is not None
    deadline = time.monotonic() + 120
    for line in lines:
        if text in line:
            return str(line)
        assert time.monotonic() < deadline
    raise AssertionError(f"no {text!r}: {running.communicate()}")


def check_one_line(text: str, expected: str) -> None:
    assert expected in text
    assert text.count("\n") == 1, text
    assert "Traceback" not in text
