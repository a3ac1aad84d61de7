"""Activations that are recomputed: the same network to the bit, and less memory."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from advmia.budgets import Budget
from advmia.data.loading import TrainingLoader
from advmia.data.specs import Augmentation
from advmia.data.tensors import as_data
from advmia.errors import UserError
from advmia.models import MODELS, build_model
from advmia.runtime.precision import Precision
from advmia.tasks import MULTI_LABEL, SEGMENTATION, SINGLE_LABEL, Task
from advmia.training.loop import Position, Training, train_one_epoch
from advmia.training.memory import attack_bytes, recomputed_bytes, saved_bytes, step_memory
from advmia.training.methods import METHODS, MethodSettings
from advmia.training.perturbation import WeightPerturbation
from advmia.training.recomputation import Recomputation
from tests.support import networks
from tests.support.networks import CPU, same_tensors, targets
from tests.support.running import run_main
from tests.support.world import TRAININGS

BUDGET = Budget(8 / 255, 2, 4 / 255)


@pytest.fixture(autouse=True)
def small_networks() -> Iterator[None]:
    with networks.small_networks():
        yield


class Block(nn.Module):
    """Layers with states: batch norms of both kinds of average, dropout, an instance norm, a normalised weight."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = spectral_norm(nn.Conv2d(channels, channels, 3, padding=1))
        self.bn1 = nn.BatchNorm2d(channels)
        self.bn2 = nn.BatchNorm2d(channels, momentum=None)
        self.norm = nn.InstanceNorm2d(channels, track_running_stats=True)
        self.dropout = nn.Dropout(0.3)

    def forward(self, x: Tensor, *, scale: float) -> Tensor:
        return x + scale * self.norm(self.bn2(self.dropout(torch.relu_(self.bn1(self.conv(x))))))


class Stateful(nn.Module):
    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.blocks = nn.ModuleList([Block(8), Block(8)])
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, scale=0.5)
        return self.head(x.mean(dim=(2, 3)))


def trained(
    model: nn.Module, task: Task, method: str, size: int, *, recomputed: bool, precision: str = "fp32"
) -> Training:
    """Returns a training of a copy of the network, after two updates."""
    model, images = copy.deepcopy(model), 4
    torch.manual_seed(1)
    x = torch.rand(images, 3, size, size, generator=torch.Generator().manual_seed(0))
    data = as_data(x, targets(task, images, size, 3), name="noise", classes=3)
    loader = TrainingLoader(data, 2, CPU, "shuffled", Augmentation(), 0)
    settings = MethodSettings(task.objective, task.divergence, BUDGET, 6.0, 1.0, 3.5, copy.deepcopy(model).eval())
    optimizer = task.optimizer(model.parameters(), 0.01, 1e-3)
    schedule, built = task.schedule(optimizer, 0.01, 9), METHODS[method](settings)
    training = Training(model, built, loader, optimizer, schedule, 1, Precision(precision))
    training = replace(training, perturbation=WeightPerturbation(0.01) if method == "pgdat" else None)
    train_one_epoch(replace(training, recomputation=Recomputation(model) if recomputed else None), Position())
    return training


