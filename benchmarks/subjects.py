"""The images and networks that benchmarks use: phantoms, read by our own loaders, and networks trained on them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from advmia.budgets import training_budget
from advmia.data.datasets import DATASETS
from advmia.data.loading import EvaluationLoader, ImageData, TrainingLoader, load_data
from advmia.data.phantoms import COUNTS, make_phantoms
from advmia.data.readers import read_samples
from advmia.data.specs import DatasetSpec
from advmia.models import build_model
from advmia.models.densenet import DenseNet121
from advmia.models.unet import UNet
from advmia.models.wideresnet import WideResNet
from advmia.runtime.machine import on_device, seed_everything
from advmia.runtime.precision import FP32, Precision
from advmia.tasks import SINGLE_LABEL, Task
from advmia.training.loop import Position, Training, train_one_epoch
from advmia.training.methods import METHODS, Method, MethodSettings, default_beta


def phantoms(folder: Path, dataset: str, size: int, train: int, test: int) -> tuple[ImageData, ImageData]:
    """Draws phantoms of a data set into `folder`; returns `train` training and `test` test images of `size` pixels."""
    spec = DATASETS[dataset].at_size(size)
    count = max(COUNTS[0], 4 * test, -(-4 * train // 3))  # a quarter of the phantoms are for testing
    make_phantoms(folder, [spec.folder], count=count, size=max(spec.resize, 32))
    train_list = read_samples(spec, folder, "train")
    test_list = read_samples(spec, folder, "test", classes=train_list.classes)
    return (
        load_data(folder, train_list.subset(train), workers=2),
        load_data(folder, test_list.subset(test), workers=2),
    )


def repeated(data: ImageData, count: int) -> ImageData:
    """Returns `count` images: those of `data`, repeated. Times do not depend on what images show."""
    return replace(data, indices=data.indices[np.arange(count) % len(data)])


def training_loader(
    data: ImageData, task: Task, batch_size: int, device: torch.device, seed: int = 0
) -> TrainingLoader:
    """Returns our loader of training batches, with the data set's augmentation and the task's order."""
    return TrainingLoader(data, batch_size, device, task.order, data.samples.spec.augmentation, seed)


def all_images(data: ImageData, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns all images (N, 3, S, S) in [0, 1], in PyTorch's default memory layout, and their labels (N,)."""
    batch = next(iter(EvaluationLoader(data, len(data), device)))
    return batch.x.contiguous(), batch.y


def network(name: str, spec: DatasetSpec, classes: int, device: torch.device, seed: int = 0) -> nn.Module:
    """Returns a network with random weights, in the memory layout that our training uses."""
    seed_everything(seed)
    return on_device(build_model(name, classes, mean=spec.mean, std=spec.std), device)


@torch.no_grad()
def with_statistics_of(x: Tensor, model: nn.Module) -> nn.Module:
    """Sets the running statistics of the batch norms to those of images x (B, C, H, W); returns the same model.

    With the statistics of a new network, activations and gradients shrink from layer to layer until they are denormal
    numbers, which are slow on a CPU. Trained networks have no such numbers.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momentums = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    model.train()(x)
    for norm, momentum in zip(norms, momentums, strict=True):
        norm.momentum = momentum
    return model


def as_published(model: nn.Module) -> nn.Module:
    """Changes a network into the form that published code runs; returns the same model.

    It gets PyTorch's default memory layout. Its ReLUs do not work in place, except in U-Net, DenseNet and WideResNet,
    whose published ReLUs do.
    """
    if not isinstance(model, UNet | DenseNet121 | WideResNet):
        for module in model.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False
    return model.to(memory_format=torch.contiguous_format)


def method(name: str, task: Task, grey_eps: float, dataset: str, helper: nn.Module | None = None) -> Method:
    """Returns a training method with the commands' default settings."""
    settings = MethodSettings(
        objective=task.objective,
        divergence=task.divergence,
        budget=training_budget(grey_eps, name),
        beta=default_beta(name, dataset),
        gamma=1.0,
        hat_step=3.5,
        helper=helper,
    )
    return METHODS[name](settings)


@dataclass(frozen=True)
class ShortTraining:
    """A short training of a classifier by our loop, in batches of 16."""

    model: str
    epochs: int
    lr: float = 0.01
    seed: int = 0
    precision: Precision = FP32

    def run(self, data: ImageData, method: Method, device: torch.device) -> nn.Module:
        """Trains a new network on `data`; returns it in eval mode."""
        samples, task = data.samples, SINGLE_LABEL
        model = network(self.model, samples.spec, samples.classes, device, self.seed)
        loader = training_loader(data, task, 16, device, self.seed)
        optimizer = task.optimizer(model.parameters(), self.lr, 1e-3)
        schedule = task.schedule(optimizer, self.lr, self.epochs * len(loader))
        training = Training(model, method, loader, optimizer, schedule, self.epochs, self.precision)
        for number in range(1, self.epochs + 1):
            train_one_epoch(training, Position(number))
        model.zero_grad(set_to_none=True)
        return model.eval()
