"""The warm interpreter, which replaces `python` in many tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.running import ROOT

# Starts a child that ends with it, prints the child's id and waits.
PARENT = """
import os, subprocess, sys
program = "import sys, time; from tests.support.warm import end_with_parent; end_with_parent(int(sys.argv[1]))"
program += "; print('ready', flush=True); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", program, str(os.getpid())], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
child.wait()
"""


def wait_for_end(process: int) -> None:
    """Waits until a process has ended. Fails after 30 seconds."""
    status, deadline = Path(f"/proc/{process}/status"), time.monotonic() + 30
    while status.exists() and "\nState:\tZ" not in status.read_text():
        assert time.monotonic() < deadline, "the child outlives its parent"
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl(2)")
def test_it_ends_with_its_parent() -> None:
    """Fails if `end_with_parent` does not end a process whose parent is killed."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate()
    wait_for_end(child)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl(2)")
def test_its_server_ends_with_its_parent(tmp_path: Path) -> None:
    """Fails if the server outlives a test run that is killed."""
    program = "import sys, time; from pathlib import Path; from tests.support.warm import warm_python\n"
    program += "with warm_python(Path(sys.argv[1])): print('ready', flush=True); time.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", program, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None and parent.stdout.readline() == "ready\n"
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    parent.kill()
    parent.communicate()
    for child in children:
        wait_for_end(int(child))
