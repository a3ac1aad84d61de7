"""Several processes of one run, real ones on the CPU: what they train and find, and what happens when one goes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import ConstantLR

from advmia.budgets import training_budget
from advmia.data.loading import TrainingLoader
from advmia.data.phantoms import make_phantoms
from advmia.data.specs import Augmentation
from advmia.errors import UserError
from advmia.models import build_model
from advmia.runtime import distributed
from advmia.tasks import SINGLE_LABEL
from advmia.training.loop import LossOf, Position, shared, train_one_epoch
from advmia.training.methods import METHODS, MethodSettings
from tests.commands.test_resume import TRAININGS
from tests.support.kills import evaluation_outcome, training_outcome
from tests.support.networks import CPU, image_data
from tests.support.running import ROOT, read_until, run_process, start

TWO = ["--gpu", "cpu", "cpu"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms, a helper for HAT, and networks to attack."""
    folder = tmp_path_factory.mktemp("world")
    make_phantoms(folder / "data", ["mel2017", "xray"], count=36, size=32)
    for file, model, classes in (("helper", "mv2", 2), ("mv2-14", "mv2", 14), ("unet", "unet", 2)):
        torch.manual_seed(0)
        torch.save(build_model(model, classes).state_dict(), folder / file)
    return folder


@pytest.fixture
def python(warm_interpreter: Path, world: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `python WORDS` among the phantoms."""

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        words = (ROOT / str(words[0]), *words[1:]) if str(words[0]).endswith(".py") else words
        command = [str(warm_interpreter), *map(str, words)]
        return subprocess.run(command, cwd=world, capture_output=True, text=True, timeout=240, check=False)

    return run


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_train(name: str, python: Callable[..., Any], tmp_path: Path) -> None:
    """Every method for one epoch. Fails when a process hangs, both write or speak, or one has a part of its own."""
    done = python(*TRAININGS[name], "--epoch", 1, *TWO, "--saveDir", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 1/1 ") == 1 and done.stderr.count("training ") == 1
    _, record = training_outcome(tmp_path / "two")
    assert record["settings"]["processes"] == 2


class Plain(nn.Module):
    """No batch norm, which would see half a batch in each of two processes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, stride=2)
        self.linear = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.relu(self.conv(x)).mean(dim=(2, 3)))


