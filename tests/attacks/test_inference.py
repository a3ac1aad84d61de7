"""The copy that attacks run on: it computes the network's function, follows its weights and does not change it."""

from __future__ import annotations

import gc
import weakref
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from advmia.attacks import ATTACKS
from advmia.attacks.common import forward, frozen_eval, input_gradient
from advmia.attacks.inference import Compiled, compile_copies, fitting_batch, inference_copy, without_graphs
from advmia.attacks.inference.guard import results_of
from advmia.budgets import pgd_budget, training_budget
from advmia.data.loading import EvaluationLoader
from advmia.data.specs import IMAGENET_MEAN, IMAGENET_STD
from advmia.data.transforms import to_pixels
from advmia.evaluation.loop import evaluate
from advmia.losses import cross_entropy, kl_divergence
from advmia.models import MODELS, build_model
from advmia.tasks import SINGLE_LABEL
from advmia.training import methods
from tests.support.networks import Snapshot, image_data, network, record_calls, streams, unsettle
from tests.support.pretended_gpu import PretendedGpu


def batch(count: int = 2, size: int = 32) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def logits_of(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad(), frozen_eval(model):
        return model(x)


def settled(name: str, *, normalized: bool = False) -> nn.Module:
    """Returns a network whose batch norms are far from the identity."""
    torch.manual_seed(0)
    statistics = (IMAGENET_MEAN, IMAGENET_STD) if normalized else (None, None)
    model = build_model(name, 3, mean=statistics[0], std=statistics[1])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias, 0, 0.3)
    return model


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.usefixtures("narrow_wrn")
def test_same_function(name: str, normalized: bool) -> None:
    """Fails if a batch norm is folded wrongly, into the wrong convolution, or twice."""
    model = settled(name, normalized=normalized)
    expected, actual = logits_of(model, batch()), inference_copy(model, batch())(batch())
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize(
    ("name", "left"), [("res18", 0), ("mv2", 0), ("wrn", 13), ("unet", 0), ("segnet", 0), ("chexnet", 62)]
)
def test_batch_norms_are_gone(name: str, left: int) -> None:
    """Fails if a batch norm is not folded. Most of chexnet's come before a convolution, so that 62 remain; of wrn's 25,
    the second of each block is folded."""
    copy = inference_copy(settled(name), batch())
    assert sum(isinstance(module, nn.BatchNorm2d) for module in copy.modules()) == left


