"""FAB-T: the fast adaptive boundary attack towards given classes (Croce and Hein 2020b, "Minimally distorted
adversarial examples with a fast adaptive boundary attack", section 3), L-infinity, one restart from x itself.

Cost for an image that is never fooled within eps, N steps and min(9, K - 1) targets: 2 N forward and N backward passes
a target, and one forward pass before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from advmia.attacks.auto_pgd import likeliest_wrong
from advmia.attacks.common import Objective, fooled, forward, frozen_eval, on_right_images, value_and_gradient
from advmia.budgets import Budget
from advmia.losses import margin, targeted_margin
from advmia.runtime.precision import fp32_only
from advmia.runtime.rng import SampleRng

OVERSHOOT = 1.05  # eta
LARGEST_BIAS = 0.1  # alpha_max: how much of a step may lead back towards x
BACKWARD = 0.9  # beta: how far from x, as a share, the search goes on once it is over the boundary


@dataclass(frozen=True)
class TargetedFAB:
    """Walks along the decision boundary as near to x as it can, until it is over it within eps.

    An image for which no such point is found is returned as it is. Always in float32, since tf32 moves the boundary
    that it closes in on. Contract: `advmia.attacks.steps.Attack`.
    """

    budget: Budget
    early_stopping: ClassVar[bool] = True

    def losses(self, classes: int) -> tuple[str, ...]:
        return (targeted_margin.__name__,)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor:
        if self.budget.eps == 0:
            return x.detach().clone()
        with fp32_only(x.device), frozen_eval(model):
            return on_right_images(model, x, y, rng, lambda x, y, logits, _: self._towards_all(model, x, y, logits))

    def _towards_all(self, model: nn.Module, x: Tensor, y: Tensor, logits: Tensor) -> Tensor:
        x_adv, left = x.clone(), torch.arange(len(x), device=x.device)
        for target in likeliest_wrong(logits, y).unbind(dim=1):
            if len(left):
                pair = torch.stack([y, target], dim=1)[left]
                found, done = self._towards(model, x[left], pair)
                x_adv[left[done]] = found[done]
                left = left[~done]
        return x_adv

    def _towards(self, model: nn.Module, x: Tensor, pair: Tensor) -> tuple[Tensor, Tensor]:
        """(points (B, C, H, W), which (B,) are fooled within eps); pair (B, 2) int64 of label and target."""
        x_adv, is_done = x.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
        places, now = torch.arange(len(x), device=x.device), x
        for _ in range(self.budget.steps):
            _, lead, gradient = value_and_gradient(model, now, pair, targeted_margin)
            found = _step(now, x, gradient, lead)
            logits = forward(model, found)
            is_near = (found - x).abs().flatten(1).amax(dim=1) <= self.budget.eps
            reached = fooled(logits, pair[:, 0]) & is_near
            x_adv[places[reached]] = found[reached]
            is_done[places[reached]] = True
            # From over the boundary the search goes on nearer to x. Over by a hair is over here: as the steps close in
            # on the boundary they end less and less far over it, and one that waits for a clear margin stays there.
            is_over = margin(logits, pair[:, 0]) <= 0
            now = torch.where(is_over.view(-1, 1, 1, 1), x + BACKWARD * (found - x), found)
            places, x, pair, now = (each[~reached] for each in (places, x, pair, now))
            if not len(places):
                break
        return x_adv, is_done


def fab_t(budget: Budget, objective: Objective) -> TargetedFAB:
    """FAB-T; it ascends no given objective, but looks for the nearest boundary."""
    return TargetedFAB(budget)


def _step(now: Tensor, x: Tensor, gradient: Tensor, lead: Tensor) -> Tensor:
    """The next point (equations 8 to 10): a step to the linearised boundary, with a bias towards x."""
    from_now = to_plane(now, gradient, lead)
    # In float64: a float32 sum is rounded otherwise where the batch is one image.
    back = (gradient * (x - now)).flatten(1).sum(dim=1, dtype=torch.float64)
    from_x = to_plane(x, gradient, lead.double() + back)
    way_now, way_x = (way.abs().flatten(1).amax(dim=1) for way in (from_now, from_x))
    bias = (way_now / (way_now + way_x).clamp(min=1e-12)).clamp(max=LARGEST_BIAS).view(-1, 1, 1, 1)
    return ((1 - bias) * (now + OVERSHOOT * from_now) + bias * (x + OVERSHOOT * from_x)).clamp(0, 1)


def to_plane(point: Tensor, normal: Tensor, value: Tensor) -> Tensor:
    """The smallest L-infinity step from a point in [0, 1] to the plane where value + <normal, step> = 0, within [0, 1].

    point, normal: (B, C, H, W); value: (B,). Where the box ends before the plane, the step goes as far as it can.

    Each coordinate moves by r, or to its bound if that is nearer; <normal, step> rises piecewise linearly with r, from
    bound to bound (section 3.1: a sort and a search solve it exactly).
    """
    point, normal, shape = point.flatten(1), normal.flatten(1), point.shape
    way = -value.sign().to(normal.dtype)[:, None] * normal.sign()
    room = torch.where(way > 0, 1 - point, torch.where(way < 0, point, 0))
    bounds, order = room.sort(dim=1)
    slopes = normal.abs().gather(1, order).double()
    passed = (slopes * bounds).cumsum(dim=1)  # gained by the coordinates that have reached their bound
    moving = slopes.sum(dim=1, keepdim=True) - slopes.cumsum(dim=1)  # slope of those that have not
    needed = value.abs().double()[:, None]
    at = torch.searchsorted(passed + bounds * moving, needed).clamp(max=bounds.shape[1] - 1)
    before = torch.where(at > 0, passed.gather(1, (at - 1).clamp(min=0)), 0)
    slope = moving.gather(1, at) + slopes.gather(1, at)
    radius = torch.where(slope > 0, (needed - before) / slope.clamp(min=1e-300), 0)
    return (way * torch.minimum(room, radius.to(room.dtype))).view(shape)
