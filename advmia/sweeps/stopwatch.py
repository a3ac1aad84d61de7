"""Times passes through the real networks, updates of a training, and what it saves."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from advmia.attacks.common import forward, frozen_eval, value_and_gradient
from advmia.attacks.inference import Blocks, inference_copy
from advmia.data.loading import EvaluationLoader, TrainingLoader
from advmia.errors import UserError
from advmia.models import build_model
from advmia.models.batch_norm import smallest_batch
from advmia.runtime import machine
from advmia.runtime.precision import FP32, fp32_only, no_autocast
from advmia.runtime.sealed import write_sealed
from advmia.sweeps.passes import Pass
from advmia.sweeps.scene import Scene, timed
from advmia.sweeps.start import start_seconds
from advmia.sweeps.steps import Kind
from advmia.training.averaging import WeightAverage
from advmia.training.loop import Position, Training, train_one_epoch
from advmia.training.methods import Natural
from advmia.training.perturbation import WeightPerturbation

_SECONDS, _REPEATS = 0.4, 5  # of one kind of call, which is repeated less often if it takes longer
_LR = 1e-4


@dataclass
class Stopwatch:
    """Times each kind of work once, when it is first asked for. Keeps the networks that it has built."""

    networks: dict[Hashable, nn.Module] = field(default_factory=dict)
    known: dict[Hashable, float] = field(default_factory=dict)  # seconds
    starts: dict[Kind, float] = field(default_factory=dict)  # seconds

    def of_pass(self, scene: Scene, kind: Pass, *, is_training: bool) -> float:
        """Returns the seconds of a pass for one image. `is_training`: for passes of an attack within a training."""
        scene = replace(scene, images=scene.batch_size)  # the length of the list does not matter
        model = self.network(scene, kind.network)
        return self._once((scene, kind, is_training), scene, lambda: _seconds_of_pass(scene, kind, is_training, model))

    def of_update(self, scene: Scene, network: str, awp: float | None, ema: float | None) -> float:
        """Returns the seconds of an update of natural training for one image: from the loader to the new weights."""
        scene = replace(scene, images=scene.batch_size)
        model = self.network(scene, network)
        return self._once((scene, network, awp, ema), scene, lambda: _seconds_of_update(scene, model, awp, ema))

    def of_refolding(self, scene: Scene, network: str) -> float:
        """Returns the seconds that it takes to renew the copy on which attacks run after the weights have changed."""
        model = self.network(scene, network)
        return self._once((scene.spec, network, "copy"), scene, lambda: _seconds_of_refolding(scene, model))

    def of_saving(self, scene: Scene, network: str) -> float:
        """Returns the seconds that it takes to save the state of a training."""
        model = self.network(scene, network)
        return self._once((scene.classes, network, "state"), scene, lambda: _seconds_of_saving(scene, model))

    def of_start(self, device: torch.device, kind: Kind) -> float:
        """Returns the seconds of a training or a test that has next to nothing to do."""
        if not self.starts:
            self.starts = start_seconds(device)
        return self.starts[kind]

    def network(self, scene: Scene, name: str) -> nn.Module:
        """Returns a network with random weights, whose batch norms have the statistics of random images."""
        key = (name, scene.spec, scene.classes, scene.device)
        if key not in self.networks:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model = build_model(name, scene.classes, mean=scene.spec.mean, std=scene.spec.std)
            model = machine.on_device(model, scene.device)
            self.networks[key] = _with_statistics(model, scene)
        return self.networks[key]

    def _once(self, key: Hashable, scene: Scene, measure: Callable[[], float]) -> float:
        if key not in self.known:
            try:
                self.known[key] = measure()
            except torch.OutOfMemoryError:
                batch = f"{scene.batch_size} images of {scene.spec.size} pixels"
                raise UserError(f"{batch} do not fit the memory of {scene.device}: take a smaller --bs") from None
        return self.known[key]


def _with_statistics(model: nn.Module, scene: Scene) -> nn.Module:
    """Gives the batch norms the statistics of random images; returns the same model.

    With those of a new network, activations shrink from layer to layer to denormal numbers, which are slow on a CPU.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momentums = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(next(iter(EvaluationLoader(scene.data(2), 2, scene.device))).x)
    for norm, momentum in zip(norms, momentums, strict=True):
        norm.momentum = momentum
    return model


