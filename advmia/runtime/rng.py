"""Random numbers that depend on the sample, not on its batch.

Each sample of a batch draws from its own generator. The generator's seed comes from the purpose of the draw and the
sample's index, such as (seed, attack, eps, index). An image's noise therefore does not depend on the batch size, the
order of the images, or the number of processes. What is drawn once for a whole batch, such as the eps of a training
step, comes from a generator of the batch, whose seed is made of the purpose and the batch's number.

On CUDA, torch draws a sample of more values than the GPU has threads in several rounds: then the numbers depend on the
model of the GPU (from 221,184 values on for an A100, 270,336 for an H100).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def seed_from(*key: object) -> int:
    """Returns a 63-bit seed, a hash of the key's repr, so that 8 and 8.0 are different keys.

    torch's CPU generator uses the lower 32 bits only.
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator_for(*key: object, device: torch.device | str = "cpu") -> torch.Generator:
    """Returns a new generator, whose numbers depend on `key` only."""
    return torch.Generator(device=device).manual_seed(seed_from(*key))


class SampleRng:
    """One random stream for each sample of a batch, on one device, and one for the batch as a whole."""

    def __init__(self, generators: list[torch.Generator], batch: torch.Generator) -> None:
        self._generators, self._batch = generators, batch

    @classmethod
    def of(
        cls, *scope: object, samples: Iterable[int], batch: int = 0, device: torch.device | str = "cpu"
    ) -> SampleRng:
        """Returns new streams for the samples with these indices; `scope` is their purpose, e.g. (seed, "pgd", eps).

        `batch`: the number of the batch, where numbers are drawn for whole batches.
        """
        generators = [generator_for(*scope, int(sample), device=device) for sample in samples]
        return cls(generators, generator_for(*scope, "batch", batch))

    def take(self, indices: Tensor) -> SampleRng:
        """Returns the streams at some indices of the batch, (n,) int64. They are shared with this object."""
        return SampleRng([self._generators[index] for index in indices.tolist()], self._batch)

    def batch_uniform(self) -> float:
        """Returns a uniform number in [0, 1) for the whole batch: the same in each process that has a share of it."""
        return float(torch.rand((), generator=self._batch, dtype=torch.float64))

    def restart(self, number: int) -> SampleRng:
        """Returns new streams for the same samples, for an attack's further start `number`.

        They depend on the seeds of these streams and on `number`, not on how much was drawn already.
        """
        generators = [
            generator_for(generator.initial_seed(), "restart", number, device=generator.device)
            for generator in (*self._generators, self._batch)
        ]
        return SampleRng(generators[:-1], generators[-1])

    def uniform(self, like: Tensor) -> Tensor:
        """Returns uniform numbers in [0, 1) with the shape, dtype and device of `like`, whose first axis is samples."""
        return self._draw(torch.rand, like)

    def normal(self, like: Tensor) -> Tensor:
        """Returns standard normal numbers with the shape, dtype and device of `like`, whose first axis is samples."""
        return self._draw(torch.randn, like)

    def _draw(self, draw: Callable[..., Tensor], like: Tensor) -> Tensor:
        if len(self._generators) != len(like):
            raise ValueError(f"{len(self._generators)} random streams for a batch of {len(like)}")
        noise = torch.empty_like(like)
        for sample, generator in zip(noise, self._generators, strict=True):
            sample.copy_(draw(like.shape[1:], generator=generator, dtype=like.dtype, device=like.device))
        return noise
