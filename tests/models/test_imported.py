"""A user's network: how it is imported, built and checked, and that every command and attack takes it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from advmia import models
from advmia.attacks import ATTACKS
from advmia.attacks.inference import inference_copy
from advmia.budgets import Budget
from advmia.data.phantoms import make_phantoms
from advmia.data.specs import parse_normalization
from advmia.errors import UserError
from advmia.gradcam.maps import find_layer, grad_cam
from advmia.models import MODELS, build_model, classes_of_weights, declare_imported, head_of, state_dict_names
from advmia.models.imported import check_network
from advmia.runtime.rng import SampleRng
from advmia.tasks import SINGLE_LABEL
from tests.support.networks import pixels
from tests.support.running import check_one_line, run_main

NETWORKS = """
import torch
from torch import nn


class LeNet(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(4))
        self.head = nn.Linear(96, classes)

    def forward(self, x):
        x = self.features(x)
        return self.head(x.view(len(x), -1))  # fails in channels-last layout


class Dictionary(LeNet):
    def forward(self, x):
        return {"logits": super().forward(x), "features": x}


class Pair(LeNet):
    def forward(self, x):
        return super().forward(x), x


class Softmax(LeNet):
    def forward(self, x):
        return super().forward(x).softmax(1)


class Sigmoid(LeNet):
    def forward(self, x):
        return super().forward(x).sigmoid()


class Random(LeNet):
    def forward(self, x):
        return super().forward(nn.functional.dropout(x, 0.5, training=True))


class Tokens(LeNet):
    def forward(self, x):
        return super().forward(x)[:, None].expand(-1, 3, -1)


class Rounded(LeNet):
    def forward(self, x):
        return super().forward((x * 255).round() / 255)


class Infinite(LeNet):
    def forward(self, x):
        return super().forward(x) / 0


class Reader(LeNet):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.scale = 1 / self.head.weight.abs().max().item()  # reads a value: it cannot be built without memory


class Tiny(LeNet):
    def forward(self, x):
        return super().forward(x[..., :8, :8].unfold(2, 64, 1))


def vit_b_16(classes):  # of images so small that a test can attack it by everything
    from torchvision.models import vit_b_16

    return vit_b_16(image_size=32, num_classes=classes)


def broken(classes):
    raise RuntimeError("no such weights\\nat all")


def number(classes):
    return classes


def same(classes):
    return LeNet(2)


def masks(n_classes):
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, n_classes, 1))


constant = 3
"""
TORCHVISION = ("resnet50", "mobilenet_v3_small", "convnext_tiny", "vit_b_16")


@pytest.fixture(autouse=True)
def declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Writes the module `nets.py` into the working folder, and forgets what a test declares."""
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETWORKS)
    before = dict(MODELS)
    yield
    MODELS.clear()
    MODELS.update(before)
    models.state_dict_names.cache_clear()


