"""The copy that attacks run on, on a GPU: fused layers give the plain network's results, or give way to it."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advmia.attacks import ATTACKS
from advmia.attacks.inference import Blocks, fused_layers, inference_copy, plain_kernels, without_graphs
from advmia.attacks.inference.by_precision import ByPrecision
from advmia.attacks.inference.fused_graph import fuse
from advmia.attacks.inference.guard import results_of
from advmia.budgets import Budget
from advmia.models import MODELS, build_model
from advmia.runtime.machine import keep_plain_layout, on_device
from advmia.runtime.precision import Precision
from advmia.runtime.rng import SampleRng
from advmia.tasks import SINGLE_LABEL
from tests.support.networks import unsettle
from tests.support.pretended_gpu import DEVICE, PretendedGpu

FUSED = ("cudnn_convolution_relu", "cudnn_convolution_add_relu", "advmia::depthwise_relu")
OWN = (*FUSED, "advmia::masked_sum", "advmia::depthwise_relu_backward")


def images(count: int = 2, size: int = 32) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)).to(DEVICE)


def copy_of(model: nn.Module, x: Tensor) -> nn.Module:
    """Returns the copy that attacks run on, without CUDA graphs, which hide what they launch."""
    return without_graphs(inference_copy(model, x))


def with_gradient(network: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    """Returns the outputs for x, and the gradient with respect to x."""
    return results_of(network, x, with_gradient=True)


def launched(gpu: PretendedGpu, network: nn.Module, x: Tensor) -> Counter[str]:
    """Returns the operators of a pass forward and backward."""
    gpu.clear()
    with_gradient(network, x)
    return Counter(launch.op for launch in gpu.launches)


def farthest(found: list[Tensor], expected: list[Tensor]) -> float:
    """Returns the largest difference of two lists of tensors, as a share of the largest number of each."""
    return max(
        float((a.float() - b.float()).abs().max() / b.float().abs().max()) for a, b in zip(found, expected, strict=True)
    )


@pytest.mark.slow
@pytest.mark.usefixtures("small_networks")
def test_every_network(pretended: PretendedGpu) -> None:
    """Fails if logits or gradients of a network differ on fused layers by more than rounding, or none are fused."""
    fewest = {"res18": 17, "mv2": 10, "chexnet": 59, "wrn": 6, "unet": 18, "segnet": 25}  # fused convolutions
    assert fewest.keys() == MODELS.keys()
    for name, fused in fewest.items():
        torch.manual_seed(0)
        model, x = on_device(unsettle(build_model(name, 3)), DEVICE), images()
        copied = copy_of(model, x)
        found = with_gradient(copied, x)
        assert farthest(found, with_gradient(copied.get_submodule("network"), x)) <= 1e-5, name
        operators = launched(pretended, copied, x)
        assert sum(operators[kind] for kind in FUSED) == fused, (name, operators)
        assert operators["bias"] == {"unet": 4, "segnet": 1}.get(name, 0), (name, operators)


class User(nn.Module):
    """A user's network: what it does between a first convolution and the average is `body`."""

    def __init__(self, body: Callable[[User, Tensor], Tensor]) -> None:
        super().__init__()
        self.body = body
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second, self.third = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        self.depthwise, self.pointwise = nn.Conv2d(8, 8, 3, stride=2, groups=8), nn.Conv2d(8, 8, 1)
        self.relu, self.dropout, self.linear = nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.body(self, self.first(x)).mean(dim=(2, 3)))


def forks(net: User, x: Tensor) -> Tensor:
    x = F.relu(x)  # with three users
    return F.relu(x + net.second(x)) + net.third(x).relu()


def twice(net: User, x: Tensor) -> Tensor:
    return net.relu(net.second(net.dropout(net.relu(net.second(x)))))


def doubled(net: User, x: Tensor) -> Tensor:
    x = net.relu(net.second(x))
    return x + x + x


def of_something_else(net: User, x: Tensor) -> Tensor:
    return net.relu(net.second(net.relu(x) * 2) * torch.relu(net.third(x)))


def used_before(net: User, x: Tensor) -> Tensor:
    y = net.second(x)  # is needed before its ReLU
    return F.relu(y) - y


def written_over(net: User, x: Tensor) -> Tensor:
    y = net.second(x)
    x.clamp_(max=0.1)  # after `second` has read it
    return F.relu(y + x)


def added_in_place(net: User, x: Tensor) -> Tensor:
    x = x * 1
    y = x
    y += net.second(x)  # also changes x
    return F.relu(y) + net.third(x)


def onto_a_convolution(net: User, x: Tensor) -> Tensor:
    y = net.second(x)
    y += net.third(x)  # with one bias for both
    return F.relu(y)


