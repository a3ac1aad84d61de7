"""Passes of the copy that attacks run on, as CUDA graphs: their numbers, memory and number, on the pretended GPU."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from advmia.attacks import ATTACKS
from advmia.attacks.common import Attack, forward, value_and_gradient
from advmia.attacks.inference import Blocks, Captured, inference_copy
from advmia.attacks.inference import captured as captured_module
from advmia.attacks.inference.by_precision import ByPrecision
from advmia.attacks.inference.waits import NoWaits
from advmia.budgets import Budget
from advmia.losses import cross_entropy
from advmia.runtime.precision import PRECISIONS, Precision
from advmia.runtime.rng import SampleRng
from advmia.tasks import SINGLE_LABEL
from advmia.training.methods import training_copy
from tests.support.networks import SmallNet, pixels, trained
from tests.support.pretended_gpu import DEVICE, PretendedGpu

STEPS = {"pgd": 4, "apgd-ce": 8, "square": 20, "simba": 20}


def images(count: int, size: int = 16) -> tuple[Tensor, Tensor]:
    x, y = pixels(count, size=size)
    return x.to(DEVICE), y.to(DEVICE)


def copy_of(model: nn.Module, x: Tensor) -> Captured:
    copy = inference_copy(model, x)
    assert isinstance(copy, Captured)
    return copy


def gradient(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return value_and_gradient(network, x, y, cross_entropy)[2]


def record(network: nn.Module, x: Tensor, y: Tensor) -> None:
    """Runs the passes with and without a gradient often enough to be recorded."""
    for _ in range(2):
        gradient(network, x, y)
        forward(network, x)


def graphs(gpu: PretendedGpu, run: Callable[..., object], *args: object) -> int:
    """Returns the number of graphs that run when the function is called."""
    gpu.clear()
    run(*args)
    return sum(launch.op == "graph" for launch in gpu.launches)


def attack(name: str) -> Attack:
    return ATTACKS[name].build(Budget(4 / 255, STEPS[name], 1 / 255), SINGLE_LABEL.attacks[name])


def attacked(name: str, network: nn.Module, x: Tensor, y: Tensor, precision: Precision) -> Tensor:
    rng = SampleRng.of(0, samples=range(len(x)), device=DEVICE)
    with precision.autocast(DEVICE, early_stopping=ATTACKS[name].early_stopping):
        return attack(name)(Blocks(network, len(x)), x, y, rng=rng)


def test_attacks_find_the_same(pretended: PretendedGpu, capsys: pytest.CaptureFixture) -> None:
    """Fails if an image that an attack finds differs by a bit from that without graphs: in any precision, while images
    leave the batch, with new weights, or where a graph reads a cast, a buffer or a tf32 switch of another pass."""
    model, (x, y) = trained().to(DEVICE).eval(), images(12)
    for name, precision in (*(("pgd", each) for each in PRECISIONS), *((name, "tf32") for name in STEPS)):
        chosen, copy = Precision.choose(precision, DEVICE), copy_of(model, x)
        expected = attacked(name, copy.network, x, y, chosen)
        pretended.clear()
        assert torch.equal(attacked(name, copy, x, y, chosen), expected), (name, precision)
        count = sum(launch.op == "graph" for launch in pretended.launches)
        assert count > STEPS[name] // 2, (name, precision, count)
        with torch.no_grad():
            next(model.parameters()).mul_(1.01)
    assert "CUDA graphs" not in capsys.readouterr().err


def test_few_batch_sizes(pretended: PretendedGpu) -> None:
    """Fails if the network meets each number of images that are left, if filling is counted, or a block grows beyond
    the full size."""
    model, (x, y) = trained().to(DEVICE).eval(), images(31)
    sizes, left = set[int](), list[int]()
    copy = copy_of(model, x)
    copy.register_forward_pre_hook(lambda module, inputs: sizes.add(len(inputs[0])))
    rng = SampleRng.of(0, samples=range(31), device=DEVICE)
    ATTACKS["apgd-ce"].build(Budget(2 / 255, 40, 1 / 255), SINGLE_LABEL.attacks["apgd-ce"])(
        Blocks(copy, 31, left.append), x, y, rng=rng
    )
    assert len(set(left)) > len(sizes) and max(left) == max(sizes) == 31, (left, sizes)
    assert sizes <= {1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 31}


def test_sizes_of_blocks(pretended: PretendedGpu) -> None:
    """Fails if a block is filled with more copies than a quarter of its images, or there are more sizes than said."""
    sizes = list[int]()
    network = nn.Identity()
    network.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    for count in range(1, 129):
        x = torch.rand(count, 1, 1, 1, device=DEVICE)
        assert torch.equal(Blocks(network, 128)(x), x) and count <= sizes[-1] <= 1.25 * count
    assert sorted(set(sizes)) == [*(1, 2, 3, 4, 6, 8), *range(10, 16, 2), *range(16, 32, 4), *range(32, 64, 8),
                                  *range(64, 129, 16)]  # fmt: skip


def test_passes_that_overlap(pretended: PretendedGpu) -> None:
    """Fails if a pass overwrites what another keeps for its gradient or has returned, or a gradient is taken twice."""
    model, (x, y) = trained().to(DEVICE).eval(), images(4)
    copy = copy_of(model, x)
    for count in (4, 3):
        record(copy, x[:count], y[:count])
    expected = [gradient(copy.network, x, y), gradient(copy.network, 1 - x, y)]
    leaves = [image.detach().requires_grad_(True) for image in (x, 1 - x)]
    losses = [cross_entropy(copy(leaf), y).sum() for leaf in leaves]
    forward(copy, x[:3])
    gradients = [torch.autograd.grad(loss, leaf)[0] for loss, leaf in zip(losses, leaves, strict=True)]
    assert all(map(torch.equal, gradients, expected))

    gradients = [gradient(copy, x, y), gradient(copy, 1 - x, y)]
    assert all(map(torch.equal, gradients, expected))

    leaf = leaves[0]
    loss = cross_entropy(copy(leaf), y).sum()
    torch.autograd.grad(loss, leaf, retain_graph=True)
    with pytest.raises(RuntimeError, match="can be taken once"):
        torch.autograd.grad(loss, leaf)
    copy(leaf)  # of which no gradient is taken
    assert graphs(pretended, gradient, copy, x, y) == 2


def test_a_cpu_has_none() -> None:
    """Fails if the copy on a CPU has graphs."""
    assert isinstance(inference_copy(SmallNet(3), pixels(2)[0]), ByPrecision)


def test_graphs_keep_to_free_memory(pretended: PretendedGpu) -> None:
    """Fails if a graph is recorded that leaves less than it keeps, or is not recorded though there is room."""
    model, (x, y) = SmallNet(3).to(DEVICE).eval(), images(4)
    pass_needs = 2**17
    for free, expected in ((pass_needs // 2, 0), (64 * pass_needs, 2)):
        copy = copy_of(model, x)
        copy.drop_graphs()
        gradient(copy, x, y)
        pretended.memory.total = pretended.memory.peak + free
        for _ in range(2):
            captured_module._MOST_RESERVED.clear()
            found = graphs(pretended, gradient, copy, x, y)
        assert found == expected


def test_training_records_after_its_first_update(pretended: PretendedGpu) -> None:
    """Fails if a graph takes memory before it is known what an update needs, or none is used afterwards."""
    model, (x, y) = SmallNet(3).to(DEVICE), images(4)
    expected = [0, 2, 2]
    for _ in range(3):
        frozen = training_copy(model, x)
        for _ in range(3):
            found = graphs(pretended, gradient, frozen, x, y)
        assert found == expected.pop(0)
        with torch.no_grad():
            next(model.parameters()).add_(0.01)


class Waiting(SmallNet):
    """A network that asks the GPU for a number."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (2 if float(x.detach().mean()) > 0.5 else 1)


