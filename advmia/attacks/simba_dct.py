"""SimBA-DCT (Guo et al. 2019, "Simple black-box adversarial attacks", algorithm 1 with the cosine basis).

Cost for an image that is never fooled, N directions: 1 forward pass to begin with and at most two for each direction;
where the first of the two helps, the second is saved. No backward pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from advmia.attacks.common import Objective, fooled, forward, frozen_eval
from advmia.budgets import Budget
from advmia.losses import log_odds
from advmia.runtime.precision import fp32_only
from advmia.runtime.rng import SampleRng


@dataclass(frozen=True)
class SimBA:
    """Steps of eps along random directions of the DCT basis of the whole image, kept where the true class loses.

    **eps is the size of a step, not a bound**: the result is in [0, 1] but may be further than eps from x; evaluations
    report how far. `budget.steps` is the number of directions. `notes["queries"]`: those spent on each image of the
    last call, without the first look at the image itself. Otherwise as `advmia.attacks.steps.Attack`.

    Always in float32: at 224 pixels and eps 1 a step changes no pixel by more than 4e-5, which tf32 rounds away.
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
            places = (~fooled(logits, y)).nonzero()[:, 0]
            run = _Run(model, x_adv[places], y[places], log_odds(logits, y)[places], self.budget.eps)
            order = _directions(x_adv[places], self.budget.steps, rng.take(places))
            for direction in range(order.shape[1] if len(places) else 0):
                queries[places] += run.try_direction(order[:, direction])
                left = ~run.is_fooled
                if not left.all():
                    x_adv[places[~left]] = run.now[~left]
                    places, order = places[left], order[left]
                    run.keep(left)
                    if not len(places):
                        break
            x_adv[places] = run.now
        return x_adv


def simba(budget: Budget, objective: Objective) -> SimBA:
    """SimBA-DCT; it lowers the true class's probability, whatever the objective."""
    return SimBA(budget)


class _Run:
    """The images still attacked.

    `planes` is x plus the steps kept so far, before it is clipped; a step changes one channel of each image, so that
    channels are kept apart, (B, C, H, W). `images` is what the network sees, clipped, and with the step that is tried:
    (B, H, W, C), as networks take them fastest, and only the changed channel is written into them.
    """

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, odds: Tensor, eps: float) -> None:
        self.model, self.y, self.odds, self.eps = model, y, odds, eps
        self.planes = x.contiguous().clone()
        self.images = x.permute(0, 2, 3, 1).contiguous().clone()
        self.is_fooled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.height_basis, self.width_basis = (cosines(length).to(x) for length in x.shape[2:])

    @property
    def now(self) -> Tensor:
        return self.images.permute(0, 3, 1, 2)

    def try_direction(self, coefficient: Tensor) -> Tensor:
        """One step back or forth along coefficient (B,) of each image, if either helps; the queries spent, (B,)."""
        height, width = self.planes.shape[2:]
        channel = coefficient // (height * width)
        row, column = coefficient % (height * width) // width, coefficient % width
        # The inverse DCT of one coefficient is an outer product of two cosines, in one channel.
        step = self.eps * self.height_basis[row][:, :, None] * self.width_basis[column][:, None, :]  # (B, H, W)
        places = torch.arange(len(self.planes), device=self.planes.device)
        # By `index_select`, which copies planes whole.
        plane = self.planes.flatten(0, 1).index_select(0, places * self.planes.shape[1] + channel)
        queries = torch.ones_like(places)
        left = self._probe(places, channel, plane - step)
        plane, step, channel = (each.index_select(0, left) for each in (plane, step, channel))
        queries[left] += 1
        still = self._probe(left, channel, step.add_(plane))
        neither = torch.isin(left, still)
        self._show(still, channel[neither], plane[neither])
        return queries

    def _probe(self, places: Tensor, channel: Tensor, plane: Tensor) -> Tensor:
        """Tries a plane (n, H, W) in place of each image's; those of `places` that do not lose odds by it.

        They are shown with it all the same.
        """
        if not len(places):
            return places
        self._show(places, channel, plane)
        images = self.images if len(places) == len(self.images) else self.images.index_select(0, places)
        logits = forward(self.model, images.permute(0, 3, 1, 2))
        odds = log_odds(logits, self.y[places])
        helps = odds < self.odds[places]
        kept = places[helps]
        self.planes[kept, channel[helps]] = plane[helps]
        self.odds[kept] = odds[helps]
        self.is_fooled[kept] = fooled(logits, self.y[places])[helps]
        return places[~helps]

    def _show(self, places: Tensor, channel: Tensor, plane: Tensor) -> None:
        """Writes the plane (n, H, W) of this channel into the images."""
        self.images[places, :, :, channel] = plane.clamp(0, 1)

    def keep(self, which: Tensor) -> None:
        for name in ("y", "odds", "images", "planes", "is_fooled"):
            setattr(self, name, getattr(self, name)[which])


def cosines(length: int) -> Tensor:
    """The orthonormal DCT-II basis, (length, length) float32: row k is the k-th cosine, of unit L2 norm."""
    places, frequency = torch.arange(length).double() + 0.5, torch.arange(length).double()
    basis = torch.cos(math.pi / length * frequency[:, None] * places) * math.sqrt(2 / length)
    basis[0] /= math.sqrt(2)
    return basis.float()


def _directions(x: Tensor, count: int, rng: SampleRng) -> Tensor:
    """The first `count` of each image's coefficients in random order, (B, count) int64; none is tried twice."""
    numbers = rng.uniform(x).flatten(1)
    return numbers.argsort(dim=1, descending=True, stable=True)[:, :count]  # some numbers are equal