def of_one_pixel(net: User, x: Tensor) -> Tensor:
    return F.relu(net.second(x) + net.third(x).mean(dim=(2, 3), keepdim=True))  # not of one shape


def depthwise(net: User, x: Tensor) -> Tensor:
    return net.pointwise(net.relu(net.depthwise(net.relu(net.second(x))))).sigmoid()


def depthwise_of_a_fork(net: User, x: Tensor) -> Tensor:
    x = net.relu(x)
    return net.relu(net.depthwise(x)) + x[:, :, ::2, ::2][:, :, :-1, :-1]


def depthwise_of_negatives(net: User, x: Tensor) -> Tensor:
    return net.relu(net.depthwise(x))


def of_numbers(net: User, x: Tensor) -> Tensor:
    return net.relu(net.second(x)) if x.mean() > -1e9 else x  # which a trace has not


# A user's network -> how many fused convolutions it has.
USERS: dict[Callable[[User, Tensor], Tensor], int] = {
    forks: 3, twice: 2, doubled: 1, of_something_else: 1, used_before: 0, written_over: 0, added_in_place: 0,
    onto_a_convolution: 1, of_one_pixel: 0, depthwise: 2, depthwise_of_a_fork: 2, depthwise_of_negatives: 1,
    of_numbers: 0,
}  # fmt: skip


# Where torch cannot compute a gradient, since something that it needs is written over.
WITHOUT_GRADIENT = (written_over, added_in_place)
# Whose trace is not what they compute, as the first pass finds out.
TOLD = (of_one_pixel, added_in_place)


def test_users_networks(pretended: PretendedGpu, capsys: pytest.CaptureFixture) -> None:
    """Fails if a user's network has other results on fused layers, or other layers are fused than can be."""
    for body, count in USERS.items():
        torch.manual_seed(0)
        model, x = on_device(User(body).eval(), DEVICE), images(3, size=9)
        copied = copy_of(model.requires_grad_(False), x)
        results = partial(results_of, with_gradient=body not in WITHOUT_GRADIENT)
        found = [results(copied, x)]
        pretended.clear()
        found.append(results(copied, x))
        operators = Counter(launch.op for launch in pretended.launches)
        assert sum(operators[kind] for kind in FUSED) == count, (body.__name__, operators)
        assert max(farthest(each, results(model, x)) for each in found) <= 1e-5, body.__name__
        assert bool(capsys.readouterr().err) == (body in TOLD), body.__name__


def test_what_hooks_see_is_kept(pretended: PretendedGpu) -> None:
    """Fails if a layer is fused whose output a hook of the user's network reads or changes."""
    model, x = on_device(User(twice).eval().requires_grad_(False), DEVICE), images(size=9)
    model.second.register_forward_hook(lambda module, inputs, output: output * 2)
    assert farthest(with_gradient(copy_of(model, x), x), with_gradient(model, x)) <= 1e-5


@pytest.mark.usefixtures("small_networks")
def test_new_weights(pretended: PretendedGpu) -> None:
    """Fails if a fused copy still has the weights from before they changed, in float32 or bf16 and in any layout."""
    for to_device in (on_device, nn.Module.to):
        model, x = to_device(unsettle(build_model("res18", 3)), DEVICE).eval().requires_grad_(False), images()
        for precision, tolerance in (("fp32", 1e-4), ("bf16", 0.03)):
            for _ in range(2):
                with torch.no_grad():
                    for weight in model.parameters():
                        weight.mul_(0.9).add_(0.001)
                with Precision(precision).autocast(DEVICE), torch.no_grad():
                    copied = copy_of(model, x)
                    assert farthest([copied(x)], [model(x)]) <= tolerance