FAULTS = {
    "nets.py:Softmax": "the network returns probabilities: expected logits",
    "nets.py:Sigmoid": "ends with a sigmoid",
    "nets.py:Random": "must not draw random numbers",
    "nets.py:Tokens": r"returns a tensor of shape \(2, 3, 3\) for two images: expected \(2, 3\)",
    "nets.py:Rounded": "has no gradient by its input",
    "nets.py:Infinite": "numbers that are not finite",
    "nets.py:Tiny": "fails on images of 16 x 16 pixels",
    "nets.py:broken": "does not build a network for 3 classes .*no such weights",
    "nets.py:number": "returns int: expected a torch.nn.Module",
    "nets.py:same": r"shape \(2, 2\) for two images: expected \(2, 3\)",
    "nets.py:missing": "'missing' does not exist in nets.py, which has Dictionary",
    "nets.py:constant": "'constant' is no callable",
    "gone.py:LeNet": "there is no file gone.py",
    "no.such.module:LeNet": "no.such.module cannot be imported .*ModuleNotFoundError",
    ":LeNet": "nothing cannot be imported",
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults(name: str) -> None:
    """Fails if a network that no attack could judge is accepted, or the reason is not told in one line."""
    with pytest.raises(UserError, match=FAULTS[name]) as caught:
        declare_imported(name, "classification")
        check_network(MODELS[name], build_model(name, 3), 3, 16)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("network", ["LeNet", "Dictionary", "Pair", "Reader"])
def test_networks_of_a_file(network: str) -> None:
    """Fails if outputs, names of parameters or the number of classes are not those of the user's network."""
    name = declare_imported(f"nets.py:{network}", "classification")
    torch.manual_seed(0)
    model = build_model(name, 3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)).eval()
    check_network(MODELS[name], model, 3, 16)
    names = [f"{layer}.{kind}" for layer in ("features.0", "head") for kind in ("weight", "bias")]
    assert list(model.state_dict()) == names
    assert state_dict_names(name) == set(model.state_dict()) and head_of(name) == "head.weight"
    assert classes_of_weights(name, model.state_dict()) == 3
    assert MODELS[name].class_name == network
    x, _ = pixels(5, classes=3)
    normalized = (x - torch.tensor((0.4, 0.5, 0.6))[:, None, None]) / torch.tensor((0.2, 0.3, 0.4))[:, None, None]
    features = F.adaptive_avg_pool2d(F.relu(model.get_submodule("features.0")(normalized)), 4).flatten(1)
    assert torch.allclose(model(x), model.get_submodule("head")(features), atol=1e-6)
    assert torch.allclose(inference_copy(model, x)(x), model(x), atol=1e-6)
    training = model.train()(x)
    assert training.shape == (5, 3)


def test_the_random_state_stays() -> None:
    """Fails if looking at a network's names changes the random numbers that come after it."""
    name = declare_imported("nets.py:Reader", "classification")
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    state_dict_names(name)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("text", ["imagenet", "none", "0.5/0.25", "0.1,0.2,0.3/0.4"])
def test_normalization(text: str) -> None:
    """Fails if a channel gets another mean or standard deviation."""
    expected = {
        "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "none": (None, None),
        "0.5/0.25": ((0.5,) * 3, (0.25,) * 3),
        "0.1,0.2,0.3/0.4": ((0.1, 0.2, 0.3), (0.4,) * 3),
    }
    assert parse_normalization(text) == expected[text]
    for wrong in ("0.5", "0.5/0", "a/b", "1,2/3", "0.5/nan", "nan/1", "1/2/3"):
        with pytest.raises(ValueError, match=""):
            parse_normalization(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("network", TORCHVISION)
def test_torchvision_networks(network: str, few_steps: None) -> None:
    """Fails if a network of torchvision cannot be trained or attacked, or outcomes depend on the batch size."""
    module, size = "nets.py" if "vit" in network else "torchvision.models", 32
    name = declare_imported(f"{module}:{network}", "classification")
    torch.manual_seed(0)
    model = build_model(name, 2)
    check_network(MODELS[name], model, 2, size)
    assert classes_of_weights(name, model.state_dict()) == 2
    x, y = torch.rand(7, 3, size, size), torch.arange(7) % 2
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=1e-3).step()
    model.eval()
    layer = find_layer(model, None)
    maps, _ = grad_cam(model, layer, x[:2], y[:2])
    assert maps.shape == (2, size, size)
    # The larger networks get two of the single images, and the largest the attacks that differ most.
    singles = range(0, 7, 1 if "mobilenet" in network else 6)
    names = ["fgsm", "cw", "apgd-t", "square"] if "vit" in network else list(SINGLE_LABEL.attacks)
    for name in names:
        attack = ATTACKS[name].build(Budget.grey(8, 2, 2), SINGLE_LABEL.attacks[name])
        together = attack(model, x, y, rng=SampleRng.of(0, samples=range(7), device=x.device))
        alone = [attack(model, x[[n]], y[[n]], rng=SampleRng.of(0, samples=[n], device=x.device)) for n in singles]
        with torch.no_grad():
            outcomes = model(together).argmax(1)[list(singles)]
            assert torch.equal(outcomes, torch.cat([model(its).argmax(1) for its in alone])), name
        if ATTACKS[name].bounded:
            assert (together - x).abs().max() <= 8 / 255 + 1e-6


