"""Loads batches from cached pixels. Nothing is decoded here, so no worker processes are needed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from advmia.data.cache import Remarks, cached_images, cached_masks
from advmia.data.readers import SampleList
from advmia.data.specs import Augmentation
from advmia.data.transforms import augment, to_pixels
from advmia.errors import UserError
from advmia.runtime.devices import to_device
from advmia.runtime.rng import generator_for

Item = TypeVar("Item")
Order = Literal["weighted", "shuffled"]

PRELOAD_FRACTION = 0.25  # of the GPU's free memory: pixels that take more are not copied there
_CHECKED = 256  # images at a time
_COPY_BYTES = 2**28  # how much is copied to the GPU at a time


@dataclass(frozen=True)
class ImageData:
    """The images of a list, in memory or mapped from the cache, with their labels or masks."""

    samples: SampleList
    images: np.ndarray  # uint8 (N, S, S, 3)
    masks: np.ndarray | None  # uint8 (N, S, S), segmentation only
    indices: np.ndarray  # int64: the samples of this part, as indices into the N; a split or a shard has fewer than N
    pixels_crc32: str  # checksum of the images and masks
    remarks: Remarks = field(default_factory=dict)  # about the image files
    encodings: Remarks = field(default_factory=dict)  # of the mask files
    preloaded: tuple[Tensor, Tensor | None] | None = None  # copies of images and masks in a GPU's memory

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def facts(self) -> dict[str, object]:
        """The facts that a record states about the data. They differ if the list or the pixels do."""
        samples = self.samples
        return {
            "list": samples.path.name,
            "sha256": samples.digest,
            "images": len(samples),
            "pixels_crc32": self.pixels_crc32,
            "content": samples.label or "official",
        }

    @property
    def undefined_findings(self) -> list[str]:
        """The findings (multi-label) that all images have or none has: their AUROC is undefined."""
        names = self.samples.spec.findings
        positives = self.targets(self.indices).sum(dim=0) if names else torch.empty(0)
        return [name for name, count in zip(names, positives, strict=True) if count in (0, len(self))]

    def shard(self, rank: int, world_size: int) -> ImageData:
        """Returns the part of one process: contiguous, in order. The shards of all ranks together are all images."""
        return replace(self, indices=np.array_split(self.indices, world_size)[rank])

    def targets(self, indices: np.ndarray) -> Tensor:
        """Returns the targets of the samples: labels (B,) int64, findings (B, 14) float32 or masks (B, S, S) int64."""
        if self.masks is not None:
            return torch.from_numpy(self.masks[indices]).long()
        return self.samples.labels[torch.from_numpy(indices)]

    def to_pixels(self, images: Tensor) -> Tensor:
        """Converts uint8 images (B, S, S, 3) to what networks get: float32 in [0, 1], (B, 3, S, S).

        Where the data set's noise is grey, the result is (B, 1, S, S): networks repeat the channel
        (`advmia.models.normalize`), so that every attack changes all channels alike.
        """
        return to_pixels(images[..., :1] if self.samples.spec.noise == "grey" else images)

    def coloured(self) -> str | None:
        """Returns the name of an image whose channels differ; None if all are grey."""
        for start in range(0, len(self.indices), _CHECKED):
            indices = self.indices[start : start + _CHECKED]
            images = self.images[indices]
            differs = (images != images[..., :1]).any(axis=(1, 2, 3))
            if differs.any():
                return self.samples.files[int(indices[differs.argmax()])]
        return None

    def preload(self, device: torch.device) -> ImageData:
        """Returns the data with a copy of all pixels in the GPU's memory.

        Returns the data unchanged on a CPU, or if the copy would take more than `PRELOAD_FRACTION` of the free memory.
        """
        if device.type != "cuda":
            return self
        arrays = [self.images] + ([] if self.masks is None else [self.masks])
        free, _ = torch.cuda.mem_get_info(device)
        if sum(array.nbytes for array in arrays) > PRELOAD_FRACTION * free:
            return self
        images, *masks = (_copied(array, device) for array in arrays)
        return replace(self, preloaded=(images, masks[0] if masks else None))

    def fetch(self, indices: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
        """Returns the images, uint8 (B, S, S, 3), and the targets of the samples, both on `device`."""
        if self.preloaded is not None:
            images, masks = self.preloaded
            there = to_device(torch.from_numpy(indices), images.device)
            targets = to_device(self.targets(indices), device) if masks is None else masks[there].long()
            return images[there], targets
        return to_device(torch.from_numpy(self.images[indices]), device), to_device(self.targets(indices), device)


@dataclass(frozen=True)
class Batch:
    """Images with their targets. `global_size` and `weight` are set in training only."""

    x: Tensor  # (B, 3, S, S) float32 in [0, 1]; (B, 1, S, S) where the noise is grey
    y: Tensor  # (B,) int64, (B, 14) float32 or (B, S, S) int64
    index: Tensor  # (B,) int64 on the CPU: in evaluation the sample's index in the list, in training in the epoch
    global_size: int = 0  # images of this batch in all processes together
    weight: float = 1.0  # factor of this process's mean loss, so that the mean over processes is the batch's mean loss

    def __len__(self) -> int:
        return len(self.x)


def load_data(root: Path, samples: SampleList, *, workers: int) -> ImageData:
    """Loads the pixels of a list from the cache under the data root `root`; `workers` threads fill it where needed.

    Raises `UserError` for an image that cannot be read and for a cache that cannot be written.
    """
    images = cached_images(root, samples, workers=workers)
    indices = np.arange(len(samples))
    if not samples.masks:
        return ImageData(samples, images.pixels, None, indices, f"{images.crc32:08x}", images.remarks)
    masks = cached_masks(root, samples, workers=workers)
    checksums = f"{images.crc32:08x}-{masks.crc32:08x}"
    return ImageData(samples, images.pixels, masks.pixels, indices, checksums, images.remarks, masks.remarks)


def hold_out(data: ImageData, fraction: float, *, seed: int) -> tuple[ImageData, ImageData]:
    """Splits the data at random into (rest, held-out part of `fraction`), stratified by class for single labels.

    Raises `UserError` if scikit-learn cannot split the data so, e.g. for a fraction that leaves a part empty.
    """
    from sklearn.model_selection import train_test_split  # takes a second to import

    labels = data.samples.labels.numpy()[data.indices] if data.samples.spec.task == "single-label" else None
    try:
        rest, held_out = train_test_split(data.indices, test_size=fraction, random_state=seed % 2**32, stratify=labels)
    except ValueError as error:
        raise UserError(
            f"cannot hold out {fraction} of the {len(data)} rows of {data.samples.path} ({error}); change --valFraction"
        ) from error
    return replace(data, indices=np.sort(rest)), replace(data, indices=np.sort(held_out))


EVALUATION_BATCH_SIZE = 16  # of the survey's tests


@dataclass(frozen=True)
class EvaluationLoader:
    """Yields every sample once, in the list's order."""

    data: ImageData
    batch_size: int
    device: torch.device

    def __len__(self) -> int:
        return -(-len(self.data) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return self.waves(1, 0)

    def waves(self, batches: int, max_bytes: int, *, skip: int = 0) -> Iterator[Batch]:
        """Yields the samples after the first `skip` in waves: large batches that join `batches` batches each.

        A wave joins fewer batches, but at least one, if its float32 pixels would take more than `max_bytes`.
        """
        size = self.data.samples.spec.size
        fitting = max_bytes // (self.batch_size * 3 * size * size * torch.float32.itemsize)
        chunks = _chunks(self.data.indices[skip:], self.batch_size * max(min(batches, fitting), 1))
        for indices, images, y in _fetched(self.data, chunks, self.device):
            yield Batch(self.data.to_pixels(images), y, torch.from_numpy(indices))


@dataclass(frozen=True)
class TrainingLoader:
    """Yields augmented batches. An epoch has as many samples as the data; its last batch may be smaller.

    A last batch that would give a rank fewer than `smallest_share` images joins the one before.

    Which samples come, and how each is augmented, depends only on the seed and the epoch. With several processes each
    rank gets its part of every batch; all ranks together see what a single process would.
    """

    data: ImageData
    batch_size: int  # of all processes together
    device: torch.device
    order: Order  # "weighted": drawn with replacement, each class equally likely; "shuffled": each sample once
    augmentation: Augmentation
    seed: int
    rank: int = 0
    world_size: int = 1
    smallest_share: int = 1  # of a batch, for one rank; 1 also allows empty shares

    def __len__(self) -> int:
        return len(self.batches())

    def batches(self) -> list[Tensor]:
        """Returns the positions in the epoch of each batch's samples."""
        batches = list(torch.arange(len(self.data)).split(self.batch_size))
        if len(batches) > 1 and self.smallest_share > 1 and len(batches[-1]) < self.smallest_share * self.world_size:
            batches[-2:] = [torch.cat(batches[-2:])]
        return batches

    def epoch(self, number: int, *, skip: int = 0) -> Iterator[Batch]:
        """Yields the batches of one epoch after the first `skip`.

        A rank whose part of a small last batch would be empty gets that batch's first image, with weight 0.
        """
        count = len(self.data)
        generator = generator_for(self.seed, "epoch", number)
        order = self._draw_indices(generator)
        draws = torch.rand(count, 3, generator=generator, dtype=torch.float64)
        batches = self.batches()[skip:]
        shards = [batch.tensor_split(self.world_size)[self.rank] for batch in batches]
        filled = [shard if len(shard) else batch[:1] for shard, batch in zip(shards, batches, strict=True)]
        fetched = _fetched(self.data, (order[positions.numpy()] for positions in filled), self.device)
        for batch, shard, positions, (_, images, y) in zip(batches, shards, filled, fetched, strict=True):
            pixels = self.data.to_pixels(augment(images, self.augmentation, draws[positions]))
            weight = len(shard) * self.world_size / len(batch)
            yield Batch(pixels, y, positions, global_size=len(batch), weight=weight)

    def _draw_indices(self, generator: torch.Generator) -> np.ndarray:
        """Returns the samples of an epoch in their order, as indices into the list."""
        count = len(self.data)
        if self.order == "shuffled":
            return self.data.indices[torch.randperm(count, generator=generator).numpy()]
        labels = self.data.samples.labels[torch.from_numpy(self.data.indices)]
        weights = count / torch.bincount(labels)[labels].double()  # of a sample: N / size of its class
        return self.data.indices[torch.multinomial(weights, count, replacement=True, generator=generator).numpy()]


def _copied(array: np.ndarray, device: torch.device) -> Tensor:
    """Copies the array to the device in pieces, because it may be mapped from a file larger than the memory."""
    copy = torch.empty(array.shape, dtype=torch.uint8, device=device)
    for indices in np.array_split(np.arange(len(array)), max(array.nbytes // _COPY_BYTES, 1)):
        copy[torch.from_numpy(indices).to(device)] = torch.from_numpy(array[indices]).to(device)
    return copy


def _fetched(
    data: ImageData, chunks: Iterator[np.ndarray], device: torch.device
) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
    """Yields (indices, images, targets) for each chunk of indices.

    Pixels that are not on the GPU yet are read ahead, while the GPU works on the chunk before.
    """
    batches = ((indices, *data.fetch(indices, device)) for indices in chunks)
    return batches if device.type != "cuda" or data.preloaded else _prefetched(batches)


def _prefetched(items: Iterator[Item]) -> Iterator[Item]:
    """Yields the items in order; another thread computes the next one while the caller uses the current one."""
    with ThreadPoolExecutor(1) as thread:
        pending = thread.submit(list, islice(items, 1))
        while item := pending.result():
            pending = thread.submit(list, islice(items, 1))
            yield item[0]


def _chunks(indices: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(indices), size):
        yield indices[start : start + size]
