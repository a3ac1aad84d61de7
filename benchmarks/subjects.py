"""What is measured on: phantoms through the product's own lists, cache and loaders, and networks trained on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from advmia.budgets import training_budget
from advmia.data.loading import EvaluationLoader, ImageData, TrainingLoader, load_data
from advmia.data.phantoms import COUNTS, make_phantoms
from advmia.data.readers import read_samples
from advmia.data.specs import DATASETS, DatasetSpec
from advmia.models import build_model
from advmia.models.densenet import DenseNet121
from advmia.models.unet import UNet
from advmia.runtime.machine import on_device, seed_everything
from advmia.runtime.precision import FP32, Precision
from advmia.tasks import Task
from advmia.training.loop import LossOf, Position, train_one_epoch
from advmia.training.methods import METHODS, Method, MethodSettings, default_beta


def phantoms(folder: Path, dataset: str, size: int, train: int, test: int) -> tuple[ImageData, ImageData]:
    """Training and test images of a data set at `size` pixels, drawn into `folder`; as many as asked for of each."""
    spec = DATASETS[dataset].at_size(size)
    count = max(COUNTS[0], 4 * test, -(-4 * train // 3))  # a quarter tests
    make_phantoms(folder, [spec.folder], count=count, size=max(spec.resize, 32))
    train_list = read_samples(spec, folder, "train")
    test_list = read_samples(spec, folder, "test", classes=train_list.classes)
    return (
        load_data(folder, train_list.first(train), workers=2),
        load_data(folder, test_list.first(test), workers=2),
    )


def repeated(data: ImageData, count: int) -> ImageData:
    """As many rows as asked for, by taking the images over and over: time depends on their number, not on what they
    show."""
    return replace(data, indices=data.indices[np.arange(count) % len(data)])


def training_loader(
    data: ImageData, task: Task, batch_size: int, device: torch.device, seed: int = 0
) -> TrainingLoader:
    return TrainingLoader(data, batch_size, device, task.order, data.samples.spec.augmentation, seed)


def network(name: str, spec: DatasetSpec, classes: int, device: torch.device, seed: int = 0) -> nn.Module:
    """Random weights, laid out as for training."""
    seed_everything(seed)
    return on_device(build_model(name, classes, mean=spec.mean, std=spec.std), device)


@torch.no_grad()
def settled(model: nn.Module, x: Tensor) -> nn.Module:
    """The network with batch norms that know images x (B, C, H, W). A fresh network's let its activations and gradients
    shrink from layer to layer to numbers so small that a CPU is slow with them, which no trained network's are."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momentums = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    model.train()(x)
    for norm, momentum in zip(norms, momentums, strict=True):
        norm.momentum = momentum
    return model


def as_published(model: nn.Module) -> nn.Module:
    """The network as published code has it: plain memory layout, and ReLUs that write to new memory but for the two
    networks (U-Net, DenseNet) that are published with ReLU in place. Changes the one given."""
    if not isinstance(model, UNet | DenseNet121):
        for module in model.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False
    return model.to(memory_format=torch.contiguous_format)


def method(name: str, task: Task, eps: float, dataset: str, helper: nn.Module | None = None) -> Method:
    settings = MethodSettings(
        objective=task.objective,
        budget=training_budget(eps),
        beta=default_beta(name, dataset),
        gamma=1.0,
        step=3.5,
        helper=helper,
    )
    return METHODS[name](settings)


def trained(
    name: str,
    data: ImageData,
    task: Task,
    how: Method,
    device: torch.device,
    *,
    epochs: int,
    lr: float,
    seed: int = 0,
    precision: Precision = FP32,
) -> nn.Module:
    """A network after a brief training with the product's loop, in eval mode."""
    samples = data.samples
    model = network(name, samples.spec, samples.classes, device, seed)
    loader = training_loader(data, task, 16, device, seed)
    optimizer = task.optimizer(model.parameters(), lr, 1e-3)
    schedule = task.schedule(optimizer, lr, epochs * len(loader))
    loss = LossOf(model, how)
    for number in range(1, epochs + 1):
        train_one_epoch(loss, loader, optimizer, schedule, Position(number), epochs=epochs, precision=precision)
    model.zero_grad(set_to_none=True)
    return model.eval()


def all_images(data: ImageData, device: torch.device) -> tuple[Tensor, Tensor]:
    """Every image (N, 3, S, S) in plain memory layout, and its label."""
    batch = next(iter(EvaluationLoader(data, len(data), device)))
    return batch.x.contiguous(), batch.y
