"""Several real processes of one run, on the CPU: their results, and what happens when one of them ends early."""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
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
from advmia.data.specs import Augmentation
from advmia.errors import UserError
from advmia.tasks import SINGLE_LABEL
from advmia.training import loop
from advmia.training.averaging import WeightAverage
from advmia.training.loop import Position, Training, train_one_epoch
from advmia.training.methods import METHODS, MethodSettings, Natural
from advmia.training.perturbation import WeightPerturbation
from advmia.training.progress import LossReader
from tests.support.kills import evaluation_outcome, training_outcome
from tests.support.networks import CPU, image_data
from tests.support.running import ROOT, read_until, start
from tests.support.world import TRAININGS

TWO = ["--gpu", "cpu", "cpu"]


@pytest.fixture
def python(warm_interpreter: Path, world: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `python WORDS` in the world."""

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


# One training a task: the first update is compared for all methods below.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["hat", "findings", "masks"])
def test_two_processes_train(name: str, python: Callable[..., Any], tmp_path: Path) -> None:
    """Fails if a process hangs, or if both write files or print, in one epoch of a training of each task."""
    recomputed = ["--checkpointActivations"] if name == "masks" else []
    process = python(*TRAININGS[name], "--epoch", 1, *TWO, "--saveDir", tmp_path / "two", *recomputed)
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("epoch 1/1 ") == 1 and process.stderr.count("training ") == 1
    _, record = training_outcome(tmp_path / "two")
    assert record["settings"]["processes"] == 2


class Plain(nn.Module):
    """A network without batch norm, which would see half a batch in each of two processes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, stride=2)
        self.linear = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.relu(self.conv(x)).mean(dim=(2, 3)))


