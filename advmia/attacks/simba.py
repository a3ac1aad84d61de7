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

from advmia.attacks.steps import Objective, fooled, forward, frozen_eval
from advmia.budgets import Budget
from advmia.losses import log_odds
from advmia.rng import SampleRng


@dataclass(frozen=True)
class SimBA:
    """Steps of eps along random directions of the DCT basis of the whole image, kept where the true class loses.

    **eps is the size of a step, not a bound**: the result is in [0, 1] but may be further than eps from x; evaluations
    report how far. `budget.steps` is the number of directions. `notes["queries"]`: those spent on each image of the
    last call, without the first look at the image itself. Otherwise as `advmia.attacks.steps.Attack`.
    """

    budget: Budget
    notes: dict[str, Tensor] = field(default_factory=dict, compare=False)
    drops_images: ClassVar[bool] = True

    def losses(self, classes: int) -> tuple[str, ...]:
        return (log_odds.__name__,)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor:
        x_adv = x.detach().clone()
        queries = self.notes["queries"] = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        if self.budget.eps == 0:
            return x_adv
        with frozen_eval(model):
            logits = forward(model, x_adv)
            places = (~fooled(logits, y)).nonzero()[:, 0]
            run = _Run(model, x_adv[places], y[places], log_odds(logits, y)[places], self.budget.eps)
            order = _directions(x_adv[places], self.budget.steps, rng.take(places))
            for direction in range(order.shape[1] if len(places) else 0):
                queries[places] += run.try_direction(order[:, direction])
                left = ~run.is_fooled
                if not left.all():
                    x_adv[places] = run.now
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
    """The images still attacked, and the sum of the steps kept so far.

    Images are stored as (B, H, W, C), the layout in which networks take them fastest: a step changes one channel of
    each image where it stands, and nothing else is copied.
    """

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, odds: Tensor, eps: float) -> None:
        self.model, self.y, self.odds, self.eps = model, y, odds, eps
        self.x = x.permute(0, 2, 3, 1).contiguous()
        self.images, self.steps = self.x.clone(), torch.zeros_like(self.x)
        self.is_fooled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.height_basis, self.width_basis = (cosines(length).to(x) for length in x.shape[2:])

    @property
    def now(self) -> Tensor:
        return self.images.permute(0, 3, 1, 2)

    def try_direction(self, coefficient: Tensor) -> Tensor:
        """One step back or forth along coefficient (B,) of each image, if either helps; the queries spent, (B,)."""
        _, height, width, _ = self.x.shape
        channel = coefficient // (height * width)
        row, column = coefficient % (height * width) // width, coefficient % width
        # The inverse DCT of one coefficient is an outer product of two cosines, in one channel.
        step = self.eps * self.height_basis[row][:, :, None] * self.width_basis[column][:, None, :]  # (B, H, W)
        back = torch.arange(len(self.x), device=self.x.device)
        helped = self._probe(back, channel, -step)
        forth = (~helped).nonzero()[:, 0]
        if len(forth):
            self._probe(forth, channel[forth], step[forth])
        return 1 + (~helped).long()

    def _probe(self, places: Tensor, channel: Tensor, step: Tensor) -> Tensor:
        """Which of the images at `places` lose odds by the step; it is kept for those."""
        planes = (places, slice(None), slice(None), channel)
        earlier, moved = self.images[planes], self.steps[planes] + step
        self.images[planes] = (self.x[planes] + moved).clamp_(0, 1)
        logits = forward(self.model, self.now if len(places) == len(self.x) else _images(self.images, places))
        odds = log_odds(logits, self.y[places])
        helps = odds < self.odds[places]
        self.images[planes] = torch.where(helps[:, None, None], self.images[planes], earlier)
        self.steps[planes] = torch.where(helps[:, None, None], moved, self.steps[planes])
        kept = places[helps]
        self.odds[kept] = odds[helps]
        self.is_fooled[kept] = fooled(logits, self.y[places])[helps]
        return helps

    def keep(self, which: Tensor) -> None:
        for name in ("x", "y", "odds", "images", "steps", "is_fooled"):
            setattr(self, name, getattr(self, name)[which])


def _images(stored: Tensor, places: Tensor) -> Tensor:
    """Some of the images (B, H, W, C), as (n, C, H, W)."""
    return stored[places].permute(0, 3, 1, 2)


def cosines(length: int) -> Tensor:
    """The orthonormal DCT-II basis, (length, length) float32: row k is the k-th cosine, of unit L2 norm."""
    places, frequency = torch.arange(length).double() + 0.5, torch.arange(length).double()
    basis = torch.cos(math.pi / length * frequency[:, None] * places) * math.sqrt(2 / length)
    basis[0] /= math.sqrt(2)
    return basis.float()


def _directions(x: Tensor, count: int, rng: SampleRng) -> Tensor:
    """The first `count` of each image's coefficients in random order, (B, count) int64; none is tried twice."""
    numbers = rng.uniform(x).flatten(1)
    return numbers.topk(min(count, numbers.shape[1]), dim=1).indices
