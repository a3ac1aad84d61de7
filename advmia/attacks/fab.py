"""FAB-T: the fast adaptive boundary attack towards given classes, L-infinity, one restart from x itself (Croce and Hein
2020b, "Minimally distorted adversarial examples with a fast adaptive boundary attack", section 3).

Cost of N steps, for an image that is never misclassified within eps: first one forward pass, then 2 N forward and N
backward passes for each of the min(9, K - 1) targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from advmia.attacks.auto_pgd import likeliest_wrong
from advmia.attacks.common import (
    Objective,
    attack_correct_images,
    choose,
    forward,
    frozen_eval,
    misclassified,
    value_and_gradient,
)
from advmia.budgets import Budget
from advmia.losses import margin, targeted_margin
from advmia.runtime.precision import fp32_only
from advmia.runtime.rng import SampleRng

OVERSHOOT = 1.05  # eta in the paper
LARGEST_BIAS = 0.1  # alpha_max: how much of a step may lead back towards x
BACKWARD = 0.9  # beta: from beyond the boundary, the search continues at this share of the distance from x


@dataclass(frozen=True)
class TargetedFAB:
    """Searches for the misclassified point that is nearest to x, and stops at the first one within eps of x.

    If there is none, the image is returned unchanged. Networks run in float32, because tf32 moves the decision boundary
    that the search approaches. Keeps the contract of `advmia.attacks.common.Attack`.
    """

    budget: Budget
    early_stopping: ClassVar[bool] = True

    def losses(self, classes: int) -> tuple[str, ...]:
        return (targeted_margin.__name__,)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor:
        if self.budget.eps == 0:
            return x.detach().clone()
        with fp32_only(x.device), frozen_eval(model):
            return attack_correct_images(
                model, x, y, rng, lambda x, y, logits, _: self._try_targets(model, x, y, logits)
            )

    def _try_targets(self, model: nn.Module, x: Tensor, y: Tensor, logits: Tensor) -> Tensor:
        x_adv, remaining = x.clone(), torch.arange(len(x), device=x.device)
        for target in likeliest_wrong(logits, y).unbind(dim=1):
            if len(remaining):
                pair = torch.stack([y, target], dim=1)[remaining]
                points, succeeded = self._try_target(model, x[remaining], pair)
                x_adv[remaining] = points  # x itself where there is none
                remaining = remaining[~succeeded]
        return x_adv

    def _try_target(self, model: nn.Module, x: Tensor, pair: Tensor) -> tuple[Tensor, Tensor]:
        """Returns points (B, C, H, W), and which (B,) are misclassified within eps.

        `pair`: (B, 2) int64 of label and target.
        """
        x_adv, succeeded = x.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
        indices, current = torch.arange(len(x), device=x.device), x
        for _ in range(self.budget.steps):
            _, lead, gradient = value_and_gradient(model, current, pair, targeted_margin)
            point = step_to_boundary(current, x, gradient, lead)
            logits = forward(model, point)
            is_near = (point - x).abs().flatten(1).amax(dim=1) <= self.budget.eps
            reached = misclassified(logits, pair[:, 0]) & is_near
            # A point beyond the boundary is moved back towards x. The margin need not be clearly below zero for that:
            # the closer the steps come to the boundary, the less far beyond it they end.
            is_beyond = margin(logits, pair[:, 0]) <= 0
            current = choose(is_beyond, x + BACKWARD * (point - x), point)
            if reached.any():
                x_adv[indices[reached]] = point[reached]
                succeeded[indices[reached]] = True
                indices, x, pair, current = (values[~reached] for values in (indices, x, pair, current))
                if not len(indices):
                    break
        return x_adv, succeeded


def fab_t(budget: Budget, objective: Objective) -> TargetedFAB:
    """Returns FAB-T. It ignores `objective` and looks for the nearest boundary."""
    return TargetedFAB(budget)


def step_to_boundary(current: Tensor, x: Tensor, gradient: Tensor, lead: Tensor) -> Tensor:
    """Returns the next point (equations 8 to 10): a step to the linearised boundary, with a bias towards x.

    current, x, gradient: (B, C, H, W); lead: (B,), the target's logit minus the label's at the current point.
    """
    from_current = to_plane(current, gradient, lead)
    # In float64, because float32 sums are added in another order if the batch is a single image.
    change = (gradient * (x - current)).flatten(1).sum(dim=1, dtype=torch.float64)
    from_x = to_plane(x, gradient, lead.double() + change)
    length_current, length_x = (step.abs().flatten(1).amax(dim=1) for step in (from_current, from_x))
    bias = (length_current / (length_current + length_x).clamp(min=1e-12)).clamp(max=LARGEST_BIAS).view(-1, 1, 1, 1)
    return ((1 - bias) * (current + OVERSHOOT * from_current) + bias * (x + OVERSHOOT * from_x)).clamp(0, 1)


def to_plane(point: Tensor, normal: Tensor, value: Tensor) -> Tensor:
    """Returns the smallest L-infinity step from a point to the plane value + <normal, step> = 0, within [0, 1].

    point, normal: (B, C, H, W); value: (B,). If the plane cannot be reached within [0, 1], the step ends at the bounds.

    Every coordinate moves by the same r, or to its bound if that is nearer. <normal, step> is piecewise linear in r,
    with a corner where a coordinate reaches its bound; so sorting the bounds and searching solves for r exactly
    (section 3.1).
    """
    point, normal, shape = point.flatten(1), normal.flatten(1), point.shape
    direction = -value.sign().to(normal.dtype)[:, None] * normal.sign()
    room = torch.where(direction > 0, 1 - point, torch.where(direction < 0, point, 0))
    bounds, order = room.sort(dim=1)
    slopes = normal.abs().gather(1, order).double()
    at_bound = (slopes * bounds).cumsum(dim=1)  # the share of the coordinates that have reached their bound
    moving = slopes.sum(dim=1, keepdim=True) - slopes.cumsum(dim=1)  # the slope of those that have not
    needed = value.abs().double()[:, None]
    corner = torch.searchsorted(at_bound + bounds * moving, needed).clamp(max=bounds.shape[1] - 1)
    before = torch.where(corner > 0, at_bound.gather(1, (corner - 1).clamp(min=0)), 0)
    slope = moving.gather(1, corner) + slopes.gather(1, corner)
    radius = torch.where(slope > 0, (needed - before) / slope.clamp(min=1e-300), 0)
    return (direction * torch.minimum(room, radius.to(room.dtype))).view(shape)
