"""Batches from cached pixels. Nothing is decoded here, so there are no worker processes to feed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from advmia.data.cache import cached_images, cached_masks
from advmia.data.readers import SampleList
from advmia.data.specs import Augmentation
from advmia.data.transforms import augment, to_pixels
from advmia.errors import UserError
from advmia.rng import generator_for

Order = Literal["weighted", "shuffled"]


@dataclass(frozen=True)
class ImageData:
    """Images in memory (or mapped from the cache) with what they are labelled by."""

    samples: SampleList
    images: np.ndarray  # uint8 (N, S, S, 3)
    masks: np.ndarray | None  # uint8 (N, S, S), segmentation only
    rows: np.ndarray  # int64: which of the N belong to this part; all but for a held-out part
    pixels_crc32: str  # of the images and masks

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def facts(self) -> dict[str, object]:
        """What a record says of the data: two runs on other lists or pixels must differ here."""
        samples = self.samples
        return {
            "list": samples.path.name,
            "sha256": samples.digest,
            "images": len(samples),
            "pixels_crc32": self.pixels_crc32,
            "content": samples.label or "official",
        }

    @property
    def empty_masks(self) -> int:
        """How many masks are all background."""
        return 0 if self.masks is None else sum(not self.masks[row].any() for row in self.rows)

    @property
    def undefined_findings(self) -> list[str]:
        """Multi-label: the findings that all images have, or none has; AUROC is undefined for them."""
        names = self.samples.spec.findings
        positives = self.targets(self.rows).sum(dim=0) if names else torch.empty(0)
        return [name for name, count in zip(names, positives, strict=True) if count in (0, len(self))]

    def targets(self, rows: np.ndarray) -> Tensor:
        """Labels of the rows: (B,) int64, (B, 14) float32, or masks (B, S, S) int64."""
        if self.masks is not None:
            return torch.from_numpy(self.masks[rows]).long()
        return self.samples.labels[torch.from_numpy(rows)]


@dataclass(frozen=True)
class Batch:
    x: Tensor  # (B, 3, S, S) float32 in [0, 1]
    y: Tensor  # (B,) int64, (B, 14) float32 or (B, S, S) int64
    index: (
        Tensor  # (B,) int64 on the CPU: in evaluation the sample's row in the list, in training its place in the epoch
    )

    def __len__(self) -> int:
        return len(self.x)


def load_data(root: Path, samples: SampleList, *, workers: int) -> ImageData:
    """The list's pixels, from the cache under the data root `root`."""
    images = cached_images(root, samples, workers=workers)
    rows = np.arange(len(samples))
    if not samples.masks:
        return ImageData(samples, images.pixels, None, rows, f"{images.crc32:08x}")
    masks = cached_masks(root, samples, workers=workers)
    return ImageData(samples, images.pixels, masks.pixels, rows, f"{images.crc32:08x}-{masks.crc32:08x}")


def hold_out(data: ImageData, fraction: float, *, seed: int) -> tuple[ImageData, ImageData]:
    """Splits off `fraction` of the rows, keeping the classes' shares: (the rest, the part held out)."""
    from sklearn.model_selection import train_test_split  # here, because it takes a second to import

    labels = data.samples.labels.numpy()[data.rows] if data.samples.spec.task == "single-label" else None
    try:
        kept, held = train_test_split(data.rows, test_size=fraction, random_state=seed % 2**32, stratify=labels)
    except ValueError as error:
        raise UserError(
            f"cannot hold out {fraction} of the {len(data)} rows of {data.samples.path} ({error}); change --valFraction"
        ) from error
    return replace(data, rows=np.sort(kept)), replace(data, rows=np.sort(held))


@dataclass(frozen=True)
class EvaluationLoader:
    """Every row once, in the list's order."""

    data: ImageData
    batch_size: int
    device: torch.device

    def __len__(self) -> int:
        return -(-len(self.data) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return self.waves(0)

    def waves(self, at_most: int) -> Iterator[Batch]:
        """The same rows, as many batches at a time as have no more than `at_most` bytes of pixels; at least one."""
        size = self.data.samples.spec.size
        batches = at_most // (self.batch_size * 3 * size * size * torch.float32.itemsize)
        for rows in _chunks(self.data.rows, self.batch_size * max(batches, 1)):
            x = to_pixels(_images(self.data, rows, self.device))
            yield Batch(x, self.data.targets(rows).to(self.device), torch.from_numpy(rows))


@dataclass(frozen=True)
class TrainingLoader:
    """As many draws an epoch as there are rows; the last short batch is kept.

    Which rows come, and how each is augmented, depends on the seed and the epoch alone.
    """

    data: ImageData
    batch_size: int
    device: torch.device
    order: Order
    augmentation: Augmentation
    seed: int

    def __len__(self) -> int:
        return -(-len(self.data) // self.batch_size)

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of one epoch."""
        count = len(self.data)
        generator = generator_for(self.seed, "epoch", number)
        drawn = self._draw_rows(generator)
        draws = torch.rand(count, 3, generator=generator, dtype=torch.float64)
        for places in _chunks(np.arange(count), self.batch_size):
            rows, index = drawn[places], torch.from_numpy(places)
            images = augment(_images(self.data, rows, self.device), self.augmentation, draws[index])
            yield Batch(to_pixels(images), self.data.targets(rows).to(self.device), index)

    def _draw_rows(self, generator: torch.Generator) -> np.ndarray:
        count = len(self.data)
        if self.order == "shuffled":
            return self.data.rows[torch.randperm(count, generator=generator).numpy()]
        labels = self.data.samples.labels[torch.from_numpy(self.data.rows)]
        weights = count / torch.bincount(labels)[labels].double()  # a sample's weight: N / count of its class
        return self.data.rows[torch.multinomial(weights, count, replacement=True, generator=generator).numpy()]


def _images(data: ImageData, rows: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(data.images[rows]).to(device, non_blocking=True)


def _chunks(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
