"""Batches from cached pixels. Nothing is decoded here, so there are no worker processes to feed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from advmia.data.cache import cached_images, cached_masks
from advmia.data.readers import SampleList
from advmia.data.specs import Augmentation
from advmia.data.transforms import augment, to_pixels
from advmia.errors import UserError
from advmia.runtime.rng import generator_for

Item = TypeVar("Item")
Order = Literal["weighted", "shuffled"]

RESIDENT_SHARE = 0.25  # of the GPU's free memory, that a list's pixels may take
_PIECE = 2**28  # bytes


@dataclass(frozen=True)
class ImageData:
    """Images in memory (or mapped from the cache) with what they are labelled by."""

    samples: SampleList
    images: np.ndarray  # uint8 (N, S, S, 3)
    masks: np.ndarray | None  # uint8 (N, S, S), segmentation only
    rows: np.ndarray  # int64: which of the N belong to this part; all but for a held-out part
    pixels_crc32: str  # of the images and masks
    resident: tuple[Tensor, Tensor | None] | None = None  # images and masks once more, in a GPU's memory

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

    def share(self, place: int, of: int) -> ImageData:
        """The rows of one of several processes: together, in their order, they are all."""
        return replace(self, rows=np.array_split(self.rows, of)[place])

    def targets(self, rows: np.ndarray) -> Tensor:
        """Labels of the rows: (B,) int64, (B, 14) float32, or masks (B, S, S) int64."""
        if self.masks is not None:
            return torch.from_numpy(self.masks[rows]).long()
        return self.samples.labels[torch.from_numpy(rows)]

    def kept_on(self, device: torch.device) -> ImageData:
        """The same data, with a copy in the GPU's memory where it leaves the networks room; on a CPU as it is."""
        if device.type != "cuda":
            return self
        arrays = [self.images] + ([] if self.masks is None else [self.masks])
        free, _ = torch.cuda.mem_get_info(device)
        if sum(array.nbytes for array in arrays) > RESIDENT_SHARE * free:
            return self
        images, *masks = (_copied(array, device) for array in arrays)
        return replace(self, resident=(images, masks[0] if masks else None))

    def on_device(self, rows: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
        """(images uint8 (B, S, S, 3), targets) of the rows."""
        if self.resident is not None:
            images, masks = self.resident
            places = torch.from_numpy(rows).to(images.device)
            return images[places], self.targets(rows).to(device) if masks is None else masks[places].long()
        images, targets = torch.from_numpy(self.images[rows]), self.targets(rows)
        if device.type == "cuda":  # from pinned memory the GPU fetches by itself
            images, targets = images.pin_memory(), targets.pin_memory()
        return images.to(device, non_blocking=True), targets.to(device, non_blocking=True)


@dataclass(frozen=True)
class Batch:
    x: Tensor  # (B, 3, S, S) float32 in [0, 1]
    y: Tensor  # (B,) int64, (B, 14) float32 or (B, S, S) int64
    index: (
        Tensor  # (B,) int64 on the CPU: in evaluation the sample's row in the list, in training its place in the epoch
    )
    whole: int = 0  # training: the images of this batch in all processes together
    weight: float = 1.0  # training: of this share's mean loss, so that the processes' mean is the whole batch's

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
        return self.waves(1, 0)

    def waves(self, batches: int, at_most: int, *, skip: int = 0) -> Iterator[Batch]:
        """The same rows but for the first `skip`, so many batches at a time.

        Fewer where those have more than `at_most` bytes of pixels, but at least one.
        """
        size = self.data.samples.spec.size
        fitting = at_most // (self.batch_size * 3 * size * size * torch.float32.itemsize)
        chunks = _chunks(self.data.rows[skip:], self.batch_size * max(min(batches, fitting), 1))
        for rows, images, y in _on_device(self.data, chunks, self.device):
            yield Batch(to_pixels(images), y, torch.from_numpy(rows))


@dataclass(frozen=True)
class TrainingLoader:
    """As many draws an epoch as there are rows; the last short batch is kept.

    Which rows come, and how each is augmented, depends on the seed and the epoch alone. Of several processes each gets
    its `share` (place, of how many) of every batch: all together see what one would.
    """

    data: ImageData
    batch_size: int
    device: torch.device
    order: Order
    augmentation: Augmentation
    seed: int
    share: tuple[int, int] = (0, 1)

    def __len__(self) -> int:
        return -(-len(self.data) // self.batch_size)

    def epoch(self, number: int, *, skip: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, but for the first `skip`. No share is empty: it would be one image of weight 0."""
        count = len(self.data)
        generator = generator_for(self.seed, "epoch", number)
        drawn = self._draw_rows(generator)
        draws = torch.rand(count, 3, generator=generator, dtype=torch.float64)
        whole = torch.arange(count).split(self.batch_size)[skip:]
        place, of = self.share
        own = [batch.tensor_split(of)[place] for batch in whole]
        index = [share if len(share) else batch[:1] for share, batch in zip(own, whole, strict=True)]
        on_device = _on_device(self.data, (drawn[each.numpy()] for each in index), self.device)
        for batch, share, each, (_, images, y) in zip(whole, own, index, on_device, strict=True):
            pixels = to_pixels(augment(images, self.augmentation, draws[each]))
            yield Batch(pixels, y, each, whole=len(batch), weight=len(share) * of / len(batch))

    def _draw_rows(self, generator: torch.Generator) -> np.ndarray:
        count = len(self.data)
        if self.order == "shuffled":
            return self.data.rows[torch.randperm(count, generator=generator).numpy()]
        labels = self.data.samples.labels[torch.from_numpy(self.data.rows)]
        weights = count / torch.bincount(labels)[labels].double()  # a sample's weight: N / count of its class
        return self.data.rows[torch.multinomial(weights, count, replacement=True, generator=generator).numpy()]


def _copied(array: np.ndarray, device: torch.device) -> Tensor:
    """On the device, piece by piece: the array may be a file that is larger than this machine's memory."""
    copy = torch.empty(array.shape, dtype=torch.uint8, device=device)
    for rows in np.array_split(np.arange(len(array)), max(array.nbytes // _PIECE, 1)):
        copy[torch.from_numpy(rows).to(device)] = torch.from_numpy(array[rows]).to(device)
    return copy


def _on_device(
    data: ImageData, chunks: Iterator[np.ndarray], device: torch.device
) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
    """(rows, images, targets) of each chunk of rows. What a GPU does not hold is read while it works on the last."""
    batches = ((rows, *data.on_device(rows, device)) for rows in chunks)
    return batches if device.type != "cuda" or data.resident else _one_ahead(batches)


def _one_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The items, each made in another thread while the one before is used."""
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(list, islice(items, 1))
        while made := waiting.result():
            waiting = thread.submit(list, islice(items, 1))
            yield made[0]


def _chunks(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
