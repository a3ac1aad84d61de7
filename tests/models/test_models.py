"""Tests of the networks: the published names and numbers, shapes, gradients, initial weights, recognition."""

from __future__ import annotations

import copy
import json
import math
import pickle
import urllib.request
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advmia.errors import UserError
from advmia.models import MODELS, Normalize, build_model, classes_of_weights, find_model, head_of, identify

PUBLISHED = {  # the networks of the published code, with the class names that its checkpoint files begin with
    "res18": "ResNet",
    "mv2": "MobileNetV2",
    "chexnet": "DenseNet121",
    "unet": "UNet",
    "segnet": "SegNet",
}
CLASSIFIERS = [name for name, spec in MODELS.items() if spec.kind == "classification"]
SEGMENTERS = [name for name, spec in MODELS.items() if spec.kind == "segmentation"]
WEIGHTS_FILE = "densenet121-a639ec97.pth"
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
SIDES = {name: 16 if name == "wrn" else 32 for name in MODELS}  # of images in pixels; wrn is far the slowest


@pytest.fixture(scope="module")
def reference_shapes(reference_fixtures: Path) -> dict[str, dict[str, list[int]]]:
    return json.loads((reference_fixtures / "reference_state_dicts.json").read_text())


@pytest.fixture(scope="module")
def reference_logits(reference_fixtures: Path) -> dict[str, dict]:
    records = json.loads((reference_fixtures / "reference_logits.json").read_text())
    return {record["model"]: record for record in records}


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Returns torch's download cache, which is empty; downloads fail as without an internet connection."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    return cache


@cache
def meta_model(name: str, classes: int) -> nn.Module:
    """Returns the network without memory for its weights, for tests of names and shapes."""
    with torch.device("meta"):
        return build_model(name, classes)


@cache
def shared_network(name: str) -> nn.Module:
    """Returns the normalising network with random weights, in eval mode; a test must leave it in that mode."""
    torch.manual_seed(0)
    return build_model(name, 2, mean=MEAN, std=STD).eval()


@pytest.fixture(autouse=True, scope="module")
def forget_networks() -> Iterator[None]:
    """Frees the shared networks (0.4 GB) after this file's tests."""
    yield
    shared_network.cache_clear()


