"""What is recorded of an image is the same, to the bit on a CPU, whatever images share its batch and in which order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advmia.attacks import ATTACKS, fab
from advmia.attacks.common import value_and_gradient
from advmia.attacks.inference import Blocks
from advmia.budgets import Budget
from advmia.data.loading import EvaluationLoader, ImageData
from advmia.data.specs import CHEST_FINDINGS, DATASETS
from advmia.evaluation.loop import EvaluationOptions, evaluate
from advmia.losses import binary_cross_entropy, cross_entropy
from advmia.tasks import MULTI_LABEL, SEGMENTATION, SINGLE_LABEL, Task
from tests.support.networks import CPU, image_data, network, targets, trained

IMAGES, SIZE = 9, 32
BLOCK = 8  # images of up to 32 pixels
NETWORKS = {
    SINGLE_LABEL.name: ("res18-normalized", "mv2", "chexnet-normalized"),
    MULTI_LABEL.name: ("res18-normalized", "mv2", "chexnet-normalized"),
    SEGMENTATION.name: ("unet", "segnet"),
}
CASES = [
    (task, name, attack)
    for task in (SINGLE_LABEL, MULTI_LABEL, SEGMENTATION)
    for name in NETWORKS[task.name]
    for attack in task.attacks
    if attack in task.default_attacks or name in ("mv2", "segnet")  # the others take several times as many passes
]
# Steps or queries. SimBA's is the size of a step too.
BUDGETS = {
    "square": Budget(8 / 255, steps=6, step_size=0),
    "simba": Budget(1.0, steps=6, step_size=0),
    "aa": Budget(0.015 / 255, steps=1, step_size=0),  # some images stand it, so that every part has its turn
}
OTHERS = Budget(8 / 255, steps=2, step_size=4 / 255)


def data_of(task: Task) -> ImageData:
    """Nine images with what the task labels them by."""
    data = image_data(IMAGES, size=SIZE)
    if task is MULTI_LABEL:
        labels = targets(task, IMAGES, SIZE, len(CHEST_FINDINGS))
        spec = DATASETS["xray_multilabel"].at_size(SIZE)
        return replace(data, samples=replace(data.samples, spec=spec, labels=labels))
    if task is SEGMENTATION:
        samples = replace(data.samples, spec=DATASETS["mel"].at_size(SIZE), classes=2)
        return replace(data, samples=samples, masks=targets(task, IMAGES, SIZE, 2).numpy().astype(np.uint8))
    return data


def model_of(task: Task, name: str, data: ImageData) -> nn.Module:
    """Untrained, but its batch norms know the data: with statistics that fit nothing, deep logits hardly move."""
    classes = {SINGLE_LABEL.name: 3, MULTI_LABEL.name: len(CHEST_FINDINGS), SEGMENTATION.name: 2}[task.name]
    model = network(name, classes).to(memory_format=torch.channels_last)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches: there will be one
    with torch.no_grad():
        model(next(iter(EvaluationLoader(data, IMAGES, CPU))).x)
    return model.eval()


def with_predicted_labels(data: ImageData, logits: torch.Tensor) -> ImageData:
    """Some attacks leave alone what is wrong to begin with."""
    return replace(data, samples=replace(data.samples, labels=logits.argmax(dim=1)))


@pytest.mark.parametrize(
    ("task", "name", "attack"), CASES, ids=[f"{task.name}-{name}-{attack}" for task, name, attack in CASES]
)
def test_outcomes_are_the_images_own(task: Task, name: str, attack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if rounding, noise or a loss depends on the batch: batches of 1, 7 and 64, and the list backwards.

    The outcomes are the logits themselves, for predictions would hide what a larger list would show.
    """
    data = data_of(task)
    model = model_of(task, name, data)
    monkeypatch.setattr("advmia.attacks.auto_attack.QUERIES_PER_STEP", 4)
    made = ATTACKS[attack].build(BUDGETS.get(attack, OTHERS), task.attacks[attack])
    exact = replace(task, outcome=lambda logits, y: logits)

    def outcomes(data: ImageData, batch_size: int) -> torch.Tensor:
        loader = EvaluationLoader(data, batch_size, CPU)
        return evaluate(model, loader, exact, made, options=EvaluationOptions((0, attack, 8.0))).outcomes

    clean = evaluate(model, EvaluationLoader(data, 64, CPU), exact).outcomes
    if task is SINGLE_LABEL:
        data = with_predicted_labels(data, clean)
    expected = outcomes(data, 64)
    assert (expected != clean).flatten(1).any(dim=1).sum() > IMAGES / 2  # it attacks
    assert torch.equal(outcomes(replace(data, indices=data.indices[:2]), 1), expected[:2])
    assert torch.equal(outcomes(data, 7), expected)
    backwards = replace(data, indices=data.indices[::-1].copy())
    assert torch.equal(outcomes(backwards, 7), expected.flip(0))


