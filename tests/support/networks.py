"""Helpers for tests of attacks, methods, training and evaluation: small networks, images in memory, fixed noise."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advmia import models
from advmia.budgets import Budget
from advmia.data.datasets import DATASETS
from advmia.data.loading import EvaluationLoader, ImageData, TrainingLoader
from advmia.data.readers import SampleList
from advmia.data.specs import IMAGENET_MEAN, IMAGENET_STD, Augmentation
from advmia.losses import cross_entropy
from advmia.models import Normalize, build_model, mobilenetv2, resnet, segnet, unet
from advmia.models.wideresnet import WideResNet
from advmia.runtime.rng import SampleRng
from advmia.tasks import MULTI_LABEL, SEGMENTATION, Task
from advmia.training.methods import PGDAT, Natural
from tests.support.running import ROOT

CPU = torch.device("cpu")
TRAINED = ROOT / "tests" / "fixtures" / "trained"  # weights of the networks that `trained` returns
BORDER = 2  # pixels at the left and the top that are exactly black, as around a fundus


@contextmanager
def small_networks() -> Iterator[None]:
    """Makes all networks but CheXNet many times as fast during the `with` block, for tests that are not about networks.

    MobileNetV2 has 4 blocks instead of 17; the others start with 8 channels instead of 64, or with 16. With 4 channels,
    gradients of torch 2.14's convolutions of stride 2 corrupt the memory of a CPU.
    """
    with pytest.MonkeyPatch.context() as patch, narrow_wrn():
        patch.setattr(mobilenetv2, "STAGES", ((1, 16, 1, 1), (6, 24, 1, 2), (6, 32, 1, 2), (6, 320, 1, 2)))
        for module in (resnet, segnet, unet):
            patch.setattr(module, "WIDTH", 8)
        models.state_dict_names.cache_clear()
        yield
    models.state_dict_names.cache_clear()


@contextmanager
def narrow_wrn() -> Iterator[None]:
    """Makes `wrn` hundreds of times as fast during the `with` block: WideResNet-16-2, with two blocks in each stage.

    It has every kind of block and of shortcut that WideResNet-28-10 has.
    """
    with pytest.MonkeyPatch.context() as patch:
        narrow = partial(WideResNet, depth=16, widen_factor=2)
        patch.setitem(models.MODELS, "wrn", replace(models.MODELS["wrn"], build=narrow))
        models.state_dict_names.cache_clear()
        yield
    models.state_dict_names.cache_clear()


class SmallNet(nn.Module):
    """Convolution, batch norm and dropout on a few channels: (B, 3, H, W) -> (B, classes)."""

    def __init__(self, classes: int, normalize: nn.Module | None = None, dropout: float = 0.2) -> None:
        super().__init__()
        self.normalize = normalize or nn.Identity()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.bn2 = nn.BatchNorm2d(16)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(self.normalize(x))))
        out = torch.relu(self.bn2(self.conv2(out)))
        return self.linear(self.dropout(out.mean(dim=(2, 3))))


class SmallSegmenter(nn.Module):
    """Convolution, batch norm and dropout at full size: (B, 3, H, W) -> (B, classes, H, W)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(0.2)
        self.conv2 = nn.Conv2d(8, classes, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.dropout(torch.relu(self.bn1(self.conv1(x)))))


