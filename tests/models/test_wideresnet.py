"""WideResNet-28-10 against the common public form, which is written here once more, with and without `sub_block1`."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advmia.checkpoints.reading import StateDict
from advmia.checkpoints.weights import load_initial, load_model, save_weights
from advmia.data.datasets import DATASETS
from advmia.errors import UserError
from advmia.models import MODELS, build_model, identify, with_unused
from advmia.models.wideresnet import WideResNet
from tests.support.networks import pixels

SPEC = DATASETS["melBin"]
with_and_without = pytest.mark.parametrize("sub_block", [False, True], ids=["without", "with sub_block1"])


class PublicBlock(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.equal = before == after
        self.bn1, self.bn2 = nn.BatchNorm2d(before), nn.BatchNorm2d(after)
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, 1, padding=1, bias=False)
        self.convShortcut = None if self.equal else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.bn1(x))
        kept = x if self.equal else activated
        out = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        return torch.add(kept if self.convShortcut is None else self.convShortcut(kept), out)


class PublicStage(nn.Module):
    def __init__(self, count: int, before: int, after: int, stride: int) -> None:
        super().__init__()
        blocks = [PublicBlock(after if index else before, after, 1 if index else stride) for index in range(count)]
        self.layer = nn.Sequential(*blocks)


class Public(nn.Module):
    """The class as TRADES (with `sub_block1`) and RobustBench (without) publish it: for 32 x 32 pixels only."""

    def __init__(self, classes: int, sub_block: bool, depth: int = 28, widen: int = 10) -> None:
        super().__init__()
        count, widths = (depth - 4) // 6, [16, 16 * widen, 32 * widen, 64 * widen]
        self.conv1 = nn.Conv2d(3, 16, 3, 1, padding=1, bias=False)
        self.block1 = PublicStage(count, widths[0], widths[1], 1)
        if sub_block:
            self.sub_block1 = PublicStage(count, widths[0], widths[1], 1)
        self.block2 = PublicStage(count, widths[1], widths[2], 2)
        self.block3 = PublicStage(count, widths[2], widths[3], 2)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.block3.layer(self.block2.layer(self.block1.layer(self.conv1(x))))
        out = F.avg_pool2d(F.relu(self.bn1(out)), 8)
        return self.fc(out.view(-1, self.fc.in_features))


def public(sub_block: bool, classes: int = 2, seed: int = 0) -> Public:
    """Returns a network of the public form, as narrow as `narrow_wrn`, in eval mode, with statistics of some images."""
    torch.manual_seed(seed)
    model = Public(classes, sub_block, depth=16, widen=2)
    model(torch.rand(8, 3, 32, 32))
    return model.eval()


def logits(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval()(x)


@with_and_without
@pytest.mark.parametrize(("classes", "count"), [(2, (36_474_066, 38_114_738)), (4, (36_475_348, 38_116_020))])
def test_names_shapes_and_number_of_parameters(classes: int, count: tuple[int, int], sub_block: bool) -> None:
    """Fails if the full network is not WideResNet-28-10, or `with_unused` gives other entries than the public class."""
    with torch.device("meta"):
        expected, ours = Public(classes, sub_block), build_model("wrn", classes)
    entries = with_unused("wrn", ours.state_dict()) if sub_block else ours.state_dict()
    assert {name: value.shape for name, value in entries.items()} == {
        name: value.shape for name, value in expected.state_dict().items()
    }
    assert sum(parameter.numel() for parameter in expected.parameters()) == count[sub_block]
    assert sum(parameter.numel() for parameter in ours.parameters()) == count[0]
    assert identify(entries) == "wrn"


@with_and_without
def test_public_weights_are_read(
    sub_block: bool, narrow_wrn: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails if public weights do not load, compute something else, or what is left out is not said in one line."""
    theirs, (x, _) = public(sub_block), pixels(2, classes=2, size=32)
    torch.save({"state_dict": {f"module.{name}": value for name, value in theirs.state_dict().items()}}, tmp_path / "w")
    loaded = load_model("wrn", tmp_path / "w", SPEC)
    torch.testing.assert_close(logits(loaded.model, x), logits(theirs, x))
    (line,) = capsys.readouterr().err.splitlines()
    what = "sub_block1.layer.0.bn1.weight, sub_block1.layer.0.bn1.bias"
    assert (what in line and "left out, since the network never uses them" in line) == sub_block
    started = build_model("wrn", 2)
    load_initial("wrn", tmp_path / "w", 2).copy_to(started)
    assert torch.equal(logits(started, x), logits(loaded.model, x))


