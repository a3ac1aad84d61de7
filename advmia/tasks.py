"""The tasks: what differs between them, as data. Loops never ask which task they serve."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from advmia.attacks.steps import Objective
from advmia.budgets import Budget, grey_token
from advmia.checkpoints import TrainingSettings, classification_name
from advmia.data.loading import Order
from advmia.data.specs import DATASETS, TaskName
from advmia.losses import cross_entropy
from advmia.metrics import ClassificationMeter, Meter, Scores
from advmia.models import MODELS

MOMENTUM = 0.9
WARM_UP_SHARE = 0.25  # of all steps, while the one-cycle rate rises


@dataclass(frozen=True)
class Task:
    """One kind of prediction: its loss, its scores, and what it may be trained and attacked with."""

    name: TaskName
    models: tuple[str, ...]
    methods: tuple[str, ...]
    attacks: dict[str, Objective]  # name: the per-sample loss that it ascends
    checkpoint_folder: str
    checkpoint_name: Callable[[TrainingSettings], str]
    default_lr: float
    objective: Objective  # per-sample loss: training descends its mean
    meter: Callable[[int], Meter]  # of the number of classes
    outcome: Callable[[Tensor, Tensor], Tensor]  # (logits, y) to what is recorded of each image, first axis the batch
    score_names: tuple[str, ...]  # columns of the result files
    selection: str  # the score by which the best epoch is chosen
    order: Order  # of an epoch's samples
    optimizer: Callable[[Iterable[Parameter], float, float], Optimizer]  # (parameters, lr, weight decay)
    schedule: Callable[[Optimizer, float, int], LRScheduler]  # (optimizer, lr, steps in all), stepped every batch
    clean_line: Callable[[Scores], str]  # as the reference prints it
    attack_line: Callable[[Budget, Scores, float], str]  # likewise; the last is the attack's seconds

    @property
    def datasets(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in DATASETS.values() if spec.task == self.name)

    def criterion(self, logits: Tensor, y: Tensor) -> Tensor:
        """The mean loss that training descends."""
        return self.objective(logits, y).mean()


def sgd(parameters: Iterable[Parameter], lr: float, weight_decay: float) -> Optimizer:
    return SGD(parameters, lr=lr, momentum=MOMENTUM, weight_decay=weight_decay)


def one_cycle(optimizer: Optimizer, lr: float, steps: int) -> LRScheduler:
    """Torch's one-cycle schedule: cosine, momentum cycled between 0.85 and 0.95."""
    return OneCycleLR(optimizer, max_lr=lr, total_steps=steps, pct_start=WARM_UP_SHARE)


def predicted_class(logits: Tensor, _: Tensor) -> Tensor:
    return logits.argmax(dim=1)


def _classification_clean_line(s: Scores) -> str:
    return f"nat acc: {s['accuracy']:.4f} recall:{s['recall']:.4f} prec:{s['precision']:.4f} f1:{s['f1']:.4f}"


def _classification_attack_line(budget: Budget, s: Scores, seconds: float) -> str:
    scores = f"acc: {s['accuracy']:.4f} recall: {s['recall']:.4f} prec: {s['precision']:.4f} f1: {s['f1']:.4f}"
    return f"\t{_spelled(budget)} {scores} totalTIme:{seconds:.2f}s"


def _spelled(budget: Budget) -> str:
    """`eps:1-255 step:20 stepSize:05-255`, the reference's spelling."""
    eps, step_size = grey_token(budget.grey_eps), grey_token(budget.grey_step_size)
    return f"eps:{eps}-255 step:{budget.steps} stepSize:{step_size}-255"


SINGLE_LABEL = Task(
    name="single-label",
    models=tuple(name for name, spec in MODELS.items() if spec.kind == "classification"),
    methods=("nat", "pgdat", "trades", "mart", "hat"),
    attacks={"fgsm": cross_entropy, "pgd": cross_entropy},
    checkpoint_folder="clsCkpt",
    checkpoint_name=classification_name,
    default_lr=0.01,
    objective=cross_entropy,
    meter=ClassificationMeter,
    outcome=predicted_class,
    score_names=("accuracy", "recall", "precision", "f1"),
    selection="accuracy",
    order="weighted",
    optimizer=sgd,
    schedule=one_cycle,
    clean_line=_classification_clean_line,
    attack_line=_classification_attack_line,
)
