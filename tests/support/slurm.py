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
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str:
    """Returns why Slurm cannot be started here; "" if it can."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"{', '.join(missing)} not installed (Debian: slurmctld slurmd slurm-client munge)"
    return "" if os.geteuid() == 0 else "Slurm's daemons need the super-user"


class LocalSlurm:
    """A Slurm with one node, whose files are in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}

    def start(self, program: str) -> None:
        """Starts `slurmctld` or `slurmd`."""
        words = [program, "-D", "-f", str(self.folder / "slurm.conf")]
        self.daemons[program] = subprocess.Popen(words, stderr=subprocess.DEVNULL)

    def kill(self, program: str) -> None:
        """Kills a daemon by SIGKILL; its jobs go on."""
        self.daemons[program].kill()
        self.daemons[program].wait()

    def call(self, *words: object) -> str:
        """Returns what a command of Slurm prints."""
        variables = os.environ | self.environment
        return subprocess.run(list(map(str, words)), env=variables, capture_output=True, text=True, check=True).stdout

    def queue(self) -> dict[str, str]:
        """Returns the state of each job in the queue, by its name."""
        return dict(line.split() for line in self.call("squeue", "--noheader", "--format=%j %T").splitlines())

    def start_put_back(self) -> None:
        """Starts jobs that were put back into the queue, which Slurm else starts two minutes later."""
        for job in self.call("squeue", "--noheader", "--states=PENDING", "--format=%i").split():
            words = ["scontrol", "update", f"jobid={job}", "StartTime=now"]
            subprocess.run(words, env=os.environ | self.environment, capture_output=True, check=False)

    def stop(self) -> None:
        subprocess.run(["scancel", "--me"], env=os.environ | self.environment, check=False, capture_output=True)
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
            try:
                daemon.wait(timeout=5)
            except subprocess.TimeoutExpired:  # slurmd waits for its jobs
                daemon.kill()
                daemon.wait()


@contextmanager
def running_slurm(folder: Path) -> Iterator[LocalSlurm]:
    """Runs a Slurm in a new folder during the block."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    ports = free_ports(2)
    host = socket.gethostname().partition(".")[0]
    settings = SETTINGS.format(
        folder=folder, cpus=os.cpu_count(), host=host, controller_port=ports[0], node_port=ports[1]
    )
    (folder / "slurm.conf").write_text(settings)
    slurm = LocalSlurm(folder)
    try:
        slurm.daemons["munged"] = start_munge(folder)
        slurm.start("slurmctld")
        slurm.start("slurmd")
        words = ("sinfo", "--noheader", "--format=%t")
        wait_until(lambda: "idle" in slurm.call(*words), f"the node is not idle: see {folder}/slurmctld.log")
        yield slurm
    finally:
        slurm.stop()


def start_munge(folder: Path) -> subprocess.Popen[bytes]:
    """Starts munged, by which Slurm's programs know each other, with a key and a socket of its own."""
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o400)
    words = ["munged", "--foreground", "--force", f"--key-file={folder}/munge.key", f"--socket={folder}/munge.socket"]
    words += [f"--pid-file={folder}/munge.pid", f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed"]
    daemon = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    wait_until((folder / "munge.socket").exists, f"munged did not start: see {folder}/munge.log")
    return daemon


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