def plain(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return Plain()


WEIGHTS = "trades with awp and ema"  # TRADES, with a perturbation and an average of the weights


def updated(method: str, batch: int, share: tuple[int, int] = (0, 1)) -> dict[str, Tensor]:
    """Returns the weights of a small network after its first step on this rank's share of a batch, and their average.

    `share`: rank and world size.
    """
    model, helper = plain(0), plain(1).eval()
    loader = TrainingLoader(image_data(batch), batch, CPU, "shuffled", Augmentation(), 0, *share)
    budget = training_budget(8, method)
    settings = MethodSettings(SINGLE_LABEL.objective, SINGLE_LABEL.divergence, budget, 4.0, 1.0, 3.5, helper)
    optimizer = SGD(model.parameters(), lr=0.1)
    built = METHODS[method.split()[0]](settings)
    training = Training(model, built, loader, optimizer, ConstantLR(optimizer, 1.0), epochs=1)
    if method == WEIGHTS:
        training = replace(training, perturbation=WeightPerturbation(0.1), average=WeightAverage(model, 0.9))
    train_one_epoch(training, Position())
    average = {f"average {name}": value for name, value in training.validated_model.state_dict().items()}
    return {name: value.detach() for name, value in (model.state_dict() | average).items()}


def in_two_processes(function: Callable[..., None], *arguments: object) -> None:
    """Calls function(rank, *arguments) in each of two processes, and waits."""
    torch.multiprocessing.start_processes(function, arguments, nprocs=2, start_method="fork")


def _update_in_process(rank: int, file: str, method: str, batch: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}.meet", rank=rank, world_size=2)
    torch.save(updated(method, batch, (rank, 2)), f"{file}.{rank}")
    dist.destroy_process_group()


@pytest.mark.parametrize("batch", [8, 5, 1], ids=["equal shares", "unequal shares", "an empty share"])
@pytest.mark.parametrize("method", [*METHODS, WEIGHTS])
def test_the_first_update_is_that_of_one_process(method: str, batch: int, tmp_path: Path) -> None:
    """Fails if gradients are summed, a share's weight is not its number of images, or noise depends on the rank.

    Or if each rank perturbs the weights by the gradient of its own share.

    Without batch norm and augmentation, to float tolerance. Later updates are not compared: they start from weights
    with other rounding errors, which change the signs of some gradients.
    """
    file = tmp_path / "weights"
    in_two_processes(_update_in_process, str(file), method, batch)
    expected, start = updated(method, batch), plain(0).state_dict()
    assert any((expected[name] - value).abs().max() > 1e-3 for name, value in start.items())
    for rank in (0, 1):
        torch.testing.assert_close(torch.load(f"{file}.{rank}", weights_only=True), expected, rtol=1e-4, atol=1e-7)


class LateReader(LossReader):
    """Reads losses as on a GPU."""

    def _lag(self, losses: Tensor) -> int:
        return 1


def _train_late(rank: int, file: str, faulty: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}.meet", rank=rank, world_size=2)
    loop.LossReader = LateReader  # type: ignore[misc]  # in this process only
    calls: list[float] = []

    def objective(logits: Tensor, y: Tensor) -> Tensor:
        calls.append(float(len(calls)) if (rank, len(calls)) != (1, faulty) else math.nan)
        return logits.sum(dim=1) * 0 + calls[-1] + rank

    model, loader = plain(0), TrainingLoader(image_data(10), 4, CPU, "shuffled", Augmentation(), 0, rank, 2)
    optimizer = SGD(model.parameters(), lr=0.1)
    training = Training(model, Natural(objective), loader, optimizer, ConstantLR(optimizer, 1.0), epochs=1)
    try:
        found = str(train_one_epoch(training, Position()))
    except UserError as error:
        found = str(error)
    Path(f"{file}.{rank}").write_text(f"{len(calls)} {found}")
    dist.destroy_process_group()


def test_late_losses_of_two_processes(tmp_path: Path) -> None:
    """Fails if ranks read other steps' losses together, or stop after different steps at a loss that is not finite."""
    for faulty, expected in (
        (-1, f"3 {(0.5 * 4 + 1.5 * 4 + 2.5 * 2) / 10}"),
        (0, "2 the loss became nan in epoch 1, step 1"),
    ):
        file = tmp_path / str(faulty)
        in_two_processes(_train_late, str(file), faulty)
        found = [Path(f"{file}.{rank}").read_text() for rank in (0, 1)]
        assert found[0] == found[1] and found[0].startswith(expected)


# --- evaluation ------------------------------------------------------------------------------------------------------

LABELS = ["testCls.py", "--dataset", "melBin", "--targetModel", "mv2", "--targetWeight", "weights/mv2", "--limit", "5"]
PGD = ["--attacks", "pgd", "--epsilons", "8", "--limit", "5"]
TESTS = {
    "labels": [
        *LABELS,
        "--attacks",
        "fgsm",
        "pgd",
        "apgd-ce",
        "--epsilons",
        "0.1/255",
        "8",
        "--restarts",
        "2",
        "--eightBit",
    ],
    "findings": [
        "testChex.py",
        "--targetModel",
        "mv2",
        "--targetWeight",
        "weights/mv2-14",
        "--limit",
        "5",
        "--epsilons",
        "8",
    ],
    "masks": ["testSeg.py", "--dataset", "mel", "--targetModel", "unet", "--targetWeight", "weights/unet", *PGD],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TESTS)
def test_two_processes_find_what_one_does(name: str, python: Callable[..., Any], tmp_path: Path) -> None:
    """Fails if an image is left out or counted twice, or its outcome depends on the rank that attacks it.

    Results are compared to the last bit, image by image, for an odd number of images.
    """
    words = [*TESTS[name], "--imgSize", 16, "--bs", 4]
    for folder, devices in (("one", ["--gpu", "cpu"]), ("two", TWO)):
        process = python(*words, *devices, "--resultDir", tmp_path / folder)
        assert process.returncode == 0, process.stderr
    assert evaluation_outcome(tmp_path / "two") == evaluation_outcome(tmp_path / "one")


@pytest.mark.slow
def test_more_processes_than_images(python: Callable[..., Any], tmp_path: Path) -> None:
    """Fails if a process that has no images stops the others."""
    process = python(
        *TESTS["labels"], "--imgSize", 16, "--limit", 2, "--autoBatch", "--gpu", *["cpu"] * 3, "--resultDir", tmp_path
    )
    assert process.returncode == 0, process.stderr


# --- torchrun --------------------------------------------------------------------------------------------------------


def torchrun(python: Path, folder: Path, world: Path, *words: object) -> Iterator[subprocess.Popen[str]]:
    """Starts a command under torchrun as on two machines of one process each, which write to machine0 and machine1."""
    address = ["--master-addr", "127.0.0.1", "--master-port", free_port()]
    for rank in range(2):
        command = [str(python), "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(rank)]
        yield subprocess.Popen(
            [
                *command,
                "--nproc-per-node",
                "1",
                *address,
                str(ROOT / str(words[0])),
                *map(str, words[1:]),
                str(folder / f"machine{rank}"),
            ],
            cwd=world,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.mark.slow
def test_torchrun_on_two_machines(
    world: Path, warm_interpreter: Path, python: Callable[..., Any], tmp_path: Path
) -> None:
    """Fails if torchrun trains to other weights than `--gpu cpu cpu`, or a rank other than 0 writes or prints."""
    words = [*TRAININGS["pgdat"], "--epoch", 1]
    assert python(*words, *TWO, "--saveDir", tmp_path / "gpu").returncode == 0
    nodes = list(torchrun(warm_interpreter, tmp_path, world, *words, "--gpu", "cpu", "--saveDir"))
    outputs = [node.communicate(timeout=240) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    assert sum(out.count("epoch 1/1 ") for out, _ in outputs) == 1
    assert training_outcome(tmp_path / "machine0") == training_outcome(tmp_path / "gpu")
    assert not (tmp_path / "machine1").exists()


@pytest.mark.slow
def test_the_slurm_example(world: Path, warm_interpreter: Path, tmp_path: Path) -> None:
    """Fails if the script reads a variable that Slurm does not set, or gives torchrun an unknown option.

    Fails too if it does not tell srun the number of cores, which srun does not take from the job. A replacement for
    `srun` runs the command once, as on one machine of two devices.
    """
    srun = '[ "$1 $2" = "--cpus-per-task 32" ] && shift 2 && exec "$@"'
    for name, program in (("srun", srun), ("scontrol", "echo 127.0.0.1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{program}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"JOB_ID": "7", "JOB_NODELIST": "here", "JOB_NUM_NODES": "1", "GPUS_ON_NODE": "2", "SUBMIT_DIR": str(ROOT)}
    slurm |= {"CPUS_PER_TASK": "32"}
    environment = {f"SLURM_{name}": value for name, value in slurm.items()}
    environment |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PORT": free_port(), "PYTHON": str(warm_interpreter)}
    words = [*TRAININGS["nat"], "--epoch", 1, "--gpu", "cpu", "--dataRoot", world / "data", "--saveDir", tmp_path / "a"]
    process = subprocess.run(
        [ROOT / "scripts" / "slurm.sh", *map(str, words)],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert training_outcome(tmp_path / "a")[1]["settings"]["processes"] == 2


# --- a process that ends early ----------------------------------------------------------------------------------------


@pytest.fixture
def running(world: Path, tmp_path: Path, warm_interpreter: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a long training in two processes and waits until it prints `until`; kills it after the test."""
    started = []

    def begin(*more: object, until: str = "epoch ", python: Path | str = warm_interpreter) -> subprocess.Popen[str]:
        words = [*TRAININGS["awp and ema"], *TWO, "--saveDir", tmp_path / "run", *more]
        started.append(start(words, world, python))
        read_until(started[-1], until)
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def rank_processes(folder: Path) -> list[int]:
    """Returns the ids of the processes of the training that writes to `folder`, in the order of their ranks."""
    ranks = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            variables = path.joinpath("environ").read_bytes().split(b"\0")
            rank = [int(variable[5:]) for variable in variables if variable.startswith(b"RANK=")]
            if rank and str(folder).encode() in path.joinpath("cmdline").read_bytes().split(b"\0"):
                ranks[int(path.name)] = rank[0]
    return sorted(ranks, key=ranks.__getitem__)


def is_alive(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_ends_the_others(
    rank: int, running: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """Fails if the other process waits for ever, or the death is not reported by exactly one line."""
    parent = running("--epoch", 400)
    ranks = rank_processes(tmp_path / "run")
    assert len(ranks) == 2
    os.kill(ranks[rank], signal.SIGKILL)
    _, stderr = parent.communicate(timeout=60)
    assert parent.returncode == 1
    (line,) = [line for line in stderr.splitlines() if "error" in line]
    assert f"process {rank} of 2 (from 0) was killed by SIGKILL" in line and "--resume" in line
    assert "Traceback" not in stderr
    assert not any(map(is_alive, ranks))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_end_of_their_parent(
    number: signal.Signals, running: Callable[..., subprocess.Popen[str]], fresh_interpreter: Path, tmp_path: Path
) -> None:
    """Fails if a signal is not forwarded, children outlive their parent, or a killed run cannot be resumed."""
    # The parent of a process of the warm interpreter is not the one that is killed.
    python = {"python": fresh_interpreter} if number == signal.SIGKILL else {}
    parent = running("--epoch", 40, **python)
    ranks = rank_processes(tmp_path / "run")
    assert len(ranks) == 2
    parent.send_signal(number)
    _, stderr = parent.communicate(timeout=60)
    if number != signal.SIGKILL:
        assert parent.returncode == 128 + number
        assert stderr.strip().splitlines()[-1].endswith("--resume continues") and "Traceback" not in stderr
    deadline = time.monotonic() + 30
    while any(map(is_alive, ranks)):
        assert time.monotonic() < deadline, "children outlive their parent"
        time.sleep(0.1)
    if number == signal.SIGKILL:  # the next test resumes after SIGTERM
        resumed = running("--epoch", 40, "--resume")
        resumed.send_signal(signal.SIGTERM)
        assert "resuming at epoch" in resumed.communicate(timeout=60)[1]


@pytest.mark.slow
def test_a_stopped_training_resumes_in_two_processes(
    running: Callable[..., subprocess.Popen[str]], python: Callable[..., Any], tmp_path: Path
) -> None:
    """Fails if the second rank's part of the state is lost: the checkpoint must be the same to the bit."""
    thinned = ("--validateEvery", 3)  # after epochs 3 and 4
    parent = running("--epoch", 4, *thinned, until="epoch 2/")
    parent.send_signal(signal.SIGTERM)
    parent.communicate(timeout=60)
    words = [*TRAININGS["awp and ema"], "--epoch", 4, *thinned, *TWO, "--saveDir"]
    process = python(*words, tmp_path / "run", "--resume")
    assert process.returncode == 0 and "resuming at epoch" in process.stderr
    assert python(*words, tmp_path / "undisturbed").returncode == 0
    assert training_outcome(tmp_path / "run") == training_outcome(tmp_path / "undisturbed")


@pytest.mark.slow
def test_a_fault_of_one_rank_is_reported_once(world: Path, python: Callable[..., Any]) -> None:
    """Fails if more than one process reports an error of rank 0, or one prints a traceback."""
    no_folder = world / "weights" / "mv2" / "no-folder"
    process = python(*TRAININGS["nat"], *TWO, "--saveDir", no_folder)
    assert process.returncode == 2
    assert len(process.stderr.strip().splitlines()) == 1 and "cannot write" in process.stderr