def deterministic_weights(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """Returns the weights that tests/fixtures/reference/README.md defines."""
    rng = np.random.RandomState(seed)
    weights = {}
    for name, value in sorted(model.state_dict().items()):
        shape = tuple(value.shape)
        if name.endswith("num_batches_tracked"):
            array = np.zeros(shape)
        elif name.endswith("running_var"):
            array = rng.uniform(0.5, 1.5, shape)
        elif len(shape) > 1:
            array = rng.standard_normal(shape) * math.sqrt(2 / math.prod(shape[1:]))
        elif name.endswith("weight"):
            array = 1 + 0.1 * rng.standard_normal(shape)
        else:
            array = 0.1 * rng.standard_normal(shape)
        weights[name] = torch.from_numpy(np.asarray(array)).to(value.dtype)
    return weights


# --- the published code ----------------------------------------------------------------------------------------------


def test_state_dict_names_and_shapes(reference_shapes: dict[str, dict[str, list[int]]]) -> None:
    """Fails if the survey's checkpoints no longer load here, or ours there."""
    for name, expected in reference_shapes.items():
        classes = expected[head_of(name)][0]
        shapes = {entry: list(value.shape) for entry, value in meta_model(name, classes).state_dict().items()}
        assert shapes == expected, name
    assert list(reference_shapes) == list(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_logits(name: str, reference_logits: dict[str, dict]) -> None:
    """Fails if a network computes other logits than the published network with the same weights."""
    record = reference_logits[name]
    model = build_model(name, record["classes"]).eval()
    model.load_state_dict(deterministic_weights(model, record["seed"]), strict=True)
    size = record["size"]
    x = np.random.RandomState(record["seed"] + 1).uniform(0, 1, (2, 3, size, size)).astype(np.float32)
    with torch.no_grad():
        logits = model(torch.from_numpy(x)).double()
    assert list(logits.shape) == record["shape"]
    scale = record["absmean"]
    np.testing.assert_allclose(logits.flatten()[:64], record["logits"], rtol=1e-4, atol=1e-4 * scale)
    assert logits.abs().mean().item() == pytest.approx(scale, rel=1e-4)
    assert logits.sum().item() == pytest.approx(record["sum"], rel=1e-4, abs=1e-4 * scale)


def test_class_names_of_checkpoint_files() -> None:
    """Fails if checkpoint file names change, or a spec is registered under another name than its own."""
    names = PUBLISHED | {"wrn": "WideResNet"}  # a class of the published code that none of its scripts uses
    assert names.items() <= {name: spec.class_name for name, spec in MODELS.items()}.items()
    assert all(name == spec.name for name, spec in MODELS.items())


# --- normalisation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_networks_normalise_their_input(name: str) -> None:
    """Fails if a network ignores `mean` and `std`, or saves them with its weights."""
    model = shared_network(name)
    assert list(model.state_dict()) == list(meta_model(name, 2).state_dict())
    x = torch.rand(1, 3, SIDES[name], SIDES[name])
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    normalize = model.get_submodule("normalize")
    with torch.no_grad():
        logits = model(x)
        model.set_submodule("normalize", nn.Identity())
        expected, bare = model((x - mean) / std), model(x)
    model.set_submodule("normalize", normalize)
    torch.testing.assert_close(logits, expected)
    assert not torch.allclose(logits, bare)


def test_normalize_keeps_dtype_and_input() -> None:
    """Fails if normalisation converts to float32, mixes channels or works in place."""
    x = torch.full((2, 3, 2, 2), 0.5, dtype=torch.float64)
    out = Normalize((0.5, 0.25, 0.0), (0.5, 0.5, 0.25)).double()(x)
    assert out.dtype == torch.float64
    assert out[1, :, 0, 0].tolist() == [0.0, 0.5, 2.0]
    assert (x == 0.5).all()


def test_mean_without_std() -> None:
    """Fails if a mean without a standard deviation is accepted."""
    with pytest.raises(ValueError, match="both mean and std"):
        build_model("res18", 2, mean=(0.5, 0.5, 0.5))


# --- shapes ----------------------------------------------------------------------------------------------------------


def test_output_shape() -> None:
    """Fails if a network gives another shape of logits than its kind, for images that are not square."""
    for name in MODELS:
        for classes in (2, 7):
            logits = meta_model(name, classes)(torch.empty(2, 3, 64, 48, device="meta"))
            assert logits.shape == ((2, classes) if name in CLASSIFIERS else (2, classes, 64, 48)), name


@pytest.mark.parametrize("name", MODELS)
def test_smallest_input(name: str) -> None:
    """Fails if `min_size` refuses a size that works, or admits one that does not."""
    model, size = shared_network(name), MODELS[name].min_size
    with torch.no_grad():
        assert model(torch.rand(1, 3, size, size)).isfinite().all()
        with pytest.raises(RuntimeError):
            model(torch.rand(1, 3, size - 1, size - 1))


@pytest.mark.parametrize("name", SEGMENTERS)
def test_segmentation_keeps_odd_sizes(name: str) -> None:
    """Fails if logits lose the pixels that poolings round off."""
    model = shared_network(name)
    for size in ((33, 47), (50, 35), (63, 61)):
        with torch.no_grad():
            logits = model(torch.rand(1, 3, *size))
        assert logits.shape == (1, 2, *size)
        assert logits.isfinite().all()


# --- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_input_gradient_of_a_frozen_network_used_twice(name: str) -> None:
    """Fails if a layer overwrites what a gradient needs, so that an attack could not go through a network twice."""
    model = shared_network(name).requires_grad_(False)
    x = torch.rand(2, 3, SIDES[name], SIDES[name], requires_grad=True)
    before = x.detach().clone()
    (model(x)[:, 0].sum() + model(1 - x)[:, 1].pow(2).sum()).backward()
    assert x.grad is not None and x.grad.isfinite().all()
    assert all(gradient.abs().max() > 0 for gradient in x.grad)
    assert torch.equal(x.detach(), before)
    assert all(parameter.grad is None for parameter in model.parameters())
    model.requires_grad_(True)


@pytest.mark.parametrize("name", MODELS)
def test_training_reaches_every_parameter(name: str) -> None:
    """Fails if a layer takes no part in the logits."""
    model = shared_network(name).train()
    target = torch.zeros(2, dtype=torch.long) if name in CLASSIFIERS else torch.zeros(2, 32, 32, dtype=torch.long)
    nn.functional.cross_entropy(model(torch.rand(2, 3, SIDES[name], SIDES[name])), target).backward()
    missing = [entry for entry, parameter in model.named_parameters() if parameter.grad is None]
    assert missing == []
    model.eval().zero_grad(set_to_none=True)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_cam_layer_is_the_map_that_the_classifier_averages(name: str) -> None:
    """Fails if Grad-CAM reads another map than the one that is averaged into the classifier's input.

    For that map, d logit_c / d map is the classifier's weight for class c divided by the map's area, and no value is
    negative.
    """
    model, spec = shared_network(name), MODELS[name]
    assert spec.cam_layer is not None
    maps: list[Tensor] = []
    layer = model.get_submodule(spec.cam_layer)
    handle = layer.register_forward_hook(lambda module, inputs, output: maps.append(output))
    logits = model(torch.rand(1, 3, 2 * SIDES[name], 2 * SIDES[name]))
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[0, 1], maps[0])
    area = maps[0].shape[2] * maps[0].shape[3]
    weight = model.get_parameter(head_of(name))[1]
    assert area == {"res18": 64, "mv2": 64, "chexnet": 4, "wrn": 64}[name]
    assert maps[0].min() >= 0
    torch.testing.assert_close(gradient, (weight / area).view(1, -1, 1, 1).expand_as(gradient))


def test_segmentation_networks_have_no_cam_layer() -> None:
    """Fails if Grad-CAM is offered for a network that does not predict one class for each image."""
    assert all(MODELS[name].cam_layer is None for name in SEGMENTERS)


# --- initial weights -------------------------------------------------------------------------------------------------


def test_random_weights_are_not_downloaded(no_network: Path) -> None:
    """Fails if building a network tries to download anything: downloads fail here."""
    with torch.device("meta"):
        for name in MODELS:
            build_model(name, 2)
    assert list(no_network.iterdir()) == []


def test_imagenet_weights_from_the_cache(no_network: Path) -> None:
    """Fails if torchvision's published file does not load.

    It is in torch's old format, names layers `norm.1`, and has no `num_batches_tracked`.
    """
    torch.manual_seed(0)
    other = build_model("chexnet", 2).get_submodule("densenet121.features").state_dict()
    published = {"classifier.weight": torch.zeros(1000, 1024), "classifier.bias": torch.zeros(1000)}
    for name, value in other.items():
        if not name.endswith("num_batches_tracked"):
            for part in ("norm1", "conv1", "norm2", "conv2"):
                name = name.replace(f".{part}.", f".{part[:-1]}.{part[-1]}.")
            published[f"features.{name}"] = value
    assert "features.denseblock1.denselayer1.norm.1.weight" in published
    torch.save(published, no_network / WEIGHTS_FILE, _use_new_zipfile_serialization=False)

    model = build_model("chexnet", 2, init="imagenet")
    loaded = model.get_submodule("densenet121.features").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in other.items())
    assert model.get_parameter("densenet121.classifier.0.weight").abs().max() > 0


