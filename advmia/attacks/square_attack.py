"""Square attack, L-infinity (Andriushchenko et al. 2020, "Square attack: a query-efficient black-box adversarial attack
via random search", algorithms 1 and 2).

Cost for an image that is never fooled, N queries: N + 1 forward passes, no backward pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from advmia.attacks.common import Objective, fooled, forward, frozen_eval
from advmia.budgets import Budget
from advmia.losses import margin
from advmia.runtime.rng import SampleRng

FIRST_SHARE = 0.8  # p_init: the share of the pixels in the first square
# The share halves after each of these queries (section 5: for 10,000 in all; fewer do not rescale them).
HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_AHEAD = 256  # queries for which random numbers are drawn at once


@dataclass(frozen=True)
class Square:
    """Random squares of +-eps, kept where the margin falls. Contract: `advmia.attacks.steps.Attack`.

    `budget.steps` is the number of queries. `notes["queries"]`: those spent on each image of the last call, without
    the first look at the image itself.
    """

    budget: Budget
    notes: dict[str, Tensor] = field(default_factory=dict, compare=False)
    early_stopping: ClassVar[bool] = True

    def losses(self, classes: int) -> tuple[str, ...]:
        return (margin.__name__,)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor:
        x_adv = x.detach().clone()
        queries = self.notes["queries"] = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        if self.budget.eps == 0:
            return x_adv
        with frozen_eval(model):
            places = (~fooled(forward(model, x_adv), y)).nonzero()[:, 0]
            x, y, best = x_adv[places], y[places], x_adv[places]
            lead = torch.full((len(places),), torch.inf, device=x.device)
            numbers = _Numbers(rng.take(places), x)
            for query in range(self.budget.steps if len(places) else 0):
                new = self._proposal(query, x, best, numbers)
                logits = forward(model, new)
                queries[places] += 1
                is_fooled = fooled(logits, y)
                better = (margin(logits, y) < lead) | is_fooled
                lead = torch.where(better, margin(logits, y), lead)
                best = torch.where(better.view(-1, 1, 1, 1), new, best)
                left = ~is_fooled
                if not left.all():
                    x_adv[places[~left]] = best[~left]
                    places, x, y, best, lead = (each[left] for each in (places, x, y, best, lead))
                    numbers.keep(left)
                    if not len(places):
                        break
            x_adv[places] = best
        return x_adv

    def _proposal(self, query: int, x: Tensor, best: Tensor, numbers: _Numbers) -> Tensor:
        """Vertical stripes first, then `best` with one square anew: each channel at +eps or -eps of x."""
        batch, channels, height, width = x.shape
        if query == 0:
            signs = _signs(numbers.draw(channels * width)).view(batch, channels, 1, width)
            return (x + self.budget.eps * signs).clamp(0, 1)
        side = _side(query, height, width)
        drawn = numbers.ahead()
        top, left = _whole(drawn[:, 0], height - side), _whole(drawn[:, 1], width - side)  # (B, 1)
        rows, columns = (torch.arange(length, device=x.device) for length in (height, width))
        inside = ((rows >= top) & (rows < top + side))[:, :, None] & ((columns >= left) & (columns < left + side))[
            :, None
        ]
        signs = _signs(drawn[:, 2:]).view(batch, channels, 1, 1)
        return torch.where(inside[:, None], (x + self.budget.eps * signs).clamp(0, 1), best)


class _Numbers:
    """Uniform numbers of each image still attacked, from its own stream."""

    def __init__(self, rng: SampleRng, x: Tensor) -> None:
        self._rng, self._x = rng, x
        self._ready = x.new_empty(len(x), 0, 0)

    def draw(self, *shape: int) -> Tensor:
        return self._rng.uniform(self._x.new_empty(len(self._x), *shape))

    def ahead(self) -> Tensor:
        """(B, 2 + C) numbers for one query; drawn for many at once, since a stream at a time is slow."""
        if not self._ready.shape[1]:
            self._ready = self.draw(_AHEAD, 2 + self._x.shape[1])
        numbers, self._ready = self._ready[:, 0], self._ready[:, 1:]
        return numbers

    def keep(self, which: Tensor) -> None:
        self._rng, self._x, self._ready = self._rng.take(which.nonzero()[:, 0]), self._x[which], self._ready[which]


def _side(query: int, height: int, width: int) -> int:
    """The square's side in pixels."""
    share = FIRST_SHARE / 2 ** sum(query > end for end in HALVED_AFTER)
    return min(max(round(math.sqrt(share * height * width)), 1), height, width)


def _whole(uniform: Tensor, most: int) -> Tensor:
    """Evenly one of 0 ... most, (B, 1) int64, from numbers (B,) in [0, 1)."""
    return (uniform * (most + 1)).long().clamp(max=most)[:, None]


def _signs(uniform: Tensor) -> Tensor:
    return torch.where(uniform < 0.5, -1.0, 1.0)


def square(budget: Budget, objective: Objective) -> Square:
    """The Square attack; it descends the margin, whatever the objective."""
    return Square(budget)