def plain(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return Plain()


def updated(method: str, batch: int, share: tuple[int, int] = (0, 1)) -> dict[str, Tensor]:
    """The weights of a small network after its first step, this process having its share of the batch."""
    model, helper = plain(0), plain(1).eval()
    loader = TrainingLoader(image_data(batch), batch, CPU, "shuffled", Augmentation(), 0, *share)
    settings = MethodSettings(SINGLE_LABEL.objective, training_budget(8), beta=4.0, gamma=1.0, step=3.5, helper=helper)
    optimizer = SGD(model.parameters(), lr=0.1)
    loss = shared(LossOf(model, METHODS[method](settings)), CPU)
    train_one_epoch(loss, loader, optimizer, ConstantLR(optimizer, 1.0), Position(), epochs=1)
    return {name: value.detach() for name, value in model.state_dict().items()}


def _update_in_process(number: int, file: str, method: str, batch: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}.meet", rank=number, world_size=2)
    torch.save(updated(method, batch, (number, 2)), f"{file}.{number}")
    dist.destroy_process_group()


@pytest.mark.parametrize("batch", [8, 5, 1], ids=["equal shares", "unequal shares", "an empty share"])
@pytest.mark.parametrize("method", METHODS)
def test_the_first_update_is_that_of_one_process(method: str, batch: int, tmp_path: Path) -> None:
    """Without batch norm and augmentation, to float tolerance.

    Fails when gradients are summed, not averaged; when a share counts otherwise than by its images; or when noise
    depends on the process. Later updates begin at weights that are rounded otherwise, and signs of gradients turn.
    """
    file = tmp_path / "weights"
    torch.multiprocessing.start_processes(_update_in_process, (str(file), method, batch), nprocs=2, start_method="fork")
    expected, start = updated(method, batch), plain(0).state_dict()
    assert any((value - start[name]).abs().max() > 1e-3 for name, value in expected.items())
    for number in (0, 1):
        torch.testing.assert_close(torch.load(f"{file}.{number}", weights_only=True), expected, rtol=1e-4, atol=1e-7)


# --- evaluation ------------------------------------------------------------------------------------------------------

LABELS = ["testCls.py", "--dataset", "melBin", "--targetModel", "mv2", "--targetWeight", "helper"]
PGD = ["--attacks", "pgd", "--epsilons", "8", "--limit", "5"]
TESTS = {
    "labels": [*LABELS, "--attacks", "fgsm", "pgd", "apgd-ce", "--epsilons", "0.1", "8"],
    "findings": ["testChex.py", "--targetModel", "mv2", "--targetWeight", "mv2-14", "--epsilons", "8"],
    "masks": ["testSeg.py", "--dataset", "mel", "--targetModel", "unet", "--targetWeight", "unet", *PGD],
}


@pytest.mark.parametrize("name", TESTS)
def test_two_processes_find_what_one_does(name: str, python: Callable[..., Any], tmp_path: Path) -> None:
    """To the last bit, image by image, of an odd number of images.

    Fails when one is left out or counted twice, when a score is not of all, or when it matters who attacks an image.
    """
    words = [*TESTS[name], "--imgSize", 16, "--bs", 4]
    for folder, devices in (("one", ["--gpu", "cpu"]), ("two", TWO)):
        done = python(*words, *devices, "--resultDir", tmp_path / folder)
        assert done.returncode == 0, done.stderr
    assert evaluation_outcome(tmp_path / "two") == evaluation_outcome(tmp_path / "one")


def test_more_processes_than_images(python: Callable[..., Any], tmp_path: Path) -> None:
    """Fails when a process that has nothing to do stops the others."""
    done = python(
        *TESTS["labels"], "--imgSize", 16, "--limit", 2, "--autoBatch", "--gpu", *["cpu"] * 3, "--resultDir", tmp_path
    )
    assert done.returncode == 0, done.stderr


# --- torchrun --------------------------------------------------------------------------------------------------------


def torchrun(world: Path, nodes: int, *words: object) -> Iterator[subprocess.Popen[str]]:
    """As on so many machines of one process each, all of them this one."""
    address = ["--master-addr", "127.0.0.1", "--master-port", free_port()]
    for rank in range(nodes):
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", str(nodes), "--node-rank", str(rank)]
        yield subprocess.Popen(
            [
                *command,
                "--nproc-per-node",
                "1",
                *address,
                str(ROOT / str(words[0])),
                *map(str, words[1:]),
                f"machine{rank}",
            ],
            cwd=world,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def test_torchrun_on_two_machines(world: Path, python: Callable[..., Any], tmp_path: Path) -> None:
    """The same command under torchrun trains the very network that `--gpu cpu cpu` does."""
    words = [*TRAININGS["pgdat"], "--epoch", 1]
    assert python(*words, *TWO, "--saveDir", tmp_path / "gpu").returncode == 0
    nodes = list(torchrun(world, 2, *words, "--gpu", "cpu", "--saveDir"))
    told = [node.communicate(timeout=240) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], told
    assert sum(out.count("epoch 1/1 ") for out, _ in told) == 1
    assert training_outcome(world / "machine0") == training_outcome(tmp_path / "gpu")
    assert not (world / "machine1").exists()  # the first process alone writes


def test_the_slurm_example(world: Path, tmp_path: Path) -> None:
    """With a stand-in for `srun` that runs the command once, as one machine of two devices.

    Fails when the script names a variable that is not there, or torchrun an option that it does not know, or the job's
    cores are not asked for again: srun does not take them by itself.
    """
    srun = '[ "$1 $2" = "--cpus-per-task 32" ] && shift 2 && exec "$@"'
    for name, program in (("srun", srun), ("scontrol", "echo 127.0.0.1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{program}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"JOB_ID": "7", "JOB_NODELIST": "here", "JOB_NUM_NODES": "1", "GPUS_ON_NODE": "2", "SUBMIT_DIR": str(ROOT)}
    slurm |= {"CPUS_PER_TASK": "32"}
    environment = {f"SLURM_{name}": value for name, value in slurm.items()}
    environment |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PORT": free_port(), "PYTHON": sys.executable}
    words = [*TRAININGS["nat"], "--epoch", 1, "--gpu", "cpu", "--dataRoot", world / "data", "--saveDir", tmp_path / "a"]
    done = subprocess.run(
        [ROOT / "scripts" / "slurm.sh", *map(str, words)],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert training_outcome(tmp_path / "a")[1]["settings"]["processes"] == 2


# --- the end of one --------------------------------------------------------------------------------------------------


@pytest.fixture
def running(world: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a training in two processes that would take long, and waits for the end of an epoch, any or a certain."""
    started = []

    def begin(*more: object, until: str = "epoch ") -> subprocess.Popen[str]:
        started.append(start([*TRAININGS["pgdat"], *TWO, "--saveDir", tmp_path / "run", *more], world))
        read_until(started[-1], until)
        return started[-1]

    yield begin
    for each in started:
        each.kill()
        each.communicate()


def children(parent: int) -> list[int]:
    """The processes that another has started, by rank."""
    found = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    ranks = {}
    for child in map(int, found):
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        ranks[child] = next(int(each[5:]) for each in variables if each.startswith(b"RANK="))
    return sorted(ranks, key=ranks.__getitem__)


def is_alive(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("rank", [0, 1])
def test_one_that_dies_ends_the_others(rank: int, running: Callable[..., subprocess.Popen[str]]) -> None:
    """Fails when the others wait for ever, or the person is told nothing, or three times, or with a traceback."""
    parent = running("--epoch", 400)
    ranks = children(parent.pid)
    os.kill(ranks[rank], signal.SIGKILL)
    _, told = parent.communicate(timeout=30)
    assert parent.returncode == 1
    (line,) = [line for line in told.splitlines() if "error" in line]
    assert f"process {rank} of 2 (from 0) was killed by SIGKILL" in line and "--resume" in line
    assert "Traceback" not in told
    assert not any(map(is_alive, ranks))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_end_of_the_one_that_started_them(
    number: signal.Signals, running: Callable[..., subprocess.Popen[str]]
) -> None:
    """Fails when a signal is not handed on, when children outlive their parent, or when what they saved is no good."""
    parent = running("--epoch", 40)
    ranks = children(parent.pid)
    parent.send_signal(number)
    _, told = parent.communicate(timeout=60)
    if number != signal.SIGKILL:
        assert parent.returncode == 128 + number
        assert told.strip().splitlines()[-1].endswith("--resume goes on") and "Traceback" not in told
    deadline = time.monotonic() + 30
    while any(map(is_alive, ranks)):
        assert time.monotonic() < deadline, "children outlive their parent"
        time.sleep(0.1)
    again = running("--epoch", 40, "--resume")
    again.send_signal(signal.SIGTERM)
    assert "going on at epoch" in again.communicate(timeout=60)[1]


def test_a_stopped_training_goes_on_in_two_processes(
    running: Callable[..., subprocess.Popen[str]], python: Callable[..., Any], tmp_path: Path
) -> None:
    """Fails when what the second process does not share with the first is lost: the end is the same to the bit."""
    parent = running("--epoch", 4, until="epoch 2/")
    parent.send_signal(signal.SIGTERM)
    parent.communicate(timeout=60)
    words = [*TRAININGS["pgdat"], "--epoch", 4, *TWO, "--saveDir"]
    done = python(*words, tmp_path / "run", "--resume")
    assert done.returncode == 0 and "going on at epoch" in done.stderr
    assert python(*words, tmp_path / "undisturbed").returncode == 0
    assert training_outcome(tmp_path / "run") == training_outcome(tmp_path / "undisturbed")


def test_a_fault_in_one_is_told_once(world: Path) -> None:
    """Fails when each process says what it saw of a fault that befell one of them, or says it with a traceback."""
    done = run_process(*TRAININGS["nat"], *TWO, "--saveDir", world / "helper" / "no-folder", cwd=world)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1 and "cannot write" in done.stderr


# --- devices ---------------------------------------------------------------------------------------------------------


def test_devices_of_several_processes() -> None:
    """Fails when two processes would share a GPU; a CPU they may."""
    with pytest.raises(UserError, match=r"named twice|no CUDA device"):
        distributed.pick_devices(["0", "0"])
    assert distributed.pick_devices(["cpu", "cpu"]) == [CPU, CPU]