def test_maps_too_large_for_cudnn(pretended: PretendedGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a map of more elements than 32 bits count is given to cuDNN's fused convolutions, or comes out wrong."""
    monkeypatch.setattr(fused_layers, "_MOST_ELEMENTS", 8 * 9 * 9 * 2)
    for body in (forks, twice):
        model = on_device(User(body).eval().requires_grad_(False), DEVICE)
        for count, is_fused in ((2, True), (3, False)):
            x = images(count, size=9)
            copied = copy_of(model, x)
            assert farthest(with_gradient(copied, x), with_gradient(model, x)) <= 1e-5
            assert any(launched(pretended, copied, x)[kind] for kind in FUSED) is is_fused


@pytest.mark.usefixtures("small_networks")
def test_bf16_casts_no_weights(pretended: PretendedGpu) -> None:
    """Fails if a pass in bf16 casts more than the images, the logits and their gradients."""
    model, x = on_device(build_model("res18", 3), DEVICE), images()
    with Precision("bf16").autocast(DEVICE):
        with_gradient(copy_of(model, x), x)
        operators = launched(pretended, copy_of(model, x), x)
    assert operators["cudnn_convolution_relu"] == 9 and operators["_to_copy"] <= 4, operators


@pytest.mark.usefixtures("small_networks")
def test_memory_goes_with_the_network(pretended: PretendedGpu) -> None:
    """Fails if the memory of a fused copy is kept until a garbage collection."""
    model, x = on_device(build_model("res18", 3), DEVICE), images()
    live = pretended.memory.live
    with_gradient(inference_copy(model, x), x)
    gc.collect()  # what tracing leaves
    assert pretended.memory.live > live
    gc.disable()
    try:
        del model
        assert pretended.memory.live < live
    finally:
        gc.enable()


@pytest.mark.usefixtures("small_networks")
def test_early_stopping_attacks_run_in_float32(pretended: PretendedGpu) -> None:
    """Fails if weights in bf16 are used outside of autocast after a pass in bf16."""
    model, x = on_device(unsettle(build_model("res18", 3)).eval(), DEVICE), images()
    copied = copy_of(model, x)
    before = copied(x)
    with Precision("bf16").autocast(DEVICE):
        assert not torch.equal(copied(x).float(), before)
    assert torch.equal(copied(x), before)


@pytest.mark.usefixtures("small_networks")
def test_outcomes_of_pgd(pretended: PretendedGpu) -> None:
    """Fails if PGD fools other images on fused layers than on plain ones."""
    x, y, found = images(6, size=16), torch.tensor([0, 1, 2, 0, 1, 2]).to(DEVICE), []
    for plain in (False, True):
        torch.manual_seed(0)
        model = on_device(unsettle(build_model("mv2", 3)).eval(), DEVICE)
        if plain:
            plain_kernels(model)
        attack = ATTACKS["pgd"].build(Budget(4 / 255, 4, 2 / 255), SINGLE_LABEL.attacks["pgd"])
        copied = Blocks(copy_of(model, x))
        pretended.clear()
        x_adv = attack(copied, x, y, rng=SampleRng.of(0, samples=range(6), device=DEVICE))
        assert any(launch.op in OWN for launch in pretended.launches) is not plain
        found.append((x_adv, model(x_adv).argmax(dim=1)))
    assert torch.equal(found[0][1], found[1][1])
    assert float((found[0][0] - found[1][0]).abs().gt(1e-5).double().mean()) < 0.01


def test_where_they_do_not_work(
    pretended: PretendedGpu, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Fails if an error of a fused operator, wrong numbers or NaN end a run or reach an attack, or are told twice."""
    right = torch.cudnn_convolution_relu

    def broken(*arguments: Any) -> Tensor:
        raise RuntimeError("no engine\nand more")

    def wrong(*arguments: Any) -> Tensor:
        return right(*arguments) * 1.2

    def reading(*arguments: Any) -> Tensor:
        return right(*arguments) * torch.nan  # as if it had read the memory of its output

    for operator, said in ((broken, "(no engine)"), (wrong, "differ by 0"), (reading, "differ by 1")):
        monkeypatch.setattr(torch, "cudnn_convolution_relu", operator)
        Precision.choose("fp32", DEVICE)
        model, x = on_device(User(twice).eval(), DEVICE), images(size=9)
        copied = copy_of(model, x)
        expected = with_gradient(copied.get_submodule("network"), x)
        for precision in ("fp32", "tf32", "bf16"):
            with Precision.choose(precision, DEVICE).autocast(DEVICE):
                found = with_gradient(copied, x)
                copied(x)
            if precision == "fp32":
                assert all(map(torch.equal, found, expected))
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("fused operators do not work here") and said in line, line


def test_the_first_pass_fills_outputs_with_nan(pretended: PretendedGpu) -> None:
    """Fails if a cuDNN that reads the memory of its output cannot be found by the first pass, or later passes check."""
    model, x = on_device(User(twice).eval(), DEVICE), images(size=9)
    copied = copy_of(model, x)
    pretended.clear()
    with_gradient(copied, x)
    assert sum(launch.op == "fill_" for launch in pretended.launches) == 2
    assert launched(pretended, copied, x)["fill_"] == 0


def test_plain_where_asked_for(pretended: PretendedGpu) -> None:
    """Fails if fused layers run with --kernels plain, in a network that is to keep its layout, or where none fit."""
    for prepare in (plain_kernels, keep_plain_layout):
        model, x = User(twice).eval(), images(size=9)
        prepare(model)
        operators = launched(pretended, copy_of(on_device(model, DEVICE), x), x)
        assert not any(operators[kind] for kind in OWN)
    assert isinstance(copy_of(User(twice), images(size=9).cpu()), ByPrecision)
    assert fuse(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Sigmoid()).eval()) is None
