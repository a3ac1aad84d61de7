"""Standard output and standard error that cannot be written."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.faults import TABLES, TEST, TRAIN, environment, last_line, run_process

pytestmark = pytest.mark.slow
REPORT = f"{TABLES} results"  # prints some lines within a second
BROKEN_PIPE = 128 + signal.SIGPIPE


@pytest.mark.parametrize("command", [REPORT, "trainCls.py --help", TEST])
def test_full_output(command: str, folder: Path, warm_interpreter: Path) -> None:
    """Fails if output that cannot be written ends in a traceback, or goes unnoticed, with a buffer or without."""
    unbuffered, python = ("1", sys.executable) if command == REPORT else ("", warm_interpreter)
    with Path("/dev/full").open("w") as full:
        process = run_process(python, folder, command, stdout=full, env=environment(PYTHONUNBUFFERED=unbuffered))
    assert process.returncode == 2, process.stderr
    assert len(process.stderr.splitlines()) == 1, process.stderr
    assert "cannot write to standard output (No space left on device): send it to another place" in last_line(process)


def test_broken_pipe(folder: Path, warm_interpreter: Path) -> None:
    """Fails if `| head -1` ends in a traceback, or in a status other than that of a broken pipe."""
    read, write = os.pipe()
    os.close(read)
    for python, command in ((sys.executable, REPORT), (warm_interpreter, TRAIN)):
        process = run_process(python, folder, command, stdout=write, env=environment(PYTHONUNBUFFERED=""))
        assert process.returncode == BROKEN_PIPE, process.stderr
        assert "nobody reads its standard output any more; what was saved before is kept" in last_line(process)
    os.close(write)


def test_closed_streams(folder: Path) -> None:
    """Fails if a command does not do its work when its three standard streams are closed."""
    words = [sys.executable, "-m", "advmia", "tables", "results", "--out", "new"]
    shell = f"exec {shlex.join(words)} <&- >&- 2>&-"
    assert subprocess.run(["sh", "-c", shell], cwd=folder, env=environment(), check=False).returncode == 0
    assert (folder / "new" / "tables.md").is_file()


def test_full_standard_error(folder: Path, warm_interpreter: Path) -> None:
    """Fails if an error line that cannot be written changes the exit status."""
    with Path("/dev/full").open("w") as full:
        assert run_process(warm_interpreter, folder, f"{TABLES} none", stderr=full).returncode == 2
