"""The scores of a network after the epochs of its training, and the lines that report them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from advmia.attacks import ATTACKS
from advmia.attacks.common import Attack
from advmia.checkpoints.settings import TrainingSettings
from advmia.data.loading import EvaluationLoader
from advmia.evaluation.guessing import BaseRate
from advmia.evaluation.loop import EvaluationOptions, evaluate
from advmia.evaluation.tally import Evaluation
from advmia.metrics import Scores
from advmia.runtime import distributed
from advmia.runtime.precision import Precision
from advmia.tasks import Task
from advmia.training.loop import Epoch


class Validation:
    """Scores a network in training: on clean images and, in adversarial training, under PGD-20 at the training's eps.

    `score_name`: the score by which the best epoch is chosen, e.g. "accuracy under PGD-20". `images`: the number of
    images, in all ranks (collective). Of the last validation, `warning` says what makes the clean scores worthless, ""
    for nothing, and `one_class` whether the network predicted the same for all clean images.
    """

    def __init__(
        self, task: Task, model: nn.Module, loader: EvaluationLoader, settings: TrainingSettings, rate: BaseRate
    ) -> None:
        """`loader`: of this rank's shard of the images. `rate`: the base rate of all of them."""
        self._task, self._model, self._loader = task, model, loader
        self._scope, self._precision = (settings.seed, "validation", settings.grey_eps), Precision(settings.precision)
        budget = settings.validation_budget
        self._attack = ATTACKS["pgd"].build(budget, task.attacks["pgd"]) if budget else None
        self.score_name = f"{task.selection} under PGD-{budget.steps}" if budget else task.selection
        self.images = int(distributed.all_reduce(torch.tensor(len(loader.data))))  # a loader has its rank's share
        self.base_rate, self.warning = rate, ""
        self._note = ""
        self.one_class = False

    def __call__(self) -> tuple[Scores, Scores | None]:
        """Returns the (clean, robust) scores; robust is None for natural training."""
        natural = self._evaluate(None, "validation")
        clean, self.warning = natural.scores, self.base_rate.fault(natural.scores, natural.outcomes)
        self.one_class = self.base_rate.is_constant(natural.outcomes)
        robust = self._evaluate(self._attack, "validation under attack").scores if self._attack is not None else None
        kind, scores = ("robust", robust) if robust else ("clean", clean)
        self._note = f", {kind} {self._task.selection} {scores[self._task.selection]:.4f}"
        return clean, robust

    def annotated(self, epoch: Epoch) -> Epoch:
        """Returns the epoch with what its validation, the last one, says of it; one that was not validated as it is."""
        if epoch.clean is None:
            return epoch
        return replace(epoch, warning=self.warning, one_class=self.one_class)

    def note(self) -> str:
        """Returns the last validation's score for the training's progress bar; nothing before the first validation."""
        return self._note

    def _evaluate(self, attack: Attack | None, title: str) -> Evaluation:
        options = EvaluationOptions(self._scope, title, self._precision, is_test=False)
        return evaluate(self._model, self._loader, self._task, attack, options=options)


def epoch_line(task: Task, epoch: Epoch, epochs: int, is_best: bool) -> str:
    """Returns the line that reports an epoch.

    E.g. `epoch 3/100 loss 0.5123 clean accuracy 0.8100 robust accuracy 0.6100 training 61.2 s, validation 9.8 s`. What
    makes the scores worthless stands before them, in brackets. The line of an epoch that was not validated ends in
    `training 61.2 s, not validated`.
    """
    name = task.selection
    if epoch.clean is None:
        return f"epoch {epoch.number}/{epochs} loss {epoch.loss:.4f} training {epoch.seconds:.1f} s, not validated"
    warning = f" [{epoch.warning}]" if epoch.warning else ""
    robust = f" robust {name} {epoch.robust[name]:.4f}" if epoch.robust else ""
    return (
        f"epoch {epoch.number}/{epochs} loss {epoch.loss:.4f}{warning} clean {name} {epoch.clean[name]:.4f}{robust}"
        f" training {epoch.seconds:.1f} s, validation {epoch.validation_seconds:.1f} s"
        f"{' (best so far)' if is_best else ''}"
    )