@with_and_without
def test_our_weights_load_in_the_public_class(sub_block: bool, narrow_wrn: None, tmp_path: Path) -> None:
    """Fails if our weights, with `sub_block1` where the class has it, do not load strictly or compute another thing."""
    torch.manual_seed(1)
    ours, (x, _) = build_model("wrn", 2), pixels(2, classes=2, size=32)
    ours(torch.rand(8, 3, 32, 32))
    weights: StateDict = with_unused("wrn", ours.state_dict()) if sub_block else ours.state_dict()
    save_weights(tmp_path / "w", weights)
    theirs = public(sub_block)
    theirs.load_state_dict(torch.load(tmp_path / "w", weights_only=True), strict=True)
    torch.testing.assert_close(logits(theirs, x), logits(ours, x))
    again = load_model("wrn", tmp_path / "w", SPEC).model
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in again.state_dict().items())


def test_a_part_of_sub_block1(narrow_wrn: None, tmp_path: Path) -> None:
    """Fails if a file of something else passes for a WideResNet because its names begin with `sub_block1`."""
    weights = public(sub_block=True).state_dict()
    del weights["sub_block1.layer.0.conv1.weight"]
    torch.save(weights, tmp_path / "w")
    with pytest.raises(UserError, match="unknown model, not of wrn: they have sub_block1"):
        load_model("wrn", tmp_path / "w", SPEC)
    assert identify(weights) is None


def test_networks_without_unused_entries() -> None:
    """Fails if weights of another network get entries that its class does not have."""
    weights = build_model("mv2", 2).state_dict()
    assert with_unused("mv2", weights) == dict(weights)


def test_size_of_the_image(narrow_wrn: None) -> None:
    """Fails if the classifier sees another map than the mean over all pixels, where the public class does not run."""
    model = build_model("wrn", 2).eval()
    x = torch.rand(1, 3, 33, 50)
    maps: list[Tensor] = []
    model.get_submodule("relu").register_forward_hook(lambda module, inputs, output: maps.append(output))
    expected = model.get_submodule("fc")(logits(model, x).new_tensor(maps[0].mean(dim=(2, 3)).tolist()))
    assert maps[0].shape == (1, 128, 9, 13)
    torch.testing.assert_close(logits(model, x), expected.detach())


def test_initial_weights() -> None:
    """Fails if a convolution does not start with He's normal distribution by fan-out, a batch norm as the identity."""
    torch.manual_seed(0)
    model = WideResNet(2, nn.Identity(), depth=16, widen_factor=4)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            deviation = math.sqrt(2 / (module.kernel_size[0] ** 2 * module.out_channels))
            tolerance = 5 / math.sqrt(2 * module.weight.numel())  # five standard errors of a standard deviation
            assert module.weight.std().item() == pytest.approx(deviation, rel=tolerance), name
            assert module.bias is None
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()
    assert (model.fc.bias == 0).all() and model.fc.weight.std() > 0


def test_depth() -> None:
    """Fails if a depth that WideResNets do not have is accepted, or 28 and 10 are no longer the default."""
    assert MODELS["wrn"].build is WideResNet
    for depth in (4, 27):
        with pytest.raises(ValueError, match=f"a depth of 10, 16, 22, 28 or the like, got {depth}"):
            WideResNet(2, nn.Identity(), depth=depth)