@pytest.mark.parametrize("count", [1, BLOCK, 2 * BLOCK + 1])
def test_blocks_are_the_network(count: int) -> None:
    """Values and gradients of the network, without what fills the last block up; each image's own gradient."""
    model = trained()
    data = image_data(count)
    x = next(iter(EvaluationLoader(data, count, CPU))).x
    plain, blocks = x.clone().requires_grad_(True), x.clone().requires_grad_(True)
    expected, found = model(plain), Blocks(model)(blocks)
    torch.testing.assert_close(found, expected)
    expected.square().sum().backward()
    found.square().sum().backward()
    torch.testing.assert_close(blocks.grad, plain.grad)


def test_only_blocks_reach_the_network() -> None:
    """Fails if a short batch reaches the network as it is, whose rounding is then another."""
    sizes: list[int] = []
    model = trained()
    model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    for count in (1, BLOCK + 2, 2 * BLOCK):
        Blocks(model)(torch.rand(count, 3, 16, 16))
    assert sizes == [BLOCK] * 5


def test_blocks_of_training() -> None:
    """Fails if training's attacks spend passes on copies, or take smaller blocks than they might, or larger."""
    sizes: list[int] = []
    model = trained()
    model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    for count, side in ((3, 16), (18, 16), (5, 128)):
        assert Blocks(model, filled=False)(torch.rand(count, 3, side, side)).shape == (count, 3)
    assert sizes == [3, 16, 2, 4, 1]


def test_a_graph_is_kept_of_one_block_at_a_time() -> None:
    """Fails if the gradients of many blocks wait for each other's graphs, or come out in another order."""
    model = trained().eval()
    x = next(iter(EvaluationLoader(image_data(2 * BLOCK + 3), 64, CPU))).x
    y = torch.arange(len(x)) % 3
    passes: list[str] = []
    model.register_forward_pre_hook(lambda module, inputs: passes.append(f"forward {len(inputs[0])}"))
    model.register_full_backward_hook(lambda *_: passes.append("backward"))
    expected = value_and_gradient(model, x, y, cross_entropy)
    passes.clear()
    found = value_and_gradient(Blocks(model), x, y, cross_entropy)
    assert passes == ["forward 8", "backward"] * 3
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_blocks_off_the_cpu() -> None:
    """No more than the batch size at a time and nothing filled up: fails when a GPU is handed a whole wave."""
    sizes: list[int] = []
    model = trained().to("meta")
    model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    assert Blocks(model, 32)(torch.empty(70, 3, 16, 16, device="meta")).shape == (70, 3)
    assert sizes == [32, 32, 6]


def test_a_gradient_of_findings_does_not_depend_on_the_place() -> None:
    """Fails in float32, whose exponentials differ in the last bit between the places of a vector."""
    generator = torch.Generator().manual_seed(0)
    logits, y = torch.randn(64, 14, generator=generator), torch.randint(2, (64, 14), generator=generator).float()

    def gradients(size: int) -> Tensor:
        parts = []
        for part, labels in zip(logits.split(size), y.split(size), strict=True):
            leaf = part.clone().requires_grad_(True)
            parts.append(torch.autograd.grad(binary_cross_entropy(leaf, labels).sum(), leaf)[0])
        return torch.cat(parts)

    assert torch.equal(gradients(8), gradients(1))


def test_a_step_of_fab_does_not_depend_on_the_batch() -> None:
    """Fails in float32, where the sum of a single image is shared among threads and so rounded otherwise."""
    threads, generator = torch.get_num_threads(), torch.Generator().manual_seed(0)
    x, now, gradient = (torch.rand(4, 3, 224, 224, generator=generator) for _ in range(3))
    lead, gradient = torch.full((4,), 0.5), gradient - 0.5
    try:
        torch.set_num_threads(2)
        together = fab.step_to_boundary(now, x, gradient, lead)
        alone = [
            fab.step_to_boundary(now[i : i + 1], x[i : i + 1], gradient[i : i + 1], lead[i : i + 1]) for i in range(4)
        ]
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(together, torch.cat(alone))
