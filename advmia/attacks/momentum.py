"""MI-FGSM and DI-MI-FGSM, whose adversarial images transfer better to other networks than those of PGD.

Cost for an image: one forward and one backward pass for each step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advmia.attacks.common import Objective, frozen_eval, input_gradient, project
from advmia.budgets import Budget
from advmia.runtime.rng import SampleRng

MOMENTUM = 1.0  # the weight of the earlier gradients, mu in Dong et al. 2018
DIVERSE_SHARE = 0.5  # of the passes see a transformed image, p in Xie et al. 2019
SMALLEST = 0.9  # of the image's sides, to which it may be shrunk


@dataclass(frozen=True)
class MomentumAscent:
    """Steps along the sign of the sum of all gradients so far, each divided by its mean magnitude, from x itself.

    Dong et al., Boosting Adversarial Attacks with Momentum, CVPR 2018, algorithm 1. With `diverse`, each gradient is
    with probability 0.5 that of a randomly shrunk and padded image (Xie et al., Improving Transferability of
    Adversarial Examples with Input Diversity, CVPR 2019). Keeps the contract of `advmia.attacks.common.Attack`.
    """

    budget: Budget
    objective: Objective
    diverse: bool

    def losses(self, classes: int) -> tuple[str, ...]:
        return (self.objective.__name__,)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor:
        x = x.detach()
        x_adv, momentum = x.clone(), torch.zeros_like(x)
        steps = self.budget.steps if self.budget.eps else 0
        placed = placements(x, rng, steps) if self.diverse else []
        with frozen_eval(model):
            for step in range(steps):
                if self.diverse:
                    gradient = diverse_gradient(model, x_adv, y, self.objective, placed[step])
                else:
                    gradient = input_gradient(model, x_adv, y, self.objective)
                momentum = gradient / _mean_magnitude(gradient) + MOMENTUM * momentum
                x_adv = project(x_adv + self.budget.step_size * momentum.sign(), x, self.budget.eps)
        return x_adv


def mifgsm(budget: Budget, objective: Objective) -> MomentumAscent:
    """Returns MI-FGSM, the iterative FGSM with momentum."""
    return MomentumAscent(budget, objective, diverse=False)


def dimifgsm(budget: Budget, objective: Objective) -> MomentumAscent:
    """Returns MI-FGSM with input diversity, called M-DI2-FGSM by Xie et al."""
    return MomentumAscent(budget, objective, diverse=True)


def _mean_magnitude(gradient: Tensor) -> Tensor:
    """Returns the mean of the absolute values of each image, (B, 1, 1, 1); never 0.

    Image by image, so that the sum's order does not depend on the batch.
    """
    means = torch.stack([image.contiguous().abs().mean() for image in gradient])
    return means.clamp(min=torch.finfo(means.dtype).tiny).view(-1, 1, 1, 1)


@dataclass(frozen=True)
class Placement:
    """Where a shrunk image of `height` x `width` pixels lies in a black one of the size that the image had."""

    height: int
    width: int
    top: int
    left: int

    def shrink(self, image: Tensor) -> Tensor:
        """Returns the image (1, C, H, W), shrunk and padded to (1, C, H, W) again."""
        rows, columns = image.shape[2:]
        size = (self.height, self.width)
        shrunk = F.interpolate(image.contiguous(), size=size, mode="bilinear", align_corners=False)
        right, bottom = columns - self.width - self.left, rows - self.height - self.top
        return F.pad(shrunk, (self.left, right, self.top, bottom))

    def restore(self, logits: Tensor) -> Tensor:
        """Returns the part of the logits (1, K, H, W) that belongs to the image, enlarged to (1, K, H, W)."""
        part = logits[:, :, self.top : self.top + self.height, self.left : self.left + self.width]
        return F.interpolate(part.contiguous(), size=logits.shape[2:], mode="bilinear", align_corners=False)


def placements(x: Tensor, rng: SampleRng, steps: int) -> list[list[Placement | None]]:
    """Draws a placement for each step and each image of x (B, C, H, W), from the image's own stream.

    None: the image stays as it is. All steps are drawn at once, because the host needs the numbers, for which it waits
    for a GPU.
    """
    drawn = rng.uniform(x.new_empty(len(x), steps, 4)).transpose(0, 1).tolist()
    return [[_placement(x, *numbers) for numbers in of_step] for of_step in drawn]


def _placement(x: Tensor, chance: float, size: float, down: float, across: float) -> Placement | None:
    """Maps numbers in [0, 1) to the placement of an image of x."""
    rows, columns = x.shape[2:]
    height, width = (shrunk_side(side, size) for side in (rows, columns))
    placement = Placement(height, width, int(down * (rows - height)), int(across * (columns - width)))
    return placement if chance < DIVERSE_SHARE else None


def shrunk_side(side: int, uniform: float) -> int:
    """Maps a number in [0, 1) evenly to the lengths from 90 % of `side`, rounded down, to `side` - 1; at least 1."""
    least = int(SMALLEST * side)
    return max(least + int(uniform * (side - least)), 1)


def diverse_gradient(
    model: nn.Module, x: Tensor, y: Tensor, objective: Objective, placed: Sequence[Placement | None]
) -> Tensor:
    """Returns the gradient with respect to x, in its shape, of the objective of the placed images.

    Logits of masks are put back to where the pixels were, so that they are compared with the masks as they are.
    """
    size = max(getattr(model, "block_size", len)(x), 1)  # a block at a time, as in `value_and_gradient`
    parts = []
    for first in range(0, len(x), size):
        block = slice(first, first + size)
        parts.append(_block_gradient(model, x[block], y[block], objective, placed[block]))
    return torch.cat(parts)


def _block_gradient(
    model: nn.Module, x: Tensor, y: Tensor, objective: Objective, placed: Sequence[Placement | None]
) -> Tensor:
    def of_restored(logits: Tensor, y: Tensor) -> Tensor:
        if logits.dim() == 4:
            pairs = zip(logits.float().split(1), placed, strict=True)
            logits = torch.cat([part if place is None else place.restore(part) for part, place in pairs])
        return objective(logits, y)

    leaf = x.detach().requires_grad_(True)
    with torch.enable_grad():
        pairs = zip(leaf.split(1), placed, strict=True)
        seen = torch.cat([image if place is None else place.shrink(image) for image, place in pairs])
    (gradient,) = torch.autograd.grad(seen, leaf, input_gradient(model, seen, y, of_restored))
    return gradient
