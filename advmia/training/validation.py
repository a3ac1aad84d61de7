"""The story of training and of testing, told once for every task. Only here and in `cli` are command lines known."""

from __future__ import annotations

from torch import nn

from advmia.attacks import ATTACKS
from advmia.budgets import Budget, pgd_budget
from advmia.checkpoints.settings import TrainingSettings
from advmia.data.loading import EvaluationLoader
from advmia.evaluation.loop import EvaluationOptions, evaluate
from advmia.metrics import Scores
from advmia.runtime.precision import Precision
from advmia.tasks import Task
from advmia.training.loop import Epoch


class Validation:
    """Scores a network in training: clean, and under PGD-20 at the training eps where there is one."""

    def __init__(self, task: Task, model: nn.Module, loader: EvaluationLoader, settings: TrainingSettings) -> None:
        self._task, self._model, self._loader = task, model, loader
        self._scope = (settings.seed, "validation", settings.eps)
        self._budget, self._precision = pgd_budget(settings.eps), Precision(settings.precision)
        self.attack_name = f" under PGD-{self._budget.steps}" if settings.eps else ""
        self._note = ""

    def __call__(self) -> tuple[Scores, Scores | None]:
        clean = self._evaluate(None)
        robust = self._evaluate(self._budget) if self._budget.eps else None
        kind, scores = ("robust", robust) if robust else ("clean", clean)
        self._note = f", {kind} {self._task.selection} {scores[self._task.selection]:.4f}"
        return clean, robust

    def note(self) -> str:
        """What the training bar says of the last validation; nothing before the first."""
        return self._note

    def _evaluate(self, budget: Budget | None) -> Scores:
        attack = None if budget is None else ATTACKS["pgd"].build(budget, self._task.attacks["pgd"])
        title = "validation" if budget is None else "validation under attack"
        return evaluate(
            self._model,
            self._loader,
            self._task,
            attack,
            options=EvaluationOptions(self._scope, title, self._precision),
        ).scores


def epoch_line(task: Task, epoch: Epoch, epochs: int, is_best: bool) -> str:
    name = task.selection
    robust = f" robust {name} {epoch.robust[name]:.4f}" if epoch.robust else ""
    return (
        f"epoch {epoch.number}/{epochs} loss {epoch.loss:.4f} clean {name} {epoch.clean[name]:.4f}{robust}"
        f" {epoch.seconds:.1f} s{' (best so far)' if is_best else ''}"
    )