def test_dense_blocks_are_torchvisions() -> None:
    """Fails if outputs, gradients or running statistics of a dense block differ from torchvision's in any bit."""
    from torchvision.models.densenet import _DenseBlock

    published = _DenseBlock(3, 8, 2, 4, 0.0)
    for module in published.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.3)
    ours = type(meta_model("chexnet", 2).get_submodule("densenet121.features.denseblock1"))(copy.deepcopy(published))
    x, found = torch.rand(4, 8, 6, 6, generator=torch.Generator().manual_seed(0)), []
    for block in (published, ours):
        pixels = x.clone().requires_grad_(True)
        out = block(pixels)
        (out**3).sum().backward()
        gradients = {f"gradient of {name}": value.grad for name, value in block.named_parameters()}
        found.append({"out": out, "pixels": pixels.grad} | gradients | block.state_dict())
    assert found[0].keys() == found[1].keys() and len(found[0]) == 2 + 18 + 36
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name


def check_message(error: UserError, cache: Path) -> None:
    """Checks that an error is one line that says where to put the file, and how to do without it."""
    message = str(error)
    assert "--init random" in message
    assert str(cache / WEIGHTS_FILE) in message
    assert "\n" not in message


def test_imagenet_weights_without_internet(no_network: Path) -> None:
    """Fails if a failed download ends in a traceback."""
    with pytest.raises(UserError, match="no network") as caught:
        build_model("chexnet", 2, init="imagenet")
    check_message(caught.value, no_network)