def test_the_layer_of_grad_cam() -> None:
    """Fails if tokens are laid out in another order, or a wrong name is not answered by similar ones."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 8, 4, stride=4)
            self.norm = nn.LayerNorm(8)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = self.norm(self.patches(x).flatten(2).transpose(1, 2))
            return self.head((tokens + self.attention(tokens, tokens, tokens)[0]).mean(1))

    torch.manual_seed(0)
    model, x = Attention().eval(), torch.rand(1, 3, 16, 16)
    assert find_layer(model, None) == "norm"
    x[..., 12:, :4] = 3  # the patch at the bottom left
    with torch.no_grad():
        model.attention.out_proj.weight.zero_()
        tokens = model.norm(model.patches(x).flatten(2).transpose(1, 2))
        model.head.weight[1] = tokens[0, 12]  # the token of this patch
    maps, _ = grad_cam(model, "norm", x, torch.tensor([1]))
    assert int(maps.flatten().argmax()) // 16 >= 12 and int(maps.flatten().argmax()) % 16 < 4
    with pytest.raises(UserError, match="no module of this name; similar are norm"):
        find_layer(model, "nrm")
    with pytest.raises(UserError, match="name a layer for Grad-CAM"):
        find_layer(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), None)


@pytest.mark.slow
def test_every_command_takes_a_network(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails if a command cannot use a user's network, or its files and tables do not bear the network's name."""
    make_phantoms(Path("data"), ["mel2017"], count=24, size=32)
    common = ["--dataset", "melBin", "--imgSize", 16, "--gpu", "cpu", "--normalize", "imagenet"]
    network = ["--model", "nets.py:LeNet"]
    how = ["--epoch", 1, "--bs", 8, "--eps", 8]
    for method in ("nat", "pgdat"):
        assert run_main(monkeypatch, ["trainCls.py", *common, *network, *how, "--method", method]) == 0
    capsys.readouterr()
    paths = sorted(path for path in Path("clsCkpt").iterdir() if not path.suffix.endswith(("json", "png")))
    assert [path.name.split("_")[0] for path in paths] == ["LeNet", "LeNet"]
    record = json.loads(Path(f"{paths[0]}.json").read_text())
    assert record["settings"]["model"] == "nets.py:LeNet" and record["settings"]["normalize"] == "imagenet"
    target = ["testCls.py", "--targetModel", "nets.py:LeNet", "--targetWeight", paths[0]]
    assert run_main(monkeypatch, [*target, *common, "--attacks", "pgd", "--epsilons", 8]) == 0
    assert run_main(monkeypatch, ["advmia", "tables", "results", "--out", "tables"]) == 0
    assert "LeNet" in Path("tables/tables.md").read_text()
    draw = ["gradVisual.py", *common, *network, "--weight", paths[0], "--epsilons", 8, "--limit", 2]
    draw += ["--saveDir", "maps"]
    assert run_main(monkeypatch, draw) == 0
    assert np.asarray(Image.open("maps/gradVisual.png")).std() > 0
    capsys.readouterr()
    assert run_main(monkeypatch, [*target, *common[:-2]]) == 2
    check_one_line(capsys.readouterr().err, "was trained with --normalize imagenet: test it so too")
    assert run_main(monkeypatch, ["trainCls.py", *common, "--model", "nets.py:Softmax", *how, "--method", "nat"]) == 2
    check_one_line(capsys.readouterr().err, "returns probabilities")


@pytest.mark.slow
def test_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a user's network cannot be trained and tested on masks."""
    make_phantoms(Path("data"), ["mel2017"], count=24, size=32)
    common = ["--dataset", "mel", "--imgSize", 32, "--gpu", "cpu"]
    how = ["--method", "pgdat", "--epoch", 1, "--bs", 8, "--limit", 8]
    assert run_main(monkeypatch, ["trainSeg.py", *common, "--model", "nets.py:masks", *how]) == 0
    (weights,) = (path for path in Path("segckpt").iterdir() if not path.suffix)
    assert weights.name.startswith("masks_mel_PGDAT")
    test = ["testSeg.py", *common, "--targetModel", "nets.py:masks", "--targetWeight", weights, "--epsilons", 8]
    assert run_main(monkeypatch, test) == 0