@pytest.mark.parametrize("name", ["res18", "mv2", "wrn"])
@pytest.mark.usefixtures("narrow_wrn")
def test_same_gradient(name: str) -> None:
    """Fails if the input gradient differs by more than rounding, of which attacks use the sign."""
    model, x, y = settled(name).eval(), batch(4), torch.tensor([0, 1, 2, 0])
    expected = input_gradient(model, x, y, cross_entropy)
    actual = input_gradient(inference_copy(model, x), x, y, cross_entropy)
    assert (actual - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_frozen_and_apart() -> None:
    """Fails if the copy requires a gradient, making it changes the network, what is folded shares a tensor with the
    network, or what is not folded is copied."""
    model = unsettle(network("small"))
    before = Snapshot.of(model)
    copy = inference_copy(model, batch())
    before.assert_same(model)
    assert not any(module.training for module in copy.modules())
    assert not any(parameter.requires_grad for parameter in copy.parameters())
    shared = {tensor.data_ptr() for tensor in model.state_dict().values()}
    apart = {name for name, tensor in copy.network.state_dict().items() if tensor.data_ptr() not in shared}
    assert apart == {f"conv{number}.{kind}" for number in (1, 2) for kind in ("weight", "bias")}
    assert not any(parameter is other for parameter in copy.parameters() for other in model.parameters())


@pytest.mark.gpu
@pytest.mark.parametrize("most_together", [0, 50, 2**18])
def test_folded_weights(gpu: torch.device, most_together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if folded weights are not the formula's, computed in float64 and rounded once, on a GPU or a CPU."""
    monkeypatch.setattr("advmia.attacks.inference.folding._FEWEST_ALONE", most_together)
    convs = [nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 1, bias=False), nn.Conv2d(6, 6, 3, groups=6)]
    norms = [nn.BatchNorm2d(4), nn.BatchNorm2d(6, eps=1e-3), nn.BatchNorm2d(6, affine=False)]
    model = unsettle(nn.Sequential(*(part for pair in zip(convs, norms, strict=True) for part in pair)))
    for device in (torch.device("cpu"), gpu):
        copy = without_graphs(inference_copy(model.to(device), batch(size=8).to(device))).network.cpu().state_dict()
        for index, (conv, norm) in enumerate(zip(convs, norms, strict=True)):
            scale = 1 / (norm.running_var.cpu().double() + norm.eps).sqrt()
            scale = scale * norm.weight.detach().cpu().double() if norm.affine else scale
            shift = (0 if conv.bias is None else conv.bias.detach().cpu().double()) - norm.running_mean.cpu().double()
            bias = shift * scale + (norm.bias.detach().cpu().double() if norm.affine else 0)
            weight = conv.weight.detach().cpu().double() * scale[:, None, None, None]
            assert torch.equal(copy[f"{2 * index}.weight"], weight.float())
            assert torch.equal(copy[f"{2 * index}.bias"], bias.float())


@pytest.mark.parametrize("change", ["step", "statistics", "load", "assign", "move"])
def test_follows_the_weights(change: str) -> None:
    """Fails if the copy still has the weights or statistics from before they changed, or tensors that were replaced."""
    model = settled("mv2")
    inference_copy(model, batch())
    if change == "step":
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        cross_entropy(model.eval()(batch()), torch.tensor([0, 1])).sum().backward()
        optimizer.step()
    elif change == "statistics":
        with torch.no_grad():
            model.train()(batch())
    elif change == "move":  # which gives every parameter another memory
        with torch.no_grad():
            model.double().float().get_parameter("linear.weight").mul_(2)
    else:
        torch.manual_seed(1)
        model.load_state_dict(build_model("mv2", 3).state_dict(), assign=change == "assign")
    expected, actual = logits_of(model, batch()), inference_copy(model, batch())(batch())
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_one_copy() -> None:
    """Fails if every call makes a new copy."""
    model = settled("mv2")
    assert inference_copy(model, batch()) is inference_copy(model, batch())


def test_released_with_the_network() -> None:
    """Fails if a copy stays in memory after its network."""
    model = settled("mv2")
    copy = weakref.ref(inference_copy(model, batch()))
    del model
    gc.collect()
    assert copy() is None


class Misleading(nn.Module):
    """A network whose batch norm is registered after a convolution but runs before it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.norm.running_mean.fill_(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.relu(self.norm(x))).mean(dim=(2, 3))


class Rectified(nn.Module):
    """A network with a ReLU between convolution and batch norm, which does nothing yet, as in any new network."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(torch.relu(self.conv(x))).mean(dim=(2, 3))


@pytest.mark.parametrize("kind", [Misleading, Rectified])
def test_a_network_that_cannot_be_folded(kind: type[nn.Module]) -> None:
    """Fails if a batch norm is folded that does not follow the convolution; a new network's outputs do not show it."""
    model = kind()
    inference_copy(model, batch())
    model.train()(batch())
    actual = inference_copy(model, batch())(batch())
    torch.testing.assert_close(actual, logits_of(model, batch()), rtol=0, atol=0)


def test_computed_weights() -> None:
    """Fails if a convolution whose weights are computed from others is folded, or the others of the network are not."""
    model = unsettle(network("small"))
    nn.utils.parametrizations.weight_norm(model.get_submodule("conv1"))
    copy = inference_copy(model, batch())
    assert isinstance(copy.network.bn1, nn.BatchNorm2d) and isinstance(copy.network.bn2, nn.Identity)
    with torch.no_grad():
        model.get_parameter("conv1.parametrizations.weight.original0").mul_(1.5)
    expected, actual = logits_of(model, batch()), inference_copy(model, batch())(batch())
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", ["pgdat", "trades", "mart", "hat", "mpadvt", "maadvt"])
def test_methods_attack_the_copy(name: str) -> None:
    """Fails if a method's attack runs on the network, or its update on the copy."""
    model, x = network("small"), batch(4)
    attack_passes = record_calls(inference_copy(model, x))
    passes = record_calls(model)
    settings = methods.MethodSettings(cross_entropy, kl_divergence, training_budget(8), 6.0, 1.0, 3.5, network("small"))
    methods.METHODS[name](settings)(model, x, torch.tensor([0, 1, 2, 0]), rng=streams(4))
    drawn = {"mpadvt": 4, "maadvt": 10}  # of at most 10 steps, with these streams
    assert len(attack_passes) == ({"pgdat": 10, "trades": 11, "mart": 10, "hat": 11} | drawn)[name]
    assert len(passes) == {"pgdat": 1, "trades": 2, "mart": 2, "hat": 3, "mpadvt": 1, "maadvt": 2}[name]


@pytest.mark.parametrize("transfer", [False, True])
def test_evaluation_attacks_the_copy_and_scores_the_network(transfer: bool) -> None:
    """Fails if the attack runs on the network itself, or the copy is scored."""
    model, source = network("small"), network("small")
    x = image_data(4).images
    attack_passes = record_calls(inference_copy(source if transfer else model, to_pixels(torch.from_numpy(x))))
    passes = record_calls(model)
    attack = SINGLE_LABEL.attacks["pgd"]
    evaluate(
        model,
        EvaluationLoader(image_data(4), 4, torch.device("cpu")),
        SINGLE_LABEL,
        ATTACKS["pgd"].build(pgd_budget(8), attack),
        source=source if transfer else None,
    )
    assert (len(attack_passes), len(passes)) == (20, 1)


# --- bf16 ------------------------------------------------------------------------------------------------------------


class Penalised(nn.Module):
    """A network that also uses its weights outside of the layers that autocast casts them for."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).float().mean(dim=(2, 3)) * self.conv.weight.square().sum()


@pytest.mark.parametrize("name", ["mv2", "wrn", "unet", None])
@pytest.mark.usefixtures("small_networks")
def test_bf16_is_autocast_s(name: str | None) -> None:
    """Fails if weights that are rounded once give other numbers than autocast, or rounded ones are used in float32."""
    model, x = (settled(name) if name else Penalised()).eval(), batch(4)
    copy = inference_copy(model, x)
    plain = copy.get_submodule("network")
    exact = results_of(copy, x, with_gradient=True)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            expected, actual = (results_of(form, x, with_gradient=True) for form in (plain, copy))
        assert all(map(torch.equal, expected, actual)) and not torch.equal(actual[0].float(), exact[0])
        assert bool(copy._rounded) == (name is not None)
        assert all(map(torch.equal, results_of(copy, x, with_gradient=True), exact))
        with torch.no_grad():
            next(model.parameters()).mul_(1.5)
        inference_copy(model, x)
        exact = results_of(plain, x, with_gradient=True)


# --- compiled --------------------------------------------------------------------------------------------------------


def test_every_graph_is_guarded(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """Fails if a run ends because a graph that is compiled later, as here the one without a gradient, cannot be."""

    def compile_some(network: nn.Module, **_: object) -> object:
        def run(x: Tensor) -> Tensor:
            if not x.requires_grad:
                raise RuntimeError("no such graph")
            return network(x)

        return run

    monkeypatch.setattr(torch, "compile", compile_some)
    model, x, y = settled("mv2"), batch(), torch.zeros(len(batch()), dtype=torch.int64)
    compile_copies(model)
    gradient = input_gradient(inference_copy(model, x), x, y, cross_entropy)
    assert not capsys.readouterr().err
    logits = forward(inference_copy(model, x), x)
    assert capsys.readouterr().err.count("torch.compile does not work here (no such graph)") == 1
    compiled = inference_copy(model, x)
    assert isinstance(compiled, Compiled)
    assert torch.equal(gradient, input_gradient(compiled.network, x, y, cross_entropy))
    assert torch.equal(logits, forward(compiled.network, x))


@pytest.mark.slow
def test_compiled_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if function or gradient differ, new weights are not followed, or the wrong batches are compiled.

    Smaller batches than before must not be compiled, larger ones must: a resumed run may begin with a short batch.
    """
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))  # needs no compiler
    model, x, y = settled("mv2").eval(), batch(4), torch.tensor([0, 1, 2, 0])
    compile_copies(model)
    for _ in range(2):
        copy = inference_copy(model, x)
        assert isinstance(copy, Compiled)
        for count in (4, 3):
            expected = input_gradient(copy.network, x[:count], y[:count], cross_entropy)
            actual = input_gradient(copy, x[:count], y[:count], cross_entropy)
            torch.testing.assert_close(actual, expected)
        with torch.no_grad():
            next(model.parameters()).mul_(1.5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2  # with a gradient; without, in the first check
    inference_copy(model, x)(batch(5))
    assert inference_copy(model, x)._shape == batch(5).shape


def test_where_compiling_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """Fails if a run ends because there is no compiler, or there is no warning."""

    def broken(network: nn.Module, **_: object) -> object:
        def fail(x: Tensor) -> Tensor:
            raise RuntimeError("no C++ compiler found\nand more")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    model, x = settled("mv2"), batch()
    compile_copies(model)
    actual = inference_copy(model, x)(x)
    assert (actual - logits_of(model, x)).abs().max() <= 1e-5 * actual.abs().max()
    warning = "--compile: torch.compile does not work here (no C++ compiler found); continuing without it"
    assert capsys.readouterr().err.splitlines() == [warning]


# --- the largest batch -----------------------------------------------------------------------------------------------


def test_a_cpu_keeps_its_batch() -> None:
    """Fails if the batch size changes on a CPU."""
    assert fitting_batch(network("small"), batch(3), 100) == 3


@pytest.mark.gpu
def test_the_batch_that_fits_a_gpu(gpu: torch.device) -> None:
    """Fails if the batch size does not fit the GPU's memory, is smaller than the batch passed, or above the limit."""
    if PretendedGpu.active is not None:
        PretendedGpu.active.memory.total = 160 * 2**20
    model = settled("mv2").to(gpu).eval()
    x = batch(4).to(gpu)
    assert fitting_batch(model, x, 5) == 5
    count = fitting_batch(model, x, 4096)
    assert 4 < count <= 4096
    many, y = x[:1].expand(count, -1, -1, -1), torch.zeros(count, dtype=torch.int64, device=gpu)
    input_gradient(inference_copy(model, x), many, y, cross_entropy)
