"""Random numbers that depend on the sample, not on its batch.

Each sample of a batch has a random stream of its own. The stream's seed comes from the purpose of the draw and the
sample's index, such as (seed, attack, eps, index). An image's noise therefore does not depend on the batch size, the
order of the images, or the number of processes. What is drawn once for a whole batch, such as the eps of a training
step, comes from a generator of the batch, whose seed is made of the purpose and the batch's number.

The streams of a batch are drawn together, by a counter-based generator (`advmia.runtime.splitmix`), and their numbers
are the same to the bit on CPUs and on every model of GPU.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from advmia.runtime import splitmix
from advmia.runtime.devices import to_device

# What results and trainings record of the numbers that samples draw. Another algorithm needs another name.
GENERATOR = "splitmix64"


def seed_from(*key: object) -> int:
    """Returns a 63-bit seed, a hash of the key's repr, so that 8 and 8.0 are different keys.

    torch's CPU generator uses the lower 32 bits only.
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator_for(*key: object) -> torch.Generator:
    """Returns a new generator of the CPU, whose numbers depend on `key` only."""
    return torch.Generator().manual_seed(seed_from(*key))


class SampleRng:
    """One random stream for each sample of a batch, on one device, and one for the batch as a whole."""

    def __init__(
        self, seeds: Tensor, batch: torch.Generator, states: Tensor | None = None, rows: Tensor | None = None
    ) -> None:
        """`seeds`: (N,) int64. By default each stream is at its beginning, which its seed says.

        `states`: where the streams are (N,) int64, changed by every draw. `rows`: those streams that are this object's.
        """
        self._seeds, self._batch = seeds, batch
        self._states = seeds.clone() if states is None else states
        self._rows = torch.arange(len(seeds), device=seeds.device) if rows is None else rows

    @classmethod
    def of(
        cls, *scope: object, samples: Iterable[int], batch: int = 0, device: torch.device | str = "cpu"
    ) -> SampleRng:
        """Returns new streams for the samples with these indices; `scope` is their purpose, e.g. (seed, "pgd", eps).

        `batch`: the number of the batch, where numbers are drawn for whole batches.
        """
        seeds = torch.tensor([seed_from(*scope, int(sample)) for sample in samples], dtype=torch.int64)
        return cls(to_device(seeds, torch.device(device)), generator_for(*scope, "batch", batch))

    @property
    def seeds(self) -> Tensor:
        """The streams' seeds, (B,) int64. They do not change as numbers are drawn."""
        return self._seeds[self._rows]

    def take(self, indices: Tensor) -> SampleRng:
        """Returns the streams at different indices of the batch, (n,) int64. They are shared with this object."""
        return SampleRng(self._seeds, self._batch, self._states, self._rows[indices])

    def batch_uniform(self) -> float:
        """Returns a uniform number in [0, 1) for the whole batch: the same in each process that has a share of it."""
        return float(torch.rand((), generator=self._batch, dtype=torch.float64))

    def restart(self, number: int) -> SampleRng:
        """Returns new streams for the same samples, for an attack's further start `number`, from 0.

        They depend on the seeds of these streams and on `number`, not on how much was drawn already.
        """
        # A word before the stream's first one: no draw gets it.
        seeds = splitmix.next_words(self.seeds, 1, first=-1 - number)[:, 0]
        return SampleRng(seeds, generator_for(self._batch.initial_seed(), "restart", number))

    def uniform(self, like: Tensor) -> Tensor:
        """Returns uniform numbers in [0, 1) with the shape, dtype and device of `like`, whose first axis is samples."""
        return self._draw(splitmix.uniform, like)

    def normal(self, like: Tensor) -> Tensor:
        """Returns standard normal numbers with the shape, dtype and device of `like`, whose first axis is samples."""
        return self._draw(splitmix.normal, like)

    def _draw(self, fill: Callable[[Tensor, Tensor], int], like: Tensor) -> Tensor:
        if len(self._rows) != len(like):
            raise ValueError(f"{len(self._rows)} random streams for a batch of {len(like)}")
        numbers = torch.empty(len(like), math.prod(like.shape[1:]), dtype=like.dtype, device=like.device)
        states = self._states[self._rows]
        self._states[self._rows] = splitmix.advance(states, fill(states, numbers))
        numbers = numbers.view(like.shape)
        return numbers if like.is_contiguous() else torch.empty_like(like).copy_(numbers)
