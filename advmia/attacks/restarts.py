"""Attacks with random restarts: several random starts, of which the worst one is kept image by image."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from advmia.attacks.common import EvaluationAttack, Objective, choose, forward, frozen_eval, misclassified
from advmia.runtime.precision import fp32_only
from advmia.runtime.rng import SampleRng


@dataclass(frozen=True)
class Restarts:
    """Runs an attack from several random starts and returns, for each image, the adversarial image of the worst one.

    With single labels that is the first start that fools the network, or start 0 if none does; images that are fooled
    are not attacked again. With findings and masks it is the start with the highest loss. Start 0 draws the numbers
    that the attack draws by itself; each further start has random streams of its own, so that more starts begin like
    fewer. `notes` holds the start of each image of the last call as "start". Keeps the contract of
    `advmia.attacks.common.Attack`.

    Cost: that of the attack for each start, and one forward pass for each.
    """

    attack: EvaluationAttack  # starts at a random point
    objective: Objective  # the loss that the attack ascends
    count: int  # of starts, the first one included
    notes: dict[str, Tensor] = field(default_factory=dict, compare=False)

    def losses(self, classes: int) -> tuple[str, ...]:
        return self.attack.losses(classes)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor:
        x_adv = self.attack(model, x, y, rng=rng)
        start = self.notes["start"] = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        worth = self._worth(model, x_adv, y)
        for number in range(1, self.count):
            left = (worth < 1 if _is_single_label(y) else torch.ones_like(worth, dtype=torch.bool)).nonzero()[:, 0]
            if not len(left):
                break
            candidates = self.attack(model, x[left], y[left], rng=rng.take(left).restart(number))
            new_worth = self._worth(model, candidates, y[left])
            worse = new_worth > worth[left]
            x_adv[left] = choose(worse, candidates, x_adv[left])
            worth[left] = torch.where(worse, new_worth, worth[left])
            start[left] = torch.where(worse, number, start[left])
        return x_adv

    def _worth(self, model: nn.Module, x_adv: Tensor, y: Tensor) -> Tensor:
        """Returns what a start is worth on each image, (B,): with single labels 1 if it fools, else 0; or the loss."""
        # Rounded to bf16, some images would seem to be fooled that are not when they are scored.
        is_rounded = torch.is_autocast_enabled(x_adv.device.type)
        with frozen_eval(model), fp32_only(x_adv.device) if is_rounded else nullcontext():
            logits = forward(model, x_adv)
        return misclassified(logits, y).float() if _is_single_label(y) else self.objective(logits, y)


def _is_single_label(y: Tensor) -> bool:
    """Returns whether targets are one class for each image; findings and masks have more dimensions."""
    return y.dim() == 1


def with_restarts(attack: EvaluationAttack, objective: Objective, count: int) -> EvaluationAttack:
    """Returns the attack with `count` random starts; for one start the attack itself."""
    return attack if count == 1 else Restarts(attack, objective, count)
