"""How many operators a step launches on the GPU, and how much memory a training step needs, counted without numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from advmia.attacks import ATTACKS
from advmia.attacks.inference import Blocks, Captured, inference_copy
from advmia.budgets import Budget
from advmia.models import MODELS, build_model
from advmia.runtime import splitmix
from advmia.runtime.precision import Precision
from advmia.runtime.rng import SampleRng
from advmia.tasks import SEGMENTATION, SINGLE_LABEL
from advmia.training.gradients import backward
from advmia.training.methods import METHODS
from tests.gpu.test_devices import settings_with
from tests.support.pretended_gpu import DEVICE, PretendedGpu

# Network -> the most launches without CUDA graphs: of a step of PGD in fp32 or tf32, of one in bf16, and of folding new
# weights. They do not depend on the size of the images or of the batch. A smaller number is progress: write it here.
LAUNCHES = {
    "res18": (130, 177, 22),
    "mv2": (291, 412, 19),
    "chexnet": (809, 995, 17),
    "wrn": (188, 235, 22),
    "unet": (141, 192, 25),
    "segnet": (168, 225, 32),
}
# Draw of noise -> the most launches for each piece of a batch, and the most MiB beside the noise itself.
DRAWS = {"uniform": (24, 50), "normal": (91, 200)}
CAPTURED = 25  # the most launches of a step with CUDA graphs
# Method -> the most GiB of a training step of res18 on 32 images of 224 pixels in fp32 or tf32. A graph takes 6.9.
MEMORY = {"nat": 7.2, "pgdat": 7.3, "trades": 14.1, "mart": 14.1, "hat": 14.0, "mpadvt": 7.3, "maadvt": 14.1}


def launches_of_a_step(gpu: PretendedGpu, name: str, network: nn.Module, precision: str) -> int:
    """Returns how many launches PGD has with one step more than without, when graphs have been recorded."""
    task = SEGMENTATION if MODELS[name].kind == "segmentation" else SINGLE_LABEL
    x, counts = torch.rand(2, 3, 32, 32).to(DEVICE), []
    y = torch.zeros((2, 32, 32) if task is SEGMENTATION else (2,), dtype=torch.int64).to(DEVICE)
    for steps in (2, 0, 1) if isinstance(network, Captured) else (0, 1):
        gpu.clear()
        attack = ATTACKS["pgd"].build(Budget(8 / 255, steps, 2 / 255), task.attacks["pgd"])
        with Precision(precision).autocast(DEVICE):
            attack(Blocks(network), x, y, rng=SampleRng.of(0, samples=range(2), device=DEVICE))
        counts.append(len(gpu.launches))
    return counts[-1] - counts[-2]


@pytest.mark.slow
@pytest.mark.usefixtures("narrow_wrn")
def test_launches(shapes: PretendedGpu) -> None:
    """Fails if a step of an attack, with or without graphs, or folding launches more operators than stated."""
    assert LAUNCHES.keys() == MODELS.keys()
    for name, (plain, bf16, folding) in LAUNCHES.items():
        model, x = build_model(name, 2).to(DEVICE), torch.rand(2, 3, 32, 32).to(DEVICE)
        copy = inference_copy(model, x)
        assert isinstance(copy, Captured)
        assert 100 < launches_of_a_step(shapes, name, copy.network, "fp32") <= plain, name
        assert launches_of_a_step(shapes, name, copy.network, "bf16") <= bf16, name
        if name in ("res18", "mv2", "chexnet"):
            assert launches_of_a_step(shapes, name, copy, "fp32") <= CAPTURED, name
        with torch.no_grad():
            next(model.parameters()).add_(1)
        shapes.clear()
        inference_copy(model, x)
        assert 5 < len(shapes.launches) <= folding, name


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
        model, helper = build_model("res18", 2).to(DEVICE), build_model("res18", 2).to(DEVICE).eval()
        rng = SampleRng.of(0, samples=range(len(x)), device=DEVICE)
        shapes.clear()
        built = METHODS[method](settings_with(helper))
        backward(built.losses(model, x, built.examples(model, x, y, rng=rng), y))
        peak = shapes.memory.peak / 2**30
        assert 0.9 * most < peak <= most, (method, peak)