class Changing(SmallNet):
    """A network whose outputs depend on the number of its passes."""

    passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return super().forward(x) * self.passes


@pytest.mark.parametrize(
    ("kind", "reason"), [(Waiting, "_local_scalar_dense makes the host wait"), (Changing, "a graph's numbers differ")]
)
def test_where_recording_fails(
    kind: type[SmallNet], reason: str, pretended: PretendedGpu, capsys: pytest.CaptureFixture
) -> None:
    """Fails if a network that cannot be recorded, or is recorded wrongly, ends the run, is used so, or is announced
    twice."""
    model, (x, y) = kind(3).to(DEVICE).eval(), images(4)
    copy = copy_of(model, x)
    assert sum(graphs(pretended, record, copy, x[:count], y[:count]) for count in (4, 3)) <= 2
    printed = capsys.readouterr().err
    assert printed.count("continuing without CUDA graphs") == printed.count(reason) == 1
    if kind is Waiting:
        assert torch.equal(gradient(copy, x, y), gradient(copy.network, x, y))
    assert graphs(pretended, gradient, copy, x, y) == 0


def test_what_waits_is_found(pretended: PretendedGpu) -> None:
    """Fails if a pass that waits for the GPU, which would spoil a recording, is not noticed before, or another is."""
    x, mask = torch.rand(3, 4, device=DEVICE), torch.tensor([True, False, True], device=DEVICE)
    for run in (
        lambda: float(x.sum()),
        lambda: bool(mask.any()),
        lambda: x[mask],
        lambda: x.index_put_((mask,), x[:2] * 2),
        lambda: x[torch.tensor([1, 2])],
        lambda: mask.nonzero(),
        lambda: x.cpu(),
        lambda: x.copy_(torch.rand(3, 4)),
        lambda: x + torch.tensor([1.0, 2, 3, 4], device=DEVICE),
    ):
        with pytest.raises(RuntimeError, match="makes the host wait"), NoWaits():
            run()
    with NoWaits():
        torch.where(mask[:, None], x, x.new_zeros(3, 4))[mask.long()] += 1
        assert bool(torch.rand(3)[torch.tensor([True, False, True])].sum() > -1)


def test_the_graphs_go(pretended: PretendedGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if more graphs are kept than stated, or they outlive the network."""
    monkeypatch.setattr(captured_module, "_MOST_GRAPHS", 2)
    model, (x, y) = SmallNet(3).to(DEVICE).eval(), images(6)
    copy = copy_of(model, x)
    for count in (6, 4, 3, 3):
        record(copy, x[:count], y[:count])
    assert graphs(pretended, gradient, copy, x[:3], y[:3]) == 2
    assert graphs(pretended, gradient, copy, x, y) == 0
    record(copy, x, y)
    reference = weakref.ref(copy)
    del model, copy, x, y
    gc.collect()
    assert reference() is None and pretended.memory.live == 0
