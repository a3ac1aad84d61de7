"""The pretended GPU itself: what it refuses, records, rounds and casts, and how it counts memory."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.networks import SmallNet, pixels
from tests.support.pretended_gpu import DEVICE, GpuTensor, MixedDevicesError, PretendedGpu

CPU = torch.device("cpu")


def generator(device: torch.device, seed: int = 0) -> torch.Generator:
    return torch.Generator(device=device).manual_seed(seed)


def test_what_mixes_devices_is_refused(pretended: PretendedGpu) -> None:
    """Fails if an operator takes tensors, or a draw a generator, of both devices, or refuses what CUDA allows."""
    here, there = torch.rand(3, 4), torch.rand(3, 4, device=DEVICE)
    for mixed in (
        lambda: there + here,
        lambda: torch.where(there > 0, there, here),
        lambda: torch.cat([there, here]),
        lambda: there.addmm_(there, here[:, :3]),
        lambda: here[torch.zeros(1, dtype=torch.int64, device=DEVICE)],
        lambda: there.index_put_((torch.tensor([1]),), here[:1]),
        lambda: F.linear(there, here),
        lambda: torch.rand(2, generator=generator(DEVICE)),
        lambda: torch.rand(2, generator=generator(CPU), device=DEVICE),
        lambda: there.uniform_(generator=generator(CPU)),
    ):
        with pytest.raises(MixedDevicesError):
            mixed()
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    assert torch.equal((there * torch.tensor(2.0)).cpu(), there.cpu() * 2)  # numbers of the CPU are no tensors
    assert there.copy_(here) is there and torch.equal(there.cpu(), here)
    assert torch.equal(there[torch.tensor([1])].cpu(), here[1:2])


def test_every_wait_is_recorded(pretended: PretendedGpu) -> None:
    """Fails if a point where the host waits is not recorded, or one where it does not wait is."""
    x, mask = torch.rand(6, device=DEVICE), torch.rand(6, device=DEVICE) > 0.5
    index = torch.arange(6, device=DEVICE)
    for waits in (
        lambda: x.sum().item(),
        lambda: bool(mask.any()),
        lambda: f"{x.sum():.2f}",
        lambda: x.tolist(),
        lambda: x.cpu(),
        lambda: x[mask],
        lambda: x.index_put_((mask,), x[:1]),
        lambda: mask.nonzero(),
        lambda: torch.masked_select(x, mask),
        lambda: torch.equal(x, x),
        lambda: x[torch.tensor([1, 2])],
        lambda: torch.rand(3).to(DEVICE),
        lambda: torch.tensor([1.0, 2.0], device=DEVICE),
        lambda: torch.rand(3).pin_memory().to(DEVICE),
        lambda: torch.rand(3).to(DEVICE, non_blocking=True),
        lambda: torch.cuda.synchronize(),
    ):
        pretended.clear()
        waits()
        assert pretended.waits
    pretended.clear()
    torch.where(mask, x, x * 2).clamp_(0, 1)[index] += 1
    x[mask] = 2.0
    x[2:4].unsqueeze(0).expand(3, -1).sum()
    torch.rand(3).pin_memory().to(DEVICE, non_blocking=True)
    torch.zeros(3, device=x.device).sort()
    assert not pretended.waits


def test_numbers_and_gradients_are_those_of_the_cpu(pretended: PretendedGpu) -> None:
    """Fails if a step of training has another result than on the CPU, or copies and views lose their ties."""
    (x, y), results = pixels(6), list[tuple[dict[str, Tensor], dict[str, Tensor]]]()
    for device in (CPU, DEVICE):
        model = SmallNet(3, dropout=0.0)
        model.load_state_dict(SmallNet(3).state_dict() if not results else results[0][0])
        start = {name: value.clone() for name, value in model.state_dict().items()}
        model = copy.deepcopy(model.to(device))
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        loss = F.cross_entropy(model(x.to(device)), y.to(device))
        loss.backward()
        optimizer.step()
        results.append((start, {name: value.cpu() for name, value in model.state_dict().items()}))
    for name, value in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], value)
    weight = next(model.parameters())
    assert isinstance(weight, GpuTensor) and isinstance(weight, nn.Parameter) and weight.device == DEVICE
    with torch.no_grad():
        weight[0] = 7.0
    assert (model.conv1.weight.detach()[0] == 7).all()


def test_convolutions_and_products_round_to_tf32(pretended: PretendedGpu) -> None:
    """Fails if tf32 rounds other operators, a bias or float64, or keeps more or fewer than 10 bits."""
    fine, coarse = torch.tensor([[1 + 2.0**-12]], device=DEVICE), torch.tensor([[1 + 2.0**-10]], device=DEVICE)
    one = torch.ones(1, 1, device=DEVICE)

    def product(x: Tensor) -> float:
        return float(F.linear(x, one, bias=fine[0] - 1)) - float(fine[0] - 1)

    def convolution(x: Tensor) -> float:
        return float(F.conv2d(x[None, None], one[None, None]))

    for allowed in (False, True):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
        for rounds in (product, convolution):
            assert rounds(fine) == (1 if allowed else float(fine)) and rounds(coarse) == float(coarse)
        assert float(fine * 1) == float(fine) and product(fine.double().float()) == product(fine)
        assert float(fine.double() @ one.double()) == float(fine)


def test_autocast_casts_what_it_casts_on_cuda(pretended: PretendedGpu) -> None:
    """Fails if autocast leaves out an operator, casts a loss to bf16, or a weight more or less often than on CUDA."""
    model, (x, y) = SmallNet(3, dropout=0.0).to(DEVICE), (each.to(DEVICE) for each in pixels(4))
    weights = len([weight for weight in model.parameters() if weight.dim() > 1]) + 2  # and the biases beside them

    def casts() -> int:
        pretended.clear()
        logits = model(x)
        assert logits.dtype == torch.bfloat16 and F.cross_entropy(logits, y).dtype == torch.float32
        return sum(launch.op == "_to_copy" for launch in pretended.launches)

    assert not torch.is_autocast_enabled("cuda") and model(x).dtype == torch.float32
    with torch.autocast("cuda", torch.bfloat16):
        assert torch.is_autocast_enabled("cuda")
        first, second = casts(), casts()
        assert first == second + weights  # kept until the block ends
        with torch.autocast("cuda", enabled=False):
            assert model(x).dtype == torch.float32
        model.requires_grad_(False)
        assert casts() == first  # a frozen weight is cast for every pass
    model.requires_grad_(True)
    with torch.autocast("cuda", torch.bfloat16):
        assert casts() == first


def test_memory(pretended: PretendedGpu) -> None:
    """Fails if memory is counted twice or not given back, a graph does not count, or full memory is no error."""
    mebi = 2**20
    x = torch.zeros(mebi // 4, device=DEVICE)
    assert torch.cuda.memory_allocated() == pretended.memory.live == mebi
    views = [x.view(-1, 4), x.detach(), x[5:]]
    assert pretended.memory.live == mebi
    y = x.requires_grad_(True).exp().exp()  # each keeps its result
    assert pretended.memory.live == 3 * mebi
    del y
    assert pretended.memory.live == mebi and pretended.memory.peak == 3 * mebi
    del x, views
    assert pretended.memory.live == 0
    pretended.memory.total = mebi
    with pytest.raises(torch.OutOfMemoryError):
        torch.zeros(mebi, device=DEVICE)
    loss = torch.ones(mebi // 16, device=DEVICE, requires_grad=True).exp().sum()
    pretended.memory.total = pretended.memory.live
    with pytest.raises(torch.OutOfMemoryError):
        loss.backward()


def test_places_are_lines_of_the_package(pretended: PretendedGpu) -> None:
    """Fails if a launch or a wait names another line than the package's innermost, in other threads too."""
    from advmia.losses import margin
    from advmia.targets import check_pixels

    logits, y = torch.rand(4, 3, device=DEVICE), torch.zeros(4, dtype=torch.int64, device=DEVICE)
    pretended.clear()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: margin(logits.to("cuda:0"), y)).result()
    assert {launch.place.split(":")[0] for launch in pretended.launches} == {"advmia/losses.py"}
    check_pixels(torch.rand(1, 3, 4, 4, device=DEVICE))
    assert {wait.place.rpartition(" ")[2] for wait in pretended.waits} <= {"check_pixels", "<genexpr>"}
    assert all(wait.place.startswith("advmia/targets.py:") for wait in pretended.waits)