@pytest.mark.parametrize(
    "failure", [OSError("disk\nfull"), RuntimeError("invalid hash value"), TimeoutError("timed out")]
)
def test_imagenet_download_fails(failure: Exception, no_network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a full disk, a wrong hash or a timeout ends in a traceback, or in several lines."""

    def fail(*args: object, **kwargs: object) -> None:
        raise failure

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(UserError, match=type(failure).__name__) as caught:
        build_model("chexnet", 2, init="imagenet")
    check_message(caught.value, no_network)


class Harmful:
    """An object that, once pickled, would run code when it is loaded."""

    def __reduce__(self) -> tuple:
        return print, ("executed",)


@pytest.mark.parametrize(
    "content", [b"", b"not weights", pickle.dumps(Harmful(), protocol=2)], ids=["empty", "text", "code"]
)
def test_imagenet_file_in_the_cache_is_broken(
    content: bytes, no_network: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails if a broken file ends in a traceback, or if code in it is run."""
    (no_network / WEIGHTS_FILE).write_bytes(content)
    with pytest.raises(UserError) as caught:
        build_model("chexnet", 2, init="imagenet")
    check_message(caught.value, no_network)
    assert "executed" not in capsys.readouterr().out


def test_imagenet_file_in_the_cache_is_of_another_network(no_network: Path) -> None:
    """Fails if only some of the weights are loaded."""
    torch.save({"features.conv0.weight": torch.zeros(1)}, no_network / WEIGHTS_FILE)
    with pytest.raises(UserError, match="Missing key") as caught:
        build_model("chexnet", 2, init="imagenet")
    check_message(caught.value, no_network)


def test_only_chexnet_has_imagenet_weights() -> None:
    """Fails if a network without ImageNet weights silently starts from random weights."""
    for name in MODELS:
        if name != "chexnet":
            with pytest.raises(UserError, match=f"{name}.*chexnet.*--init random"):
                build_model(name, 2, init="imagenet")


# --- recognition -----------------------------------------------------------------------------------------------------


def test_names_in_any_letter_case() -> None:
    """Fails if the published spelling of a network's name is refused."""
    assert find_model("chexNet") is MODELS["chexnet"]
    assert find_model("segNet") is MODELS["segnet"]


def test_unknown_model_lists_the_known_ones() -> None:
    """Fails if the error does not say which names exist."""
    with pytest.raises(UserError, match=r"'resnet50'.*res18, mv2, chexnet, wrn, unet, segnet"):
        build_model("resnet50", 2)


def test_classes_and_network_of_weights() -> None:
    """Fails if weights are taken for those of another network, or of another number of classes."""
    for name in MODELS:
        state_dict = meta_model(name, 7).state_dict()
        assert classes_of_weights(name, state_dict) == 7
        assert identify(state_dict) == name


def test_classes_of_another_networks_weights() -> None:
    """Fails if the error does not say which network's weights were expected and which were passed."""
    with pytest.raises(UserError, match=r"unet.*outc\.conv\.weight.*segnet"):
        classes_of_weights("unet", meta_model("segnet", 2).state_dict())
    with pytest.raises(UserError, match="no known model"):
        classes_of_weights("unet", {"weight": torch.zeros(2)})


def test_identify_unknown_weights() -> None:
    """Fails if weights are recognised by some of their entries."""
    assert identify({}) is None
    assert identify({"linear.weight": torch.zeros(2, 512)}) is None
