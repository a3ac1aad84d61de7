"""Commands with bad input, and the check that each prints one line that says what is wrong, and changes no file."""

from __future__ import annotations

import csv
import hashlib
import os
import resource
import shlex
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.running import ROOT
from tests.support.spoiling import Change

SMALL = "--bs 8 --imgSize 16 --gpu cpu"
TRAIN = f"trainCls.py --dataset melBin --method nat --model mv2 --epoch 2 --lr 0.01 --saveDir new {SMALL}"
CHEX = f"trainChex.py --method nat --model mv2 --epoch 2 --saveDir new {SMALL}"
SEG = f"trainSeg.py --dataset mel --method nat --model unet --epoch 1 --saveDir new {SMALL}"
TEST = (
    f"testCls.py --dataset melBin --targetModel mv2 --targetWeight weights/mv2 --attacks fgsm --epsilons 8 {SMALL}"
    " --resultDir new"
)
TEST_CHEX = f"testChex.py --targetModel mv2 --targetWeight weights/mv2-14 --attacks pgd --epsilons 8 {SMALL}"
TEST_SEG = f"testSeg.py --dataset mel --targetModel unet --targetWeight weights/mv2 {SMALL}"
VISUAL = f"gradVisual.py --dataset melBin --model mv2 --weight weights/mv2 --epsilons 8 --saveDir new {SMALL}"
PREPARE = "advmia prepare --dataRoot new --dataset"
PHANTOMS = "advmia phantoms --count 24 --size 32 --dataRoot"
TABLES = "advmia tables"
# A training that saves its state after the first step and fails in the second, since its loss is not a number.
INTERRUPTED = f"{TRAIN} --lr 1e30 --saveEvery 1e-9 --saveDir weights/interrupted"
RESUME = f"{INTERRUPTED} --saveDir interrupted --resume"
CACHE_LOCK = ("data/cache", "data/cache/*.lock")  # what may stay where a cache could not be built


@dataclass(frozen=True)
class Case:
    """A command that must be refused, and what its error line must say."""

    name: str
    command: str
    messages: tuple[str, ...]  # parts of the error line: what is wrong, where, what to do; "a|b" is a or b
    spoil: Change = lambda folder: None
    disk: str = ""  # "full" or "read-only": what is mounted at `disk`
    leaves: tuple[str, ...] = ()  # patterns of the files and folders that the command may create
    file_limit: int | None = None  # of the bytes of a file; such a case needs a process
    stdin: str = ""
    process: bool = False  # whether it runs as a process of its own, not as `main` in this one


def parameters(cases: list[Case]) -> Any:
    """Parametrizes a test by `case`. Cases that need a process of their own are slow."""

    def marks(case: Case) -> list[pytest.MarkDecorator]:
        return [pytest.mark.slow] if case.process or case.file_limit else []

    return pytest.mark.parametrize("case", [pytest.param(case, id=case.name, marks=marks(case)) for case in cases])


RunHere = Callable[..., tuple[int, str]]  # the type of the fixture `run_here`


def check(case: Case, folder: Path, run: Callable[[Case], tuple[int, str]]) -> None:
    """Damages the folder as the case says and runs the command; `run` returns its exit status and standard error.

    Fails unless the command exits with status 2 and prints one error line with all messages. Fails if it changed or
    removed a file, or created one that `case.leaves` does not allow.
    """
    case.spoil(folder)
    with mounted_disk(folder, case.disk) if case.disk else nullcontext():
        before = digests(folder)
        status, stderr = run(case)
        after = digests(folder)
    lines = stderr.splitlines()
    assert status == 2, (case.name, stderr)
    assert "Traceback" not in stderr and len([line for line in lines if ": error: " in line]) == 1, (case.name, stderr)
    for message in case.messages:
        assert any(part in lines[-1] for part in message.split("|")), (case.name, message, lines[-1])
    assert {name: digest for name, digest in after.items() if name in before} == before, case.name
    new = [name for name in after if name not in before]
    assert not [name for name in new if not any(fnmatch(name, pattern) for pattern in case.leaves)], (case.name, new)


def digests(folder: Path) -> dict[str, str]:
    """Describes everything in a folder, by name: the digest of each file, the target of each link.

    Leaves out the cache's fingerprints, which any run updates where files have other times than before.
    """
    descriptions = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if name.endswith(".files.npy"):
            continue
        if path.is_symlink():
            descriptions[name] = f"-> {path.readlink()}"
        else:
            descriptions[name] = "folder" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
    return descriptions


@contextmanager
def mounted_disk(folder: Path, kind: str) -> Iterator[None]:
    """Mounts a disk at `disk` in the folder: a full one, or a read-only one with a copy of the folder's data."""
    mount_point = folder / "disk"
    mount_point.mkdir()
    size = "size=64k" if kind == "full" else "size=64m"
    mount = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(mount_point)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only the super-user may mount a disk, and not everywhere")
    try:
        if kind == "full":
            with suppress(OSError), (mount_point / "rest").open("wb", buffering=0) as rest:
                while True:
                    rest.write(bytes(4096))
        else:
            subprocess.run(["cp", "-r", str(folder / "data"), str(mount_point)], check=True)
            subprocess.run(["mount", "-o", "remount,ro", str(mount_point)], check=True)
        yield
    finally:
        subprocess.run(["umount", str(mount_point)], check=True)


def run_process(python: Path | str, folder: Path, line: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs a command line with an interpreter in a folder. Options are those of `subprocess.run`."""
    words = shlex.split(line)
    script = [str(ROOT / words[0])] if words[0].endswith(".py") else ["-m", words[0]]
    defaults: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment()}
    return subprocess.run(
        [str(python), *script, *words[1:]], cwd=folder, text=True, check=False, timeout=120, **(defaults | options)
    )


def run_case(case: Case, python: Path, folder: Path) -> tuple[int, str]:
    """Runs a case's command as a process; returns its status and standard error."""
    limit = partial(_limit_files, case.file_limit) if case.file_limit else None
    finished = run_process(python, folder, case.command, input=case.stdin, preexec_fn=limit)
    return finished.returncode, finished.stderr


def _limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | more


def last_line(process: subprocess.CompletedProcess[str]) -> str:
    """Returns the last line of standard error. Fails if standard error contains a traceback."""
    assert "Traceback" not in process.stderr, process.stderr
    return process.stderr.splitlines()[-1]


def lines_without_seconds(path: Path) -> list[list[str]]:
    """Returns the lines of a result CSV without the column `seconds`."""
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))
    column = lines[0].index("seconds")
    return [line[:column] + line[column + 1 :] for line in lines]
