"""Randomness that belongs to the sample, not to the batch.

Each sample of a batch draws from a generator of its own, seeded by what the draw is for (seed, attack, eps, sample
index). So an image's noise does not depend on the batch size, the order, or on how many processes share the work."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def seed_from(*key: object) -> int:
    """A 63-bit seed (of which torch's CPU generator uses 32) from the key's repr: 8 and 8.0 are different keys."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator_for(*key: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator whose stream depends on `key` alone."""
    return torch.Generator(device=device).manual_seed(seed_from(*key))


class SampleRng:
    """One random stream per sample of a batch, on one device."""

    def __init__(self, generators: list[torch.Generator]) -> None:
        self._generators = generators

    @classmethod
    def of(cls, *scope: object, samples: Iterable[int], device: torch.device | str = "cpu") -> SampleRng:
        """Streams for the samples numbered `samples`, for the purpose `scope`, e.g. `(seed, "pgd", eps)`."""
        return cls([generator_for(*scope, int(sample), device=device) for sample in samples])

    def take(self, places: Tensor) -> SampleRng:
        """The streams at some places of the batch, (n,) int64; they go on where the batch's have got to."""
        return SampleRng([self._generators[place] for place in places.tolist()])

    def uniform(self, like: Tensor) -> Tensor:
        """Uniform in [0, 1), shape, dtype and device of `like`, whose first axis is the samples."""
        return self._draw(torch.rand, like)

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal, shape, dtype and device of `like`, whose first axis is the samples."""
        return self._draw(torch.randn, like)

    def _draw(self, draw: Callable[..., Tensor], like: Tensor) -> Tensor:
        if len(self._generators) != len(like):
            raise ValueError(f"{len(self._generators)} random streams for a batch of {len(like)}")
        noise = torch.empty_like(like)
        for row, generator in zip(noise, self._generators, strict=True):
            row.copy_(draw(like.shape[1:], generator=generator, dtype=like.dtype, device=like.device))
        return noise
