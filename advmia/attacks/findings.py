"""Attacks on each finding by itself, for AUROC of each finding under an attack that aims at nothing else.

Cost for an image: that of PGD for each finding, 14 times that of PGD for ChestX-ray14.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advmia.attacks.common import Objective, choose, forward, frozen_eval
from advmia.attacks.gradient import pgd
from advmia.budgets import Budget
from advmia.runtime.rng import SampleRng


@dataclass(frozen=True)
class OneFinding:
    """PGD up the objective of one finding.

    `label_margin` lowers its logit, by which AUROC ranks the images, where it is present, and raises it elsewhere.
    Keeps the contract of `advmia.attacks.common.Attack`.
    """

    budget: Budget
    objective: Objective  # of logits and labels (B, L), for any number L of findings
    finding: int

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor:
        return pgd(self.budget, self._of_the_finding)(model, x, y, rng=rng.restart(self.finding))

    def _of_the_finding(self, logits: Tensor, y: Tensor) -> Tensor:
        column = slice(self.finding, self.finding + 1)
        return self.objective(logits[:, column], y[:, column])


@dataclass(frozen=True)
class EachFinding:
    """PGD against each finding by itself, which gives as many adversarial images of an image as there are findings.

    An evaluation takes the logit of each finding from the image that was made against it (`runs`). Called itself, it
    returns for each image that of them which has the highest objective over all findings. Keeps the contract of
    `advmia.attacks.common.Attack`.
    """

    budget: Budget
    objective: Objective

    def losses(self, classes: int) -> tuple[str, ...]:
        return (self.objective.__name__,)

    def runs(self, findings: int) -> list[OneFinding]:
        """Returns the attack on each of so many findings."""
        return [OneFinding(self.budget, self.objective, finding) for finding in range(findings)]

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor:
        x_adv = x.detach().clone()
        highest = torch.full((len(x),), -torch.inf, device=x.device)
        if self.budget.eps == 0:
            return x_adv
        with frozen_eval(model):
            for run in self.runs(y.shape[1]):
                candidates = run(model, x, y, rng=rng)
                loss = self.objective(forward(model, candidates), y)
                higher = loss > highest
                x_adv, highest = choose(higher, candidates, x_adv), torch.where(higher, loss, highest)
        return x_adv


def pgd_finding(budget: Budget, objective: Objective) -> EachFinding:
    """Returns PGD against each finding by itself."""
    return EachFinding(budget, objective)