def _per_image(scene: Scene, least: int, run_with: Callable[[int], Callable[[], object]]) -> float:
    """Returns the seconds of a call for one image. `run_with` returns the call for a number of images.

    On a CPU the number grows from `least` to a batch, as long as a call takes little time.
    """
    count, most = least, max(scene.batch_size - scene.batch_size % least, least)
    if scene.device.type == "cuda":
        count = most
    while True:
        run = run_with(count)
        _, first = timed(run, scene.device)  # first calls choose algorithms, and take memory
        if scene.device.type == "cpu" and first > 2 * _SECONDS:
            return first / count
        if scene.device.type == "cuda":
            run()
            run()
        seconds = _median(run, scene.device)
        if count == most or seconds > _SECONDS / 2:
            return seconds / count
        count = min(4 * count, most)


def _median(run: Callable[[], object], device: torch.device) -> float:
    """Returns the median of the seconds of some calls, of which there are fewer if they are long."""
    times: list[float] = []
    while not times or (len(times) < _REPEATS and sum(times) < 2 * _SECONDS):
        _, seconds = timed(run, device)
        times.append(seconds)
    return statistics.median(times)


def _seconds_of_pass(scene: Scene, kind: Pass, is_training: bool, model: nn.Module) -> float:
    objective = scene.task.objective

    def run_with(count: int) -> Callable[[], object]:
        batch = next(iter(EvaluationLoader(scene.data(count), count, scene.device)))

        def by_weights() -> None:
            model.zero_grad(set_to_none=True)
            with _in_precision(kind.precision, scene.device):
                loss = objective(model.train()(batch.x), batch.y).mean()
            loss.backward()

        def on_network(run: Callable[[nn.Module], object], network: nn.Module) -> None:
            blocks = Blocks(network, scene.batch_size, filled=not is_training)
            with _in_precision(kind.precision, scene.device), frozen_eval(network):
                run(blocks)

        if kind.kind == "weights":
            return by_weights
        network = model if kind.kind == "score" else inference_copy(model, batch.x)
        if kind.kind == "image":
            return lambda: on_network(lambda blocks: value_and_gradient(blocks, batch.x, batch.y, objective), network)
        return lambda: on_network(lambda blocks: forward(blocks, batch.x), network)

    least = 2 if kind.kind == "weights" else _block(scene, is_training)
    seconds = _per_image(scene, least, run_with)
    model.zero_grad(set_to_none=True)
    return seconds


def _block(scene: Scene, is_training: bool) -> int:
    """Returns the number of images that attacks run on at a time on a CPU."""
    size = scene.spec.size
    return Blocks(nn.Identity(), filled=not is_training).block_size(torch.empty(1, 3, size, size))


def _in_precision(precision: str, device: torch.device) -> AbstractContextManager[object]:
    if precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    if precision == FP32.name:
        return fp32_only(device)
    return no_autocast(device)


def _seconds_of_update(scene: Scene, model: nn.Module, awp: float | None, ema: float | None) -> float:
    task = scene.task
    optimizer = task.optimizer(model.parameters(), _LR, 0.0)
    schedule = task.schedule(optimizer, _LR, 2**31)
    average = WeightAverage(model, ema) if ema is not None else None
    perturbation = WeightPerturbation(awp) if awp is not None else None

    def run_with(count: int) -> Callable[[], object]:
        data, augmentation = scene.data(count), scene.spec.augmentation
        loader = TrainingLoader(data, count, scene.device, task.order, augmentation, 0)
        method, precision = Natural(task.objective), scene.precision
        training = Training(model, method, loader, optimizer, schedule, 1, precision, perturbation, average)
        return lambda: train_one_epoch(training, Position())

    seconds = _per_image(scene, smallest_batch(model, scene.spec.size), run_with)
    model.zero_grad(set_to_none=True)
    return seconds


def _seconds_of_refolding(scene: Scene, model: nn.Module) -> float:
    x = next(iter(EvaluationLoader(scene.data(2), 2, scene.device))).x

    def run() -> None:
        with torch.no_grad():
            next(model.parameters()).add_(0)  # so that the weights count as changed
        inference_copy(model, x)

    run()
    return _median(run, scene.device)


def _seconds_of_saving(scene: Scene, model: nn.Module) -> float:
    weights = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    # The network, the momentum of its weights, and the weights of the best epoch, which are also written by themselves.
    state = {name: {key: value.clone() for key, value in weights.items()} for name in ("network", "optimizer", "best")}
    with tempfile.TemporaryDirectory() as folder:
        return timed(lambda: write_sealed(Path(folder) / "state", state), scene.device)[1]
