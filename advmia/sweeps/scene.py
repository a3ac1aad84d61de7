"""Where passes are counted and timed: a task, images and a device as in a training or a test, with random pixels."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from advmia.data.loading import ImageData
from advmia.data.readers import SampleList
from advmia.data.specs import DatasetSpec
from advmia.evaluation.loop import WAVE_BATCHES
from advmia.runtime.precision import Precision
from advmia.sweeps.grid import TASKS
from advmia.tasks import SEGMENTATION, SINGLE_LABEL, Task

Result = TypeVar("Result")
# The most pixels of a batch on a CPU, so that counting and timing take seconds.
_CPU_PIXELS = 2**19


@dataclass(frozen=True)
class Scene:
    """What the time of a pass depends on besides the network: the images, their batch, the device and the precision."""

    spec: DatasetSpec
    classes: int
    images: int  # of the list
    batch_size: int
    device: torch.device
    precision: Precision

    @property
    def task(self) -> Task:
        return TASKS[self.spec.task]

    @property
    def channels(self) -> int:
        """The channels that attacks see: one where the noise is grey."""
        return 1 if self.spec.noise == "grey" else 3

    def count(self, *, early_stopping: bool = False) -> int:
        """Returns how many images stand for the list: all of a short one, else whole batches or, on a CPU, a part.

        `early_stopping`: of an attack that gets several batches at once.
        """
        most = self.batch_size * (WAVE_BATCHES if early_stopping else 1)
        if self.device.type == "cpu":
            fitting = max(_CPU_PIXELS // self.spec.size**2, 2)
            most = min(most, fitting - fitting % 8 if fitting >= 8 else fitting - fitting % 2)
        return min(self.images, most)

    def data(self, count: int) -> ImageData:
        """Returns `count` images of random pixels. All labels are 0, a mask is a square, each finding is in every other
        image."""
        size, task = self.spec.size, self.task
        images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
        masks = None if task is not SEGMENTATION else np.tile(square_mask(size).numpy(), (count, 1, 1))
        labels = torch.zeros(count, dtype=torch.int64)
        if task is not SINGLE_LABEL:
            labels = (torch.arange(count) % 2).float()[:, None].repeat(1, len(self.spec.findings))
        names = tuple(map(str, range(count)))
        samples = SampleList(
            spec=self.spec,
            path=Path("random"),
            folder=Path("random"),
            row_numbers=tuple(range(1, count + 1)),
            files=names,
            labels=labels,
            masks=() if masks is None else names,
            classes=self.classes,
            digest="",
            label="random",
        )
        return ImageData(samples, images, masks, np.arange(count), "").preload(self.device)


def square_mask(size: int) -> Tensor:
    """Returns a mask (S, S) uint8 with a square of class 1 in the middle."""
    mask = torch.zeros(size, size, dtype=torch.uint8)
    mask[size // 4 : size - size // 4, size // 4 : size - size // 4] = 1
    return mask


def timed(run: Callable[[], Result], device: torch.device) -> tuple[Result, float]:
    """Returns the result of one call, and its seconds. The device is idle when it starts and when it ends."""
    _wait(device)
    start = time.perf_counter()
    result = run()
    _wait(device)
    return result, time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
