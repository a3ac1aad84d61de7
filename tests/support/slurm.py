"""A real Slurm on this machine, for tests: `slurmctld`, `slurmd` and `munged` of Debian's packages, without systemd."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel")
SETTINGS = """
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
KillWait=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str:
    """Returns why Slurm cannot be started here; "" if it can."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"{', '.join(missing)} not installed (Debian: slurmctld slurmd slurm-client munge)"
    return "" if os.geteuid() == 0 else "Slurm's daemons need the super-user"


@contextmanager
def running_slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Runs a Slurm with one node of two CPUs in `folder`; yields the environment variables for its commands."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    ports = free_ports(2)
    host = socket.gethostname().partition(".")[0]
    settings = SETTINGS.format(folder=folder, host=host, controller_port=ports[0], node_port=ports[1])
    (folder / "slurm.conf").write_text(settings)
    environment = {"SLURM_CONF": str(folder / "slurm.conf")}
    daemons = [start_munge(folder)]
    try:
        for program in ("slurmctld", "slurmd"):
            daemons.append(subprocess.Popen([program, "-D", "-f", folder / "slurm.conf"], stderr=subprocess.DEVNULL))
        wait_for_node(environment, folder)
        yield environment
    finally:
        subprocess.run(["scancel", "--me"], env=os.environ | environment, check=False, capture_output=True)
        for daemon in reversed(daemons):
            daemon.terminate()
            try:
                daemon.wait(timeout=5)
            except subprocess.TimeoutExpired:  # slurmd waits for its jobs
                daemon.kill()
                daemon.wait()


def start_munge(folder: Path) -> subprocess.Popen[bytes]:
    """Starts munged, by which Slurm's programs know each other, with a key and a socket of its own."""
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o400)
    words = ["munged", "--foreground", "--force", f"--key-file={folder}/munge.key", f"--socket={folder}/munge.socket"]
    words += [f"--pid-file={folder}/munge.pid", f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed"]
    daemon = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    wait_until((folder / "munge.socket").exists, f"munged did not start: see {folder}/munge.log")
    return daemon


def wait_for_node(environment: dict[str, str], folder: Path) -> None:
    def is_idle() -> bool:
        words = ["sinfo", "--noheader", "--format=%t"]
        return (
            "idle"
            in subprocess.run(words, env=os.environ | environment, capture_output=True, text=True, check=False).stdout
        )

    wait_until(is_idle, f"the node is not idle: see {folder}/slurmctld.log")


def wait_until(condition: Callable[[], bool], message: str, seconds: float = 60) -> None:
    """Waits until `condition()` is true. Fails with the message if it does not become true in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, message
        time.sleep(0.05)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