def assert_same(model: nn.Module, task: Task, method: str, size: int) -> None:
    states = []
    for recomputed in (False, True):
        network = trained(model, task, method, size, recomputed=recomputed).model
        states.append(network.state_dict() | {"random state": torch.get_rng_state()})
        assert not any("forward" in vars(module) for module in network.modules())
    assert same_tensors(*states), [name for name, value in states[0].items() if not torch.equal(value, states[1][name])]
    assert not same_tensors(states[0], model.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_network(name: str) -> None:
    """Fails if a weight or a running statistic differs in the last bit after two updates by TRADES."""
    task = SEGMENTATION if MODELS[name].kind == "segmentation" else SINGLE_LABEL
    torch.manual_seed(0)
    assert_same(build_model(name, 3), task, "trades", 32)


@pytest.mark.parametrize("method", METHODS)
def test_every_method(method: str) -> None:
    """Fails if a block's second pass draws other random numbers, moves a state, or is made at other weights."""
    torch.manual_seed(0)
    assert_same(Stateful(), SINGLE_LABEL, method, 8)
    if method in MULTI_LABEL.methods:
        assert_same(Stateful(), MULTI_LABEL, method, 8)


def test_bf16() -> None:
    """Fails if a block is computed again in another precision than at first, of which torch would complain."""
    for recomputed in (False, True):
        model = trained(Stateful(), SINGLE_LABEL, "trades", 8, recomputed=recomputed, precision="bf16").model
        assert all(value.isfinite().all() for value in model.parameters())


def test_a_network_that_cannot_be_recomputed() -> None:
    """Fails if a network without blocks, or one whose block spoils its input, trains without what was asked for."""
    with pytest.raises(UserError, match="SmallNet has no modules of several layers"):
        Recomputation(networks.SmallNet(3))
    model = Stateful()
    model.blocks[0] = nn.Sequential(nn.Hardswish(inplace=True), nn.Conv2d(8, 8, 1))
    model.blocks[0].forward = lambda x, scale, run=model.blocks[0].forward: run(x)
    with pytest.raises(UserError, match="Sequential changes its input in place"):
        trained(model, SINGLE_LABEL, "nat", 8, recomputed=True)


def test_memory_of_a_pass() -> None:
    """Fails if a network is not divided into blocks, as after a change of its modules, or an input is not counted."""
    shares = {"res18": 0.55, "mv2": 0.58, "chexnet": 0.44, "wrn": 0.49, "unet": 0.56, "segnet": 0.6}
    for name, most in shares.items():
        with torch.device("meta"):
            model, x = build_model(name, 2), torch.empty(2, 3, 64, 64)
        kept, largest = recomputed_bytes(model, x)
        assert kept > 0 and largest > 0 and kept + largest < most * saved_bytes(model, x), name
    pair = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 5, 3, padding=1), nn.ReLU())
    model = nn.Sequential(pair, nn.Flatten(), nn.Linear(5 * 36, 2))
    # Kept are the image and the linear layer's input; again, the first ReLU's output, which the second layer takes.
    assert recomputed_bytes(model, torch.empty(4, 3, 6, 6)) == (4 * 4 * (3 * 36 + 5 * 36), 4 * 4 * 5 * 36)


def test_memory_of_a_step() -> None:
    """Fails if the attack, which keeps more than what recomputation leaves of wrn, is left out of the estimate."""
    model, needed = build_model("wrn", 3), dict[str, int]()
    for method in ("nat", "pgdat"):
        training = trained(model, SINGLE_LABEL, method, 16, recomputed=False)
        recomputation = Recomputation(training.model)
        needed[method] = step_memory(replace(training, recomputation=recomputation), 64).per_image
    x = torch.empty(2, 3, 64, 64, device="meta")
    assert needed["nat"] == sum(recomputed_bytes(model, x)) // 2 < attack_bytes(model, x) // 2 == needed["pgdat"]


@pytest.mark.usefixtures("few_steps")
def test_through_the_script(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if the flag changes the checkpoint or its name, is not recorded, or a training cannot go on without it."""
    monkeypatch.chdir(world)
    weights, records = [], []
    for flags in ([], ["--checkpointActivations"]):
        folder = tmp_path / str(len(flags))
        words = [*TRAININGS["pgdat"], "--epoch", 1, "--gpu", "cpu", "--limit", 8, "--saveDir", folder, *flags]
        assert run_main(monkeypatch, words) == 0
        assert run_main(monkeypatch, words[: len(words) - len(flags)]) == 0  # trained already, with these settings
        (checkpoint,) = (path for path in folder.iterdir() if (folder / f"{path.name}.json").exists())
        weights.append((checkpoint.name, checkpoint.read_bytes()))
        records.append("checkpointed_activations" in (folder / f"{checkpoint.name}.json").read_text())
    assert weights[0] == weights[1] and records == [False, True]
