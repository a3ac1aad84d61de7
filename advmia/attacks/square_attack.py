"""The Square attack, L-infinity (Andriushchenko et al. 2020, "Square attack: a query-efficient black-box adversarial
attack via random search", algorithms 1 and 2).

Cost of N queries, for an image that is never misclassified: N + 1 forward passes, no backward pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from advmia.attacks.common import Objective, choose, forward, frozen_eval, misclassified
from advmia.attacks.square_memory import SquareMemory, shifted
from advmia.budgets import Budget
from advmia.losses import margin
from advmia.runtime.rng import SampleRng

FIRST_SHARE = 0.8  # p_init in the paper: the first square's share of the image
# The share halves after each of these queries. They are section 5's for 10,000 queries, whatever the number of queries.
HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_QUERIES_DRAWN = 256  # queries for which random numbers are drawn at once


@dataclass(frozen=True)
class Square:
    """Tries random squares of plus or minus eps, and keeps those that lower the margin.

    `budget.steps` is the number of queries. `notes["queries"]`: the number of queries for each image of the last call,
    without the first forward pass, of the image itself. Keeps the contract of `advmia.attacks.common.Attack`.

    With a `memory`, images whose result it holds are not attacked again.
    """

    budget: Budget
    memory: SquareMemory | None = field(default=None, compare=False)
    notes: dict[str, Tensor] = field(default_factory=dict, compare=False)
    early_stopping: ClassVar[bool] = True

    def losses(self, classes: int) -> tuple[str, ...]:
        return (margin.__name__,)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor:
        rng = rng.restart(0)  # whose numbers do not depend on what AutoAttack has drawn before
        if self.memory is None or not self.budget.eps:
            x_adv, self.notes["queries"] = self._search(model, x, y, rng)
            return x_adv

        def search(indices: Tensor) -> tuple[Tensor, Tensor]:
            return self._search(model, x[indices], y[indices], rng.take(indices))

        keys = [(self.budget.steps, seed) for seed in rng.seeds.tolist()]
        x_adv, self.notes["queries"] = self.memory.complete(keys, x, self.budget.eps, search)
        return x_adv

    def _search(self, model: nn.Module, x: Tensor, y: Tensor, rng: SampleRng) -> tuple[Tensor, Tensor]:
        """Returns x_adv and the number of queries of each image, (B,) int64."""
        x_adv = x.detach().clone()
        queries = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        if self.budget.eps == 0:
            return x_adv, queries
        with frozen_eval(model):
            indices = (~misclassified(forward(model, x_adv), y)).nonzero()[:, 0]
            x, y, best = x_adv[indices], y[indices], x_adv[indices]
            lowest_margin = torch.full((len(indices),), torch.inf, device=x.device)
            numbers = QueryNumbers(rng.take(indices), x)
            for query in range(self.budget.steps if len(indices) else 0):
                proposal = self.propose(query, x, best, numbers)
                logits = forward(model, proposal)
                queries[indices] += 1
                succeeded = misclassified(logits, y)
                better = (margin(logits, y) < lowest_margin) | succeeded
                lowest_margin = torch.where(better, margin(logits, y), lowest_margin)
                best = choose(better, proposal, best)
                remaining = ~succeeded
                if not remaining.all():
                    x_adv[indices[succeeded]] = best[succeeded]
                    indices, x, y, best, lowest_margin = (
                        values[remaining] for values in (indices, x, y, best, lowest_margin)
                    )
                    numbers.keep(remaining)
                    if not len(indices):
                        break
            x_adv[indices] = best
        return x_adv, queries

    def propose(self, query: int, x: Tensor, best: Tensor, numbers: QueryNumbers) -> Tensor:
        """Returns the images of a query: vertical stripes for query 0, then `best` with a new square.

        In the stripes and in the square, each channel is x plus eps or x minus eps.
        """
        batch, channels, height, width = x.shape
        if query == 0:
            signs = _signs(numbers.draw(channels * width)).view(batch, channels, 1, width)
            return shifted(x, signs, self.budget.eps)
        side = side_length(query, height, width)
        uniform = numbers.next()
        top, left = random_integers(uniform[:, 0], height - side), random_integers(uniform[:, 1], width - side)
        rows, columns = (torch.arange(length, device=x.device) for length in (height, width))
        inside_rows, inside_columns = (rows >= top) & (rows < top + side), (columns >= left) & (columns < left + side)
        inside = inside_rows[:, :, None] & inside_columns[:, None]  # (B, H, W)
        signs = _signs(uniform[:, 2:]).view(batch, channels, 1, 1)
        return torch.where(inside[:, None], shifted(x, signs, self.budget.eps), best)


class QueryNumbers:
    """Uniform numbers for the images that are still under attack, each from the image's own stream."""

    def __init__(self, rng: SampleRng, x: Tensor) -> None:
        self._rng, self._x = rng, x
        self._ready = x.new_empty(len(x), 0, 0)

    def draw(self, *shape: int) -> Tensor:
        """Returns new numbers in [0, 1), (B, *shape)."""
        return self._rng.uniform(self._x.new_empty(len(self._x), *shape))

    def next(self) -> Tensor:
        """Returns the numbers (B, 2 + C) of the next query.

        They are drawn for many queries at once, because each draw takes some 25 operators.
        """
        if not self._ready.shape[1]:
            self._ready = self.draw(_QUERIES_DRAWN, 2 + self._x.shape[1])
        numbers, self._ready = self._ready[:, 0], self._ready[:, 1:]
        return numbers

    def keep(self, mask: Tensor) -> None:
        """Drops the images that are not in the mask (B,) bool."""
        self._rng, self._x, self._ready = self._rng.take(mask.nonzero()[:, 0]), self._x[mask], self._ready[mask]


def side_length(query: int, height: int, width: int) -> int:
    """Returns the side of a query's square in pixels."""
    share = FIRST_SHARE / 2 ** sum(query > end for end in HALVED_AFTER)
    return min(max(round(math.sqrt(share * height * width)), 1), height, width)


def random_integers(uniform: Tensor, highest: int) -> Tensor:
    """Maps numbers (B,) in [0, 1) evenly to the integers 0 to `highest` inclusive, (B, 1) int64."""
    return (uniform * (highest + 1)).long().clamp(max=highest)[:, None]


def _signs(uniform: Tensor) -> Tensor:
    return torch.where(uniform < 0.5, -1.0, 1.0)


def square(budget: Budget, objective: Objective) -> Square:
    """Returns the Square attack. It ignores `objective` and descends the margin."""
    return Square(budget)
