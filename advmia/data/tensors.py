"""A user's own tensors, or batches of a DataLoader, as the data of an evaluation or a training."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from advmia.data.loading import ImageData
from advmia.data.readers import SampleList
from advmia.data.specs import DatasetSpec
from advmia.errors import UserError
from advmia.targets import check_pixels, task_of_targets

Batches = Iterable[tuple[Tensor, Tensor]]  # (x, y), as a torch DataLoader yields them


@dataclass(frozen=True)
class TensorData(ImageData):
    """Images and targets in memory: x (N, C, H, W) float32 in [0, 1], y as `task_of_targets` takes it."""

    x: Tensor = field(default_factory=lambda: torch.empty(0))
    y: Tensor = field(default_factory=lambda: torch.empty(0))

    def targets(self, indices: np.ndarray) -> Tensor:
        return self.y[torch.from_numpy(indices)]

    def fetch(self, indices: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
        return self.x[torch.from_numpy(indices)].to(device), self.targets(indices).to(device)

    def to_pixels(self, images: Tensor) -> Tensor:
        """Returns the images, which are pixels already."""
        return images

    def preload(self, device: torch.device) -> TensorData:
        """Returns the data on the device."""
        return replace(self, x=self.x.to(device), y=self.y.to(device)) if device.type == "cuda" else self


def collect(data: Batches | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Returns images and targets of two tensors or of all batches, on the CPU, checked.

    Raises `UserError` if there are none, or if they are not as `check_pixels` and `task_of_targets` want them.
    """
    is_pair = isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Tensor) for part in data)
    batches = [data] if is_pair else [(batch[0], batch[1]) for batch in data]
    if not batches:
        raise UserError("there are no images: expected (x, y), or batches of (x, y)")
    x, y = (torch.cat([torch.as_tensor(part).cpu() for part in parts]) for parts in zip(*batches, strict=True))
    check_pixels(x)
    task = task_of_targets(y)
    if len(x) != len(y):
        raise UserError(f"{len(x)} images, but {len(y)} targets")
    return x.float(), y.float() if task == "multi-label" else y.long()


def as_data(x: Tensor, y: Tensor, *, name: str, classes: int, findings: tuple[str, ...] = ()) -> TensorData:
    """Returns checked images and targets as data. `classes`: of the network's logits. `name`: of the data, in results.

    Raises `UserError` for a target that is no class of the network.
    """
    task = task_of_targets(y)
    if task != "multi-label" and not (int(y.min()) >= 0 and int(y.max()) < classes):
        raise UserError(f"targets from {int(y.min())} to {int(y.max())}, but the network has {classes} classes")
    if task == "multi-label" and y.shape[1] != classes:
        raise UserError(f"targets of {y.shape[1]} findings, but the network has {classes} outputs")
    size, is_mask = x.shape[-1], task == "segmentation"
    spec = DatasetSpec(
        name=name,
        task=task,
        folder=name,
        train_list=name,
        test_list=name,
        size=size,
        resize=size,
        classes=classes,
        findings=findings or tuple(f"finding {label}" for label in range(classes)) if task == "multi-label" else (),
        mask_values=tuple((label,) for label in range(classes)) if is_mask and classes > 2 else (),
    )
    contents = [np.ascontiguousarray(part.numpy()) for part in (x, y)]
    files = tuple(str(index) for index in range(len(x)))
    samples = SampleList(
        spec=spec,
        path=Path(name),
        folder=Path(),
        row_numbers=tuple(range(1, len(x) + 1)),
        files=files,
        labels=torch.empty(len(x), 0) if is_mask else y,
        masks=files if is_mask else (),
        classes=classes,
        digest=hashlib.sha256(contents[1].tobytes()).hexdigest(),
        label="",
    )
    checksum = hashlib.sha256(contents[0].tobytes()).hexdigest()[:8]
    masks = contents[1].astype(np.uint8) if is_mask else None
    return TensorData(samples, np.empty(0, np.uint8), masks, np.arange(len(x)), checksum, x=x, y=y)
