"""One attack of the registry at one eps, as a test runs it, and the result rows that it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from advmia.attacks import ATTACKS, stream_scope
from advmia.attacks.auto_attack import remembering
from advmia.attacks.common import EvaluationAttack
from advmia.attacks.restarts import with_restarts
from advmia.attacks.square_memory import SquareMemory
from advmia.budgets import Budget
from advmia.evaluation.eight_bits import round_to_8_bits
from advmia.evaluation.loop import EvaluationOptions, result_row
from advmia.evaluation.tally import Evaluation
from advmia.results.rows import CLEAN, ResultRow, RowKey, attack_label
from advmia.runtime.precision import Precision
from advmia.tasks import Task


@dataclass(frozen=True)
class AttackRun:
    """An attack with its budget, the number of its random starts, and what of its images is scored."""

    name: str  # in `ATTACKS`
    budget: Budget
    restarts: int = 1
    rounds: bool = False  # scores its images rounded to 8 bits too, in a row of their own

    @classmethod
    def of(cls, name: str, grey_eps: float, restarts: int = 1, *, rounds: bool = False) -> AttackRun:
        """Returns the attack with the survey's budget. An attack without a random start has one start only."""
        spec = ATTACKS[name]
        return cls(name, spec.budget(grey_eps), restarts if spec.restartable else 1, rounds)

    @property
    def label(self) -> str:
        return attack_label(self.name, self.restarts)

    @property
    def file_name(self) -> str:
        """The label in the names of files, see `file_label`."""
        return file_label(self.name, self.restarts)

    @property
    def keys(self) -> list[RowKey]:
        """The keys of its result rows (`ResultRow.key`)."""
        return [(self.name, self.budget.grey_eps, self.restarts, form) for form in (False, True)[: 1 + self.rounds]]

    @property
    def rounding(self) -> Callable[[Tensor, Tensor], Tensor] | None:
        """What `EvaluationOptions` take as `rounding`."""
        if not self.rounds:
            return None
        return partial(round_to_8_bits, grey_eps=self.budget.grey_eps if ATTACKS[self.name].bounded else None)

    def build(self, task: Task, memory: SquareMemory | None = None) -> EvaluationAttack:
        """Returns the attack. `memory`: what it shares with other attacks (`advmia.attacks.square_memory`)."""
        objective = task.attacks[self.name]
        attack = with_restarts(ATTACKS[self.name].build(self.budget, objective), objective, self.restarts)
        return attack if memory is None else remembering(attack, memory)

    def rows(self, evaluation: Evaluation, task: Task, clean: ResultRow, y: Tensor, classes: int) -> list[ResultRow]:
        """Returns the result rows of an evaluation under this attack, in the order of `keys`.

        `clean`: the row of the clean images. `y`: the labels of all images; empty for masks. `classes`: of the network.
        """
        losses, rows = self.build(task).losses(classes), []
        for found in (evaluation, evaluation.rounded):
            if found is not None:
                scores = found.scores | task.against_clean(torch.tensor(clean.outcomes), found.outcomes, y)
                row = result_row(self.name, self.budget, losses, scores, found)
                rows.append(replace(row, restarts=self.restarts, eight_bits=found is not evaluation))
        return rows


def evaluation_options(run: AttackRun | None, seed: int, precision: Precision) -> EvaluationOptions:
    """Returns how a test evaluates the images under an attack, or clean for None.

    `seed`: that of the attacks' random numbers. Whoever takes these options, and the same networks, gets the images
    that a test has scored.
    """
    if run is None:
        return EvaluationOptions((seed, CLEAN, 0.0), precision=precision)
    title = f"{run.label} eps {run.budget.grey_eps:g}"
    scope = stream_scope(seed, run.name, run.budget.grey_eps)
    return EvaluationOptions(scope, title, precision, rounding=run.rounding)


def file_label(attack: str, restarts: int) -> str:
    """Returns an attack's label in the names of files: `pgd`, or `pgd-x5` with 5 restarts."""
    return attack if restarts == 1 else f"{attack}-x{restarts}"
