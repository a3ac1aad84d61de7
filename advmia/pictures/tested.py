"""A network as it was tested, with which chosen images of the list can be attacked again, as they were scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from advmia.data.loading import EvaluationLoader, ImageData
from advmia.evaluation.attacked import AttackRun, evaluation_options
from advmia.evaluation.loop import AttackedBatch, evaluate
from advmia.losses import log_odds
from advmia.results.rows import ResultRow
from advmia.runtime import distributed
from advmia.runtime.precision import Precision
from advmia.runtime.terminal import say
from advmia.tasks import Task

Item = TypeVar("Item")
_TOLERANCE = 0.01  # of logits, Dice and IoU: a GPU rounds differently in batches of another size


@dataclass(frozen=True)
class NetworkUnderTest:
    """The networks of a test, its images, and all else on which the attacked images depend."""

    task: Task
    target: nn.Module
    source: nn.Module | None  # on which the attacks run; None: the target
    loader: EvaluationLoader  # of the whole list
    precision: Precision
    seed: int

    @property
    def data(self) -> ImageData:
        return self.loader.data

    def attack_again(
        self,
        run: AttackRun | None,
        indices: Sequence[int] | np.ndarray,
        keep: Callable[[AttackedBatch], None],
        row: ResultRow | None = None,
    ) -> None:
        """Attacks the images at these indices of the list again, or takes them clean without `run` (collective).

        Each rank gets its share of the images, and `keep` its batches. The random numbers of an image depend on its
        index, the attack and eps, so these are the images that a test has scored. `row`: the result row of the attack;
        says so if their outcomes are others.
        """
        data = replace(self.data, indices=np.array(indices, dtype=np.int64))
        shard = data.shard(distributed.rank(), distributed.world_size())
        options = replace(evaluation_options(run, self.seed, self.precision), keep=keep, is_test=False)
        attack = run.build(self.task) if run else None
        loader = replace(self.loader, data=shard)
        found = evaluate(self.target, loader, self.task, attack, source=self.source, options=options)
        if row is not None and run is not None:
            scored = torch.tensor([row.outcomes[index] for index in indices])
            differs = ~torch.isclose(found.outcomes.double(), scored.double(), rtol=_TOLERANCE, atol=_TOLERANCE)
            count = int(differs.reshape(len(indices), -1).any(dim=1).sum())
            if count:
                say(
                    f"{options.title}: {count} of {len(indices)} images that were attacked again have another outcome"
                    " than in the results: other versions of packages, or a GPU, round differently"
                )

    @cached_property
    def clean_log_odds(self) -> Tensor:
        """The log odds of the true class of each clean image, (N,) float64; one pass over the list (collective)."""
        odds: dict[int, float] = {}

        def keep(clean: AttackedBatch) -> None:
            values = log_odds(clean.logits, clean.batch.y).tolist()
            odds.update(zip(clean.batch.index.tolist(), values, strict=True))

        self.attack_again(None, self.data.indices, keep)
        of_all = _merged(odds)
        return torch.tensor([of_all[index] for index in self.data.indices.tolist()], dtype=torch.float64)


@dataclass(frozen=True)
class KeptImage:
    """One image, clean or attacked, and what the target says of it; on the CPU."""

    x: Tensor  # (C, H, W) float32 in [0, 1]
    logits: Tensor  # (...)


def kept_images(
    tested: NetworkUnderTest,
    run: AttackRun | None,
    indices: Sequence[int],
    *,
    row: ResultRow | None = None,
    shown: Callable[[int], int] = lambda index: 0,
) -> dict[int, KeptImage]:
    """Returns images by their index in the list, attacked again, or clean without `run` (collective).

    `row`: see `NetworkUnderTest.attack_again`. `shown`: takes an image's index and returns which attacked image is
    meant where there is one against each finding.
    """
    kept: dict[int, KeptImage] = {}

    def keep(attacked: AttackedBatch) -> None:
        for position, index in enumerate(attacked.batch.index.tolist()):
            images = attacked.images[shown(index) if len(attacked.images) > 1 else 0]
            kept[index] = KeptImage(images[position].cpu(), attacked.logits[position].cpu())

    tested.attack_again(run, indices, keep, row)
    return _merged(kept)


def _merged(share: dict[int, Item]) -> dict[int, Item]:
    """Returns what all ranks hold, by index (collective)."""
    return {index: item for items in distributed.all_gather(share) for index, item in items.items()}