def test_lists_of_tensors(pretended: PretendedGpu) -> None:
    """Fails if an operator on a list counts as one launch where CUDA needs several, or as several where it does not."""
    small, large = [torch.rand(4, device=DEVICE) for _ in range(130)], torch.rand(321 * 2**16, device=DEVICE)
    for operator, launches in (
        (lambda: torch.cat(small[:128]), 1),
        (lambda: torch.cat(small), 2),
        (lambda: torch._foreach_add_(small[:110], 1.0), 1),
        (lambda: torch._foreach_add_(small, 1.0), 2),
        (lambda: torch._foreach_add(small, 1.0), 3),
        (lambda: torch._foreach_copy_([large], [large.double()]), 1 + 2),  # and a cast
        (lambda: torch._foreach_mul_(small[:5], [each[:1] for each in small[5:10]]), 5),
    ):
        pretended.clear()
        operator()
        assert len(pretended.launches) == launches


def test_shapes_only(shapes: PretendedGpu) -> None:
    """Fails if FLOP, bytes or memory are not those of the operator, or numbers are computed."""
    conv, x = nn.Conv2d(3, 8, 3, padding=1).to(DEVICE), torch.rand(2, 3, 10, 10).to(DEVICE).requires_grad_(True)
    shapes.clear()
    out = conv(x)
    names = [launch.op for launch in shapes.launches]
    assert names == ["bias", "convolution"] and isinstance(out, GpuTensor) and out.content.is_meta
    forward = 2 * (2 * 8 * 10 * 10) * (3 * 3 * 3)
    assert shapes.launches[1].flop == forward
    assert shapes.launches[1].bytes == 4 * (x.numel() + conv.weight.numel() + out.numel())
    out.sum().backward()
    assert sum(launch.flop for launch in shapes.launches) == 3 * forward
    assert float(out.detach().sum()) == 1 and shapes.waits


