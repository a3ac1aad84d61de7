"""How many operators a step launches on the GPU, and how much memory a training step needs, counted without numbers."""

from __future__ import annotations

import gc
from collections import Counter

import pytest
import torch
from torch import nn

from advmia.attacks import ATTACKS
from advmia.attacks.inference import Blocks, Captured, inference_copy, without_graphs
from advmia.budgets import Budget
from advmia.models import MODELS, build_model
from advmia.runtime import splitmix
from advmia.runtime.machine import on_device
from advmia.runtime.precision import Precision
from advmia.runtime.rng import SampleRng
from advmia.tasks import SEGMENTATION, SINGLE_LABEL
from advmia.training.gradients import backward
from advmia.training.methods import METHODS
from tests.gpu.test_devices import settings_with
from tests.support.gpu_records import Launch
from tests.support.pretended_gpu import DEVICE, PretendedGpu

# Network -> the most launches without CUDA graphs: of a step of PGD in fp32 or tf32, of one in bf16, and of folding new
# weights and rounding them to bf16. They do not depend on the size of the images or of the batch. A smaller number is
# progress: write it here.
LAUNCHES = {
    "res18": (78, 83, 29),
    "mv2": (164, 169, 21),
    "chexnet": (691, 696, 20),
    "wrn": (99, 104, 15),
    "unet": (105, 110, 27),
    "segnet": (127, 132, 34),
}
# Network -> the most GB that a step of PGD moves, with 32 images of 224 pixels, in fp32 or tf32 and in bf16. One by
# one, torch's operators move 52.2 and 26.4 with res18, and 118.2 and 59.4 with mv2.
TRAFFIC = {"res18": (30.8, 15.6), "mv2": (58.8, 29.7)}
# Draw of noise -> the most launches for each piece of a batch, and the most MiB beside the noise itself.
DRAWS = {"uniform": (24, 50), "normal": (91, 200)}
CAPTURED = 25  # the most launches of a step with CUDA graphs
# Method -> the most GiB of a training step of res18 on 32 images of 224 pixels in fp32 or tf32. A graph takes 6.9.
MEMORY = {"nat": 7.2, "pgdat": 7.3, "trades": 14.1, "mart": 14.1, "hat": 14.0, "mpadvt": 7.3, "maadvt": 14.1}


def launches_of_a_step(
    gpu: PretendedGpu, name: str, network: nn.Module, precision: str, shape: tuple[int, int, int, int] = (2, 3, 32, 32)
) -> list[Launch]:
    """Returns the launches that PGD has with one step but not without, when all passes are recorded that will be."""
    task = SEGMENTATION if MODELS[name].kind == "segmentation" else SINGLE_LABEL
    x, launches = torch.rand(shape).contiguous(memory_format=torch.channels_last).to(DEVICE), []  # as loaders give it
    y = torch.zeros((shape[0], *shape[2:]) if task is SEGMENTATION else shape[:1], dtype=torch.int64).to(DEVICE)
    for steps in (2 if isinstance(network, Captured) else 1, 0, 1):  # a graph is made at the second meeting
        gpu.clear()
        attack = ATTACKS["pgd"].build(Budget(8 / 255, steps, 2 / 255), task.attacks["pgd"])
        with Precision(precision).autocast(DEVICE):
            attack(Blocks(network), x, y, rng=SampleRng.of(0, samples=range(len(x)), device=DEVICE))
        launches.append(list(gpu.launches))
    return list((Counter(launches[-1]) - Counter(launches[-2])).elements())


@pytest.mark.slow
@pytest.mark.usefixtures("narrow_wrn")
def test_launches(shapes: PretendedGpu) -> None:
    """Fails if a step of an attack, with or without graphs, or folding launches more operators than stated."""
    assert LAUNCHES.keys() == MODELS.keys()
    for name, (plain, bf16, folding) in LAUNCHES.items():
        model, x = on_device(build_model(name, 2), DEVICE), torch.rand(2, 3, 32, 32).to(DEVICE)
        copy = inference_copy(model, x)
        assert isinstance(copy, Captured)
        assert 50 < len(launches_of_a_step(shapes, name, copy.network, "fp32")) <= plain, name
        assert len(launches_of_a_step(shapes, name, copy.network, "bf16")) <= bf16, name
        if name in ("res18", "mv2", "chexnet"):
            assert 20 < len(launches_of_a_step(shapes, name, copy, "fp32")) <= CAPTURED, name
        with torch.no_grad():
            next(model.parameters()).add_(1)
        shapes.clear()
        inference_copy(model, x)
        assert 5 < len(shapes.launches) <= folding, name


def test_traffic(shapes: PretendedGpu) -> None:
    """Fails if a step of an attack reads and writes more memory than stated."""
    shape = (32, 3, 224, 224)
    for name, limits in TRAFFIC.items():
        model = on_device(build_model(name, 2), DEVICE)
        network = without_graphs(inference_copy(model, torch.rand(shape).to(DEVICE)))
        for precision, most in zip(("tf32", "bf16"), limits, strict=True):
            launches = launches_of_a_step(shapes, name, network, precision, shape)
            moved = sum(launch.bytes for launch in launches) / 1e9
            assert 0.95 * most < moved <= most, (name, precision, moved)


@pytest.mark.parametrize("kind", DRAWS)
def test_draws(shapes: PretendedGpu, kind: str) -> None:
    """Fails if noise takes more launches or memory than stated, launches for each image, or makes the host wait."""
    launches, memory = DRAWS[kind]
    for batch in (2, 32):
        like, indices = torch.zeros(batch, 3, 224, 224).to(DEVICE), torch.arange(batch // 2, device=DEVICE)
        shapes.clear()
        rng = SampleRng.of(0, samples=range(batch), device=DEVICE)
        before = shapes.memory.live
        getattr(rng.take(indices).restart(1), kind)(like[: len(indices)])
        shapes.launches.clear()
        getattr(rng, kind)(like)
        pieces = -(-like.numel() // (2 * splitmix._PIECE_ON_GPU))
        assert not shapes.waits and 20 < len(shapes.launches) <= pieces * launches, len(shapes.launches)
        temporary = shapes.memory.peak - before - like.numel() * like.element_size()
        assert temporary <= memory * 2**20, temporary / 2**20


@pytest.mark.slow
def test_memory_of_training(shapes: PretendedGpu) -> None:
    """Fails if a method keeps a graph more than stated, such as that of its attack, or the attack keeps its steps'."""
    assert MEMORY.keys() == METHODS.keys()
    x, y = torch.rand(32, 3, 224, 224).to(DEVICE), torch.zeros(32, dtype=torch.int64).to(DEVICE)
    for method, most in MEMORY.items():
        model, helper = (on_device(build_model("res18", 2), DEVICE) for _ in range(2))
        rng = SampleRng.of(0, samples=range(len(x)), device=DEVICE)
        gc.collect()  # copies of the models before are cycles
        shapes.clear()
        built = METHODS[method](settings_with(helper))
        backward(built.losses(model, x, built.examples(model, x, y, rng=rng), y))
        peak = shapes.memory.peak / 2**30
        assert 0.9 * most < peak <= most, (method, peak)
