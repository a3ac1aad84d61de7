"""SimBA-DCT (Guo et al. 2019, "Simple black-box adversarial attacks", algorithm 1 with the cosine basis).

Cost of N directions, for an image that is never misclassified: first one forward pass, then one or two for each
direction, which is tried backwards, and forwards only if backwards does not help. No backward pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from advmia.attacks.common import Objective, forward, frozen_eval, misclassified
from advmia.budgets import Budget
from advmia.losses import log_odds
from advmia.runtime.precision import fp32_only
from advmia.runtime.rng import SampleRng


@dataclass(frozen=True)
class SimBA:
    """Takes steps of size eps along random DCT directions; keeps those that lower the true class's probability.

    **eps is the size of a step, not a bound**: the result is in [0, 1] but may be further than eps from x; evaluations
    report how far. `budget.steps` is the number of directions. `notes["queries"]`: the number of forward passes for
    each image of the last call, without the first one, of the image itself. Otherwise SimBA keeps the contract of
    `advmia.attacks.common.Attack`.

    Networks run in float32: at 224 pixels and eps 1, no pixel changes by more than 4e-5 in a step, which tf32 would
    round away.
    """

    budget: Budget
    notes: dict[str, Tensor] = field(default_factory=dict, compare=False)
    early_stopping: ClassVar[bool] = True

    def losses(self, classes: int) -> tuple[str, ...]:
        return (log_odds.__name__,)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor:
        x_adv = x.detach().clone()
        queries = self.notes["queries"] = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        if self.budget.eps == 0:
            return x_adv
        with fp32_only(x.device), frozen_eval(model):
            logits = forward(model, x_adv)
            indices = (~misclassified(logits, y)).nonzero()[:, 0]
            run = _Run(model, x_adv[indices], y[indices], log_odds(logits, y)[indices], self.budget.eps)
            order = draw_directions(x_adv[indices], self.budget.steps, rng.take(indices))
            for direction in range(order.shape[1] if len(indices) else 0):
                queries[indices] += run.try_direction(order[:, direction])
                remaining = ~run.succeeded
                if not remaining.all():
                    x_adv[indices[run.succeeded]] = run.x_adv[run.succeeded]
                    indices, order = indices[remaining], order[remaining]
                    run.keep(remaining)
                    if not len(indices):
                        break
            x_adv[indices] = run.x_adv
        return x_adv


def simba(budget: Budget, objective: Objective) -> SimBA:
    """Returns SimBA-DCT. It ignores `objective` and lowers the true class's probability."""
    return SimBA(budget)


class _Run:
    """The state of the images that are still under attack.

    `planes` (B, C, H, W) is x plus the steps kept so far, not clipped. It is contiguous by channel, because a step
    changes one channel of each image. `images` (B, H, W, C) is what the network sees: clipped, with the step that is
    being tried, and in the layout that networks are fastest with. Only the changed channel is written into it.
    """

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, odds: Tensor, eps: float) -> None:
        self.model, self.y, self.odds, self.eps = model, y, odds, eps
        self.planes = x.contiguous().clone()
        self.images = x.permute(0, 2, 3, 1).contiguous().clone()
        self.succeeded = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.height_basis, self.width_basis = (dct_basis(length).to(x) for length in x.shape[2:])

    @property
    def x_adv(self) -> Tensor:
        """The images (B, C, H, W) that the network sees, in [0, 1]; a view of `images`."""
        return self.images.permute(0, 3, 1, 2)

    def try_direction(self, coefficient: Tensor) -> Tensor:
        """Steps backwards or forwards along each image's coefficient (B,), if either helps.

        Returns the number of queries for each image, (B,).
        """
        height, width = self.planes.shape[2:]
        channel = coefficient // (height * width)
        row, column = coefficient % (height * width) // width, coefficient % width
        # The inverse DCT of one coefficient is an outer product of two cosines, in one channel.
        step = self.eps * self.height_basis[row][:, :, None] * self.width_basis[column][:, None, :]  # (B, H, W)
        indices = torch.arange(len(self.planes), device=self.planes.device)
        # `index_select` copies whole planes, which is faster than indexing.
        plane = self.planes.flatten(0, 1).index_select(0, indices * self.planes.shape[1] + channel)
        queries = torch.ones_like(indices)
        forwards = self._try_planes(indices, channel, plane - step)
        plane, step, channel = (values.index_select(0, forwards) for values in (plane, step, channel))
        queries[forwards] += 1
        unhelped = self._try_planes(forwards, channel, step.add_(plane))
        self._show(*(values.index_select(0, unhelped) for values in (forwards, channel, plane)))
        return queries

    def _try_planes(self, indices: Tensor, channel: Tensor, plane: Tensor) -> Tensor:
        """Replaces the channels by the planes (n, H, W) and keeps those that lower the log odds.

        Returns where in `indices` the images are whose odds did not fall. `images` still shows the tried planes there.
        """
        if not len(indices):
            return indices
        self._show(indices, channel, plane)
        images = self.images if len(indices) == len(self.images) else self.images.index_select(0, indices)
        logits = forward(self.model, images.permute(0, 3, 1, 2))
        odds = log_odds(logits, self.y[indices])
        helps = odds < self.odds[indices]
        # Sorted, so that the host waits for a GPU only once: for how many there are.
        order, unhelped = helps.int().argsort(stable=True), int((~helps).sum())
        helped = order[unhelped:]
        kept = indices[helped]
        self.planes[kept, channel[helped]] = plane[helped]
        self.odds[kept] = odds[helped]
        self.succeeded[kept] = misclassified(logits, self.y[indices])[helped]
        return order[:unhelped]

    def _show(self, indices: Tensor, channel: Tensor, plane: Tensor) -> None:
        """Writes the planes (n, H, W) into the channels of `images`, clipped."""
        self.images[indices, :, :, channel] = plane.clamp(0, 1)

    def keep(self, mask: Tensor) -> None:
        """Drops the images that are not in the mask (B,) bool."""
        for name in ("y", "odds", "images", "planes", "succeeded"):
            setattr(self, name, getattr(self, name)[mask])


def dct_basis(length: int) -> Tensor:
    """Returns the orthonormal DCT-II basis, (length, length) float32: row k is the k-th cosine, of L2 norm 1."""
    positions, frequency = torch.arange(length).double() + 0.5, torch.arange(length).double()
    basis = torch.cos(math.pi / length * frequency[:, None] * positions) * math.sqrt(2 / length)
    basis[0] /= math.sqrt(2)
    return basis.float()


def draw_directions(x: Tensor, count: int, rng: SampleRng) -> Tensor:
    """Returns `count` different DCT coefficients of each image in random order, (B, count) int64.

    There are at most C * H * W.
    """
    numbers = rng.uniform(x).flatten(1)
    return numbers.argsort(dim=1, descending=True, stable=True)[:, :count]  # stable, because some numbers are equal