class LinearNet(nn.Module):
    """A linear network, whose best perturbation is known: eps times the sign of a difference of weights."""

    def __init__(self, classes: int, size: int, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(classes, 3 * size * size, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T


class Wrapped(nn.Module):
    """A network whose logits are passed through `change`."""

    def __init__(self, model: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.model(x))


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    """Returns normally distributed numbers of the given shape, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class LogitsFromList(nn.Module):
    """Returns one entry of a list of logits per call, whatever the images. The first logit's input gradient is 1."""

    def __init__(self, logits: Sequence[Sequence[float]]) -> None:
        super().__init__()
        self.logits = [torch.tensor(values) for values in logits]
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        logits = self.logits[self.calls].repeat(len(x), 1)
        self.calls += 1
        pull = torch.zeros_like(logits)
        pull[:, 0] = 1
        return logits + (x - x.detach()).flatten(1).sum(dim=1, keepdim=True) * pull


CLASSIFIERS: dict[str, Callable[[int], nn.Module]] = {
    "small": SmallNet,
    "small-normalized": lambda classes: SmallNet(classes, Normalize(IMAGENET_MEAN, IMAGENET_STD)),
    "res18-normalized": lambda classes: build_model("res18", classes, mean=IMAGENET_MEAN, std=IMAGENET_STD),
    "mv2": lambda classes: build_model("mv2", classes),
    "chexnet-normalized": lambda classes: build_model("chexnet", classes, mean=IMAGENET_MEAN, std=IMAGENET_STD),
    "narrow-wrn": lambda classes: WideResNet(classes, nn.Identity(), depth=16, widen_factor=2),
}
SEGMENTERS: dict[str, Callable[[int], nn.Module]] = {
    "small-segmenter": SmallSegmenter,
    "unet": lambda classes: build_model("unet", classes),
    "segnet": lambda classes: build_model("segnet", classes),
}
NETWORKS = {
    **CLASSIFIERS,
    **SEGMENTERS,
    # Every convolution of WideResNet-28-10, each once: they are what its rounding depends on.
    "short-wrn": lambda classes: WideResNet(classes, nn.Identity(), depth=10),
}


def network(name: str, classes: int = 3) -> nn.Module:
    """Returns a new copy of a network of `NETWORKS`, in train mode, always with the same random weights."""
    return copy.deepcopy(_network(name, classes))


@cache
def _network(name: str, classes: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return NETWORKS[name](classes)


def trained(classes: int = 3, size: int = 16, seed: int = 0, hardened: float = 0) -> nn.Module:
    """Returns a new copy, in eval mode, of a small network trained on `image_data`: mostly correct, and easily misled.

    If `hardened` is not 0, it was trained on PGD examples of that eps in grey levels, and is misled less easily. The
    weights are read from files in `TRAINED`: trained on another processor, which rounds differently, they would differ.
    """
    return copy.deepcopy(_trained(classes, size, seed, hardened))


@cache
def _trained(classes: int, size: int, seed: int, hardened: float) -> nn.Module:
    path = _trained_path(classes, size, seed, hardened)
    assert path.exists(), (
        f"no {path}: python -m tests.support.networks {classes} {size} {seed} {hardened} trains and writes it"
    )
    model = SmallNet(classes, dropout=0.0)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def _trained_path(classes: int, size: int, seed: int, hardened: float) -> Path:
    """Returns the path of the weights of `trained`."""
    return TRAINED / f"classes{classes}_size{size}_seed{seed}_hardened{hardened:g}"


def _train(classes: int, size: int, seed: int, hardened: float) -> nn.Module:
    """Trains the network of `trained` for fifty steps."""
    x, y = pixels(96, classes=classes, size=size, seed=1)
    method = PGDAT(cross_entropy, Budget.grey(hardened, 5, hardened / 4)) if hardened else Natural(cross_entropy)
    rng = streams(96, seed)
    torch.manual_seed(seed)
    model = SmallNet(classes, dropout=0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(50):
        optimizer.zero_grad()
        method(model, x, y, rng=rng).backward()
        optimizer.step()
    return model


def image_data(count: int, *, classes: int = 3, size: int = 16, seed: int = 0) -> ImageData:
    """Returns images of noise with a black border and a faint tint that depends on the class, with labels."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % classes)
    tint = 14 * np.stack([np.cos(2 * np.pi * (labels / classes + shift)) for shift in (0, 1 / 3, 2 / 3)], axis=1)
    images = rng.normal(120, 45, (count, size, size, 3)) + tint[:, None, None, :] + rng.normal(0, 7, (count, 1, 1, 3))
    images[:, :BORDER] = 0
    images[:, :, :BORDER] = 0
    samples = SampleList(
        spec=DATASETS["melMulti"].at_size(size),
        path=Path("test.csv"),
        folder=Path("mel2017"),
        row_numbers=tuple(range(1, count + 1)),
        files=tuple(f"{index}.png" for index in range(count)),
        labels=torch.from_numpy(labels),
        masks=(),
        classes=classes,
        digest="",
        label="noise",
    )
    return ImageData(samples, images.clip(0, 255).round().astype(np.uint8), None, np.arange(count), "")


def pixels(
    count: int, *, classes: int = 3, size: int = 16, seed: int = 0, memory_format: torch.memory_format | None = None
) -> tuple[Tensor, Tensor]:
    """Returns images (count, 3, size, size) in [0, 1] and labels (count,) of `image_data`; contiguous by default."""
    data = image_data(count, classes=classes, size=size, seed=seed)
    batch = next(iter(EvaluationLoader(data, count, CPU)))
    return batch.x.contiguous(memory_format=memory_format or torch.contiguous_format), batch.y


def targets(task: Task, count: int, size: int, classes: int, seed: int = 0) -> Tensor:
    """Returns random labels (count,), findings (count, classes) or masks (count, size, size), as loaders do."""
    generator = torch.Generator().manual_seed(seed)
    if task is MULTI_LABEL:
        return torch.randint(2, (count, classes), generator=generator).float()
    shape = (count, size, size) if task is SEGMENTATION else (count,)
    return torch.randint(classes, shape, generator=generator)


def training_loader(data: ImageData, batch_size: int, seed: int = 0) -> TrainingLoader:
    """Returns a loader that shuffles and flips; both depend on the seed and the epoch."""
    return TrainingLoader(data, batch_size, CPU, "shuffled", Augmentation(horizontal_flip=0.5), seed)


def streams(count: int, *scope: object) -> SampleRng:
    """Returns new random streams for samples 0 to count - 1; equal scopes give equal noise."""
    return SampleRng.of(*scope, samples=range(count))


class StubRng(SampleRng):
    """Random numbers that are the same noise for every draw; records the kinds of draws.

    `shared`: the numbers that are drawn for the whole batch, in turn.
    """

    def __init__(self, noise: Tensor, shared: Sequence[float] = ()) -> None:
        super().__init__(torch.empty(0, dtype=torch.int64), torch.Generator())
        self.noise, self.shared = noise, list(shared)
        self.draws: list[str] = []

    def batch_uniform(self) -> float:
        return self.shared.pop(0)

    def uniform(self, like: Tensor) -> Tensor:
        self.draws.append("uniform")
        return self.noise.to(like)

    def normal(self, like: Tensor) -> Tensor:
        self.draws.append("normal")
        return self.noise.to(like)


@dataclass(frozen=True)
class Call:
    """One forward pass of a network."""

    x: Tensor
    training: frozenset[str]  # names of the submodules in train mode ("" is the network itself)
    learning: frozenset[str]  # names of the parameters that require a gradient


def record_calls(model: nn.Module) -> list[Call]:
    """Returns a list to which every forward pass of the model is appended."""
    calls: list[Call] = []

    def append_call(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls.append(
            Call(
                x=inputs[0].detach().clone(),
                training=frozenset(name for name, part in model.named_modules() if part.training),
                learning=frozenset(name for name, value in model.named_parameters() if value.requires_grad),
            )
        )

    model.register_forward_pre_hook(append_call)
    return calls


@dataclass(frozen=True)
class Snapshot:
    """Everything in a network that an attack must not change."""

    values: dict[str, Tensor]  # parameters and buffers
    gradients: dict[str, Tensor | None]
    requires_grad: dict[str, bool]
    modes: dict[str, bool]

    @classmethod
    def of(cls, model: nn.Module) -> Snapshot:
        buffers = {name: value.detach().clone() for name, value in model.named_buffers()}
        parameters = {name: value.detach().clone() for name, value in model.named_parameters()}
        return cls(
            values=buffers | parameters,
            gradients={
                name: None if value.grad is None else value.grad.clone() for name, value in model.named_parameters()
            },
            requires_grad={name: value.requires_grad for name, value in model.named_parameters()},
            modes={name: module.training for name, module in model.named_modules()},
        )

    def assert_same(self, model: nn.Module) -> None:
        """Fails if anything in the model differs from the snapshot."""
        now = Snapshot.of(model)
        assert now.modes == self.modes
        assert now.requires_grad == self.requires_grad
        assert same_tensors(now.gradients, self.gradients)
        assert same_tensors(now.values, self.values)


def same_tensors(first: Mapping[str, Tensor | None], second: Mapping[str, Tensor | None]) -> bool:
    """Returns whether the tensors of each name are equal to the bit; None is equal only to None."""
    if first.keys() != second.keys():
        return False
    pairs = [(value, second[name]) for name, value in first.items()]
    return all(a is b if a is None or b is None else torch.equal(a, b) for a, b in pairs)


def unsettle(model: nn.Module) -> nn.Module:
    """Puts the model into train mode except one batch norm, freezes some parameters and sets gradients of others.

    Returns the same model.
    """
    model.train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if norms:
        norms[len(norms) // 2].eval()
    for index, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(index % 3 != 0)
        parameter.grad = torch.full_like(parameter, 0.5) if index % 2 else None
    return model


def share_equal(a: Tensor, b: Tensor, tolerance: float = 1e-6) -> float:
    """Returns the share of entries that differ by no more than the tolerance."""
    return float(((a - b).abs() <= tolerance).double().mean())


def right(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Returns which images (B,) the model, in eval mode, classifies correctly."""
    with torch.no_grad():
        return model(x).argmax(dim=1) == y


if __name__ == "__main__":
    key = (int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
    TRAINED.mkdir(exist_ok=True)
    with _trained_path(*key).open("wb") as file:
        torch.save(_train(*key).state_dict(), file)
