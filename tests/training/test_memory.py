"""The estimate of a training step's memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from advmia.budgets import Budget
from advmia.losses import cross_entropy
from advmia.models import build_model
from advmia.runtime import machine
from advmia.runtime.precision import Precision
from advmia.tasks import constant, sgd
from advmia.training import memory
from advmia.training.loop import Training
from advmia.training.memory import StepMemory, saved_bytes, shortage, step_memory
from advmia.training.methods import HAT, TRADES, Method, Natural
from tests.support.networks import SmallNet, Snapshot, image_data, network, training_loader, unsettle
from tests.support.running import run_main
from tests.support.world import TRAININGS

GIB = 2**30
BUDGET = Budget.grey(8, 10, 2)


def training(model: nn.Module, method: Method, batch_size: int = 32, precision: str = "fp32") -> Training:
    optimizer = sgd(model.parameters(), 0.1, 0)
    loader = training_loader(image_data(40), batch_size)
    return Training(model, method, loader, optimizer, constant(optimizer, 0.1, 1), 1, Precision(precision))


def test_saved_bytes() -> None:
    """Fails if a tensor is left out, counted twice, or a parameter is counted.

    The convolution keeps its input, and ReLU its output, which is the linear layer's input too.
    """
    model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 36, 2))
    assert saved_bytes(model, torch.empty(4, 3, 6, 6, device="meta")) == 4 * 4 * (3 * 36 + 5 * 36)
    half = torch.empty(4, 3, 6, 6, device="meta", dtype=torch.bfloat16)
    assert saved_bytes(model, half) == 2 * 4 * (3 * 36 + 5 * 36)


def test_nothing_changes() -> None:
    """Fails if the estimate draws a random number, or leaves the network otherwise than it was."""
    model = unsettle(network("small"))
    before, generator = Snapshot.of(model), torch.get_rng_state()
    step_memory(training(model, Natural(cross_entropy)), 16)
    before.assert_same(model)
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize(
    ("method", "free", "expected"),
    [
        ("hat", 16, "--bs 32 needs about 71.2 GiB, and the machine has 16 GiB free: --bs 6 fits"),
        ("trades", 40, "--bs 32 needs about 71.2 GiB, and the machine has 40 GiB free: --bs 16 fits"),
        ("nat", 1, "--bs 32 needs about 35.6 GiB, and the machine has 1 GiB free: not even one image fits"),
        ("nat", 36, ""),
        ("hat", None, ""),
    ],
)
def test_mv2_at_299_pixels(method: str, free: int | None, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if the passes of a method are not counted, or a step that fits is reported, or a --bs that does not fit."""
    monkeypatch.setattr(machine, "free_memory", lambda device: None if free is None else free * GIB)
    model = build_model("mv2", 2)
    methods: dict[str, Method] = {"nat": Natural(cross_entropy), "trades": TRADES(BUDGET, 6.0)}
    line = shortage(training(model, methods.get(method) or HAT(BUDGET, 6.0, SmallNet(2))), 299)
    assert expected in line and bool(line) == bool(expected)


def test_the_batch_that_fits() -> None:
    """Fails if the --bs that is said to fit needs more than there is."""
    need = StepMemory(per_image=30, fixed=100)
    assert (need.of(3), need.fitting(1000), need.fitting(144), need.fitting(145), need.fitting(0)) == (190, 26, 0, 1, 0)
    assert need.of(26) <= 1000


def test_a_network_that_cannot_run_without_content(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if such a network ends the training."""

    class Peeking(SmallNet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x / float(x.max()))

    monkeypatch.setattr(machine, "free_memory", lambda device: 1)
    assert shortage(training(Peeking(3), Natural(cross_entropy)), 16) == ""


def test_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if the limit of a container is overlooked, its cached files count as used, or no limit is a limit."""
    cpu = torch.device("cpu")
    (line,) = (line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    available = int(line.split()[1]) * 1024
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    assert machine.free_memory(cpu) == pytest.approx(available, rel=0.2)
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.free_memory(cpu) == pytest.approx(available, rel=0.2)
    (tmp_path / "memory.stat").write_text("anon 1000\nfile 9000\n")
    (tmp_path / "memory.max").write_text("5000\n")
    assert machine.free_memory(cpu) == 4000
    (tmp_path / "memory.max").unlink()
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text(f"{2**63 - 4096}\n")
    assert machine.free_memory(cpu) == pytest.approx(available, rel=0.2)
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("5000\n")
    (tmp_path / "memory" / "memory.stat").write_text("cache 9000\nrss 2000\n")
    assert machine.free_memory(cpu) == 3000


@pytest.mark.slow
@pytest.mark.usefixtures("few_steps", "small_networks")
def test_through_the_script(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Fails if a training that does not fit starts without a word, one that fits says it, or the warning changes it."""
    monkeypatch.chdir(world)
    weights = []
    for free in (1, 64 * GIB):
        monkeypatch.setattr(memory.machine, "free_memory", lambda device, free=free: free)
        words = [*TRAININGS["hat"], "--epoch", 1, "--gpu", "cpu", "--limit", 8, "--saveDir", tmp_path / str(free)]
        assert run_main(monkeypatch, words) == 0
        error = capsys.readouterr().err
        assert ("warning: hat with mv2 at 16 pixels: a step with --bs 8 needs about" in error) == (free == 1)
        weights.append(next((tmp_path / str(free)).glob("*.001")).read_bytes())
    assert weights[0] == weights[1]