def test_fused_convolutions(pretended: PretendedGpu) -> None:
    """Fails if cuDNN's fused convolutions do not compute convolution, bias, addition and ReLU in one launch."""
    x, z = torch.randn(2, 3, 6, 6, device=DEVICE), torch.randn(2, 4, 6, 6, device=DEVICE)
    conv = nn.Conv2d(3, 4, 3, padding=1).to(DEVICE).requires_grad_(False)
    weights: tuple[Any, ...] = (conv.weight, conv.bias)
    geometry: tuple[Any, ...] = ((1, 1), (1, 1), (1, 1), 1)
    torch.backends.cudnn.allow_tf32 = True
    without, total = conv(x).relu(), (conv(x) + 2 * z).relu()
    pretended.clear()
    torch.testing.assert_close(torch.cudnn_convolution_relu(x, *weights, *geometry), without)
    torch.testing.assert_close(torch.cudnn_convolution_add_relu(x, weights[0], z, 2, weights[1], *geometry), total)
    plain, added = [launch for launch in pretended.launches if launch.op.startswith("cudnn")]
    sizes = [4 * tensor.numel() for tensor in (x, *weights, z, z)]
    assert (plain.bytes, added.bytes) == (sum(sizes[:4]), sum(sizes)) and plain.flop == added.flop > 0
    with pytest.raises(RuntimeError, match="expected z of shape"):
        torch.cudnn_convolution_add_relu(x, weights[0], z[:1], 2, weights[1], *geometry)


def test_graphs(pretended: PretendedGpu) -> None:
    """Fails if recording a graph computes, launches or may wait, if a replay is not one launch in the memory of the
    recording, or if graphs of one pool leave the memory of another alone that this needs only while it runs."""
    x, graphs = torch.ones(3, device=DEVICE), [torch.cuda.CUDAGraph() for _ in range(3)]
    pool, stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
    pretended.clear()
    with torch.cuda.graph(graphs[0], pool=pool, stream=stream):
        between = x + 1
        first = between * 2
    assert not pretended.launches and first.isnan().all()
    pretended.clear()
    graphs[0].replay()
    assert [(launch.op, launch.bytes) for launch in pretended.launches] == [("graph", 4 * 12)]
    x.fill_(2)
    graphs[0].replay()
    assert first.tolist() == [6, 6, 6]
    with torch.cuda.graph(graphs[1], pool=pool, stream=stream):
        second = x * 5
    graphs[1].replay()
    assert (between.tolist(), first.tolist(), second.tolist()) == ([3] * 3, [6] * 3, [10] * 3)
    graphs[0].replay()
    assert second.isnan().all()
    with pytest.raises(RuntimeError, match="not permitted"), torch.cuda.graph(graphs[2], pool=pool, stream=stream):
        float(x.sum())
    assert float(x.sum()) == 6 and len(pretended.waits) > 3
