"""Starts one process for each device on this machine, forwards signals to them and waits for their end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from advmia.runtime.devices import pick_devices
from advmia.runtime.signals import forward_signals
from advmia.runtime.terminal import say

_STOP_SECONDS = 30.0  # that the others get to end by themselves, when one has ended after a forwarded signal
_POLL_SECONDS = 0.05


def needs_spawn(gpus: list[str] | None) -> bool:
    """Returns whether `--gpu` names several devices and this process is not yet one of a process group."""
    return gpus is not None and len(gpus) > 1 and "RANK" not in os.environ


def spawn(gpus: list[str]) -> int:
    """Runs this command once for each device, waits, and returns the exit status. If one process dies, all end."""
    devices = pick_devices(gpus)
    environment = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(len(devices)),
        "LOCAL_WORLD_SIZE": str(len(devices)),
    }
    if devices[0].type == "cpu":  # more threads than cores would slow all processes down
        environment.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // len(devices), 1)))
    children = [
        subprocess.Popen(
            [sys.executable, *sys.argv],
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            start_new_session=True,  # so that Ctrl-C reaches this process only, which forwards it
        )
        for rank in range(len(devices))
    ]
    with forward_signals(lambda signal_number: _send(children, signal_number)) as received:
        return _wait(children, received)


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def _send(children: list[subprocess.Popen[bytes]], signal_number: int) -> None:
    """Sends the signal to the processes that still run."""
    for child in children:
        if child.poll() is None:
            child.send_signal(signal_number)


def _wait(children: list[subprocess.Popen[bytes]], received: list[int]) -> int:
    """Waits for all processes. Returns 0, or the exit status of the first that fails; then it kills the others.

    `received`: the signals that were received and forwarded. After one, processes get time to save their work.
    """
    failed: subprocess.Popen[bytes] | None = None
    while failed is None and any(child.poll() is None for child in children):
        time.sleep(_POLL_SECONDS)
        failed = next((child for child in children if child.poll()), None)
    if failed is None:
        return 0
    deadline = time.monotonic() + (_STOP_SECONDS if received else 0)
    while any(child.poll() is None for child in children) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    _send(children, signal.SIGKILL)
    status = failed.returncode
    if received:
        return children[0].wait() if children[0].wait() > 0 else 128 + received[0]
    if status < 0:
        rank, cause = children.index(failed), signal.Signals(-status).name
        say(
            f"{Path(sys.argv[0]).name}: error: process {rank} of {len(children)} (from 0) was killed by {cause}, so the"
            " others were ended too; continue a training with --resume, a test with the same command"
        )
        return 1
    return status
