"""The three tasks. A `Task` states all that differs between them, so that the loops are the same for every task."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR

from advmia.attacks import attacks_on
from advmia.attacks.common import Objective
from advmia.budgets import Budget, grey_token
from advmia.checkpoints.settings import TrainingSettings, classification_name, segmentation_name
from advmia.data.datasets import DATASETS
from advmia.data.loading import Order
from advmia.data.specs import DatasetSpec
from advmia.losses import (
    binary_cross_entropy,
    cross_entropy,
    kl_divergence,
    label_divergence,
    margin,
    pixel_cross_entropy,
    pixel_divergence,
)
from advmia.metrics import (
    ClassificationMeter,
    ForegroundMeter,
    Meter,
    MultiLabelMeter,
    Scores,
    SegmentationMeter,
    mask_overlap,
    overlap_names,
    success_rate,
)
from advmia.models import MODELS
from advmia.targets import TaskName

# All training methods, in the order of the tables. `advmia.training.methods.METHODS` has one entry for each.
METHOD_NAMES = ("nat", "pgdat", "trades", "mart", "hat", "mpadvt", "maadvt")
MOMENTUM = 0.9
WARM_UP_SHARE = 0.25  # share of all steps in which the one-cycle learning rate rises


@dataclass(frozen=True)
class Task:
    """A kind of prediction: its networks, loss, scores, training methods and attacks."""

    name: TaskName
    models: tuple[str, ...]  # names in `MODELS`
    methods: tuple[str, ...]  # names of training methods, in the order of the tables
    attacks: dict[str, Objective]  # name in `ATTACKS` to the loss of each sample that it ascends
    default_attacks: tuple[str, ...]  # of the test scripts; most of the others take far longer
    checkpoint_folder: str
    checkpoint_name: Callable[[TrainingSettings], str]
    default_lr: float
    objective: Objective  # loss of each sample: training descends its mean
    divergence: Objective  # KL(p || q) of each sample, from the logits of q and of p: TRADES' second term
    meter: Callable[[DatasetSpec, int], Meter]  # (data set, number of classes)
    # Further scores of a test, which are too slow for the validation after each epoch; None: there are none.
    further_meter: Callable[[], Meter] | None
    outcome: Callable[[Tensor, Tensor], Tensor]  # (logits, y) to what result files record of each image (B, ...)
    notes: dict[str, Objective]  # what they record of it beside, by name: (logits, y) to (B,)
    against_clean: Callable[[Tensor, Tensor, Tensor], Scores]  # (clean, attacked outcomes, y) to further scores
    score_names: Callable[[DatasetSpec], tuple[str, ...]]  # in the order of the columns of result files
    selection: str  # the score by which the best epoch is chosen
    order: Order  # of an epoch's samples
    optimizer: Callable[[Iterable[Parameter], float, float], Optimizer]  # (parameters, lr, weight decay)
    schedule: Callable[[Optimizer, float, int], LRScheduler]  # (optimizer, lr, number of steps); stepped every batch
    clean_line: Callable[[Scores], str]  # the line that the published code prints for the clean images
    attack_line: Callable[[Budget, Scores, float], str]  # and for an attack, with its seconds

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of the data sets of this task."""
        return tuple(spec.name for spec in DATASETS.values() if spec.task == self.name)

    def criterion(self, logits: Tensor, y: Tensor) -> Tensor:
        """Returns the mean loss over the batch, which training descends."""
        return self.objective(logits, y).mean()


def sgd(parameters: Iterable[Parameter], lr: float, weight_decay: float) -> Optimizer:
    """Returns SGD with momentum 0.9, as the survey trains classifiers."""
    parameters = list(parameters)
    return _steady(SGD(parameters, lr, MOMENTUM, weight_decay=weight_decay, fused=_fused(parameters)))


def one_cycle(optimizer: Optimizer, lr: float, steps: int) -> LRScheduler:
    """Returns torch's one-cycle schedule over `steps` updates.

    The rate rises to `lr` for a quarter of them and then falls, both along a cosine, while the momentum falls from 0.95
    to 0.85 and rises again.
    """
    # Torch divides by zero where the rate would rise for exactly one step; a slightly larger share avoids that.
    share = WARM_UP_SHARE + (1e-9 if WARM_UP_SHARE * steps == 1 else 0)
    return OneCycleLR(optimizer, max_lr=lr, total_steps=steps, pct_start=share)


def adam(parameters: Iterable[Parameter], lr: float, weight_decay: float) -> Optimizer:
    """Returns Adam, as the survey trains segmentation networks."""
    parameters = list(parameters)
    return _steady(Adam(parameters, lr, weight_decay=weight_decay, fused=_fused(parameters)))


def _fused(parameters: list[Parameter]) -> bool | None:
    """Returns whether one kernel updates many parameters: True on CUDA; elsewhere None, torch's default."""
    return True if all(parameter.is_cuda for parameter in parameters) else None


def _steady(optimizer: Optimizer) -> Optimizer:
    """Makes the optimizer keep its kernels when it loads a state, which holds those of the device it was saved on."""
    fused = optimizer.defaults["fused"]

    def replaced(_: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        return state | {"param_groups": [group | {"fused": fused} for group in state["param_groups"]]}

    optimizer.register_load_state_dict_pre_hook(replaced)
    return optimizer


def constant(optimizer: Optimizer, lr: float, steps: int) -> LRScheduler:
    """Returns a schedule that keeps the learning rate as it is."""
    return ConstantLR(optimizer, factor=1.0, total_iters=0)


def label_scores(logits: Tensor, _: Tensor) -> Tensor:
    """Returns the logits (B, labels), by which AUROC ranks the images."""
    return logits


def predicted_class(logits: Tensor, _: Tensor) -> Tensor:
    """Returns the predicted class of each image, (B,) int64."""
    return logits.argmax(dim=1)


def _no_scores(clean: Tensor, adversarial: Tensor, y: Tensor) -> Scores:
    return {}


def _classification_clean_line(s: Scores) -> str:
    return f"nat acc: {s['accuracy']:.4f} recall:{s['recall']:.4f} prec:{s['precision']:.4f} f1:{s['f1']:.4f}"


def _classification_attack_line(budget: Budget, s: Scores, seconds: float) -> str:
    scores = f"acc: {s['accuracy']:.4f} recall: {s['recall']:.4f} prec: {s['precision']:.4f} f1: {s['f1']:.4f}"
    return f"\t{_budget_text(budget)} {scores} totalTIme:{seconds:.2f}s"


def _budget_text(budget: Budget) -> str:
    """Returns e.g. `eps:1-255 step:20 stepSize:05-255`, as the published code prints a budget."""
    eps, step_size = grey_token(budget.grey_eps), grey_token(budget.grey_step_size)
    return f"eps:{eps}-255 step:{budget.steps} stepSize:{step_size}-255"


def _multi_label_clean_line(s: Scores) -> str:
    return f"nat mean AUC: {s['auroc']:.4f}{_by_finding(s)}"


def _multi_label_attack_line(budget: Budget, s: Scores, seconds: float) -> str:
    return f"\t{_budget_text(budget)} mean AUC: {s['auroc']:.4f} totalTIme:{seconds:.2f}s{_by_finding(s)}"


def _by_finding(s: Scores) -> str:
    """Returns a line for each finding, also for those whose AUROC is undefined."""
    lines = []
    for name, score in s.items():
        if name != "auroc":
            lines.append(f"\t\t{name}: " + ("undefined (one class only)" if math.isnan(score) else f"{score:.4f}"))
    return "\n" + "\n".join(lines)


def _segmentation_clean_line(s: Scores) -> str:
    return f"test dice:{s['dice']:.4f} test iou:{s['iou']:.4f} test ceLoss:{s['ce_loss']:.4f}"


def _segmentation_attack_line(budget: Budget, s: Scores, seconds: float) -> str:
    return f"{_budget_text(budget)} dice:{s['dice']:.4f} IoU:{s['iou']:.4f}"


def _class_names(spec: DatasetSpec) -> tuple[str, ...]:
    """Returns the names of a mask's classes, by which scores are told apart; () for foreground and background."""
    return tuple(spec.class_name(label) for label in range(len(spec.mask_values)))


_CLASSIFIERS = tuple(name for name, spec in MODELS.items() if spec.kind == "classification")

SINGLE_LABEL = Task(
    name="single-label",
    models=_CLASSIFIERS,
    methods=METHOD_NAMES,
    attacks=attacks_on("single-label"),
    default_attacks=("fgsm", "pgd", "cw"),
    checkpoint_folder="clsCkpt",
    checkpoint_name=classification_name,
    default_lr=0.01,
    objective=cross_entropy,
    divergence=kl_divergence,
    meter=lambda spec, classes: ClassificationMeter(classes, spec.positive),
    further_meter=None,
    outcome=predicted_class,
    notes={"margin": margin},
    against_clean=lambda clean, adversarial, y: {"attack_success_rate": success_rate(clean, adversarial, y)},
    score_names=lambda spec: (
        *("accuracy", "recall", "precision", "f1"),
        *("balanced_accuracy", "auroc", "sensitivity", "specificity", "attack_success_rate"),
    ),
    selection="accuracy",
    order="weighted",
    optimizer=sgd,
    schedule=one_cycle,
    clean_line=_classification_clean_line,
    attack_line=_classification_attack_line,
)

MULTI_LABEL = Task(
    name="multi-label",
    models=_CLASSIFIERS,
    methods=("nat", "pgdat", "trades", "mpadvt"),
    attacks=attacks_on("multi-label"),
    default_attacks=("pgd",),
    checkpoint_folder="clsCkpt",
    checkpoint_name=classification_name,
    default_lr=0.01,
    objective=binary_cross_entropy,
    divergence=label_divergence,
    meter=lambda spec, classes: MultiLabelMeter(spec.findings),
    further_meter=None,
    outcome=label_scores,
    notes={},
    against_clean=_no_scores,
    score_names=lambda spec: ("auroc", *spec.findings),
    selection="auroc",
    order="shuffled",
    optimizer=sgd,
    schedule=one_cycle,
    clean_line=_multi_label_clean_line,
    attack_line=_multi_label_attack_line,
)

SEGMENTATION = Task(
    name="segmentation",
    models=tuple(name for name, spec in MODELS.items() if spec.kind == "segmentation"),
    methods=("nat", "pgdat", "trades"),
    attacks=attacks_on("segmentation"),
    default_attacks=("pgd", "pgd-dice"),
    checkpoint_folder="segckpt",
    checkpoint_name=segmentation_name,
    default_lr=1e-4,
    objective=pixel_cross_entropy,
    divergence=pixel_divergence,
    meter=lambda spec, classes: SegmentationMeter(_class_names(spec)),
    further_meter=ForegroundMeter,
    outcome=mask_overlap,
    notes={},
    against_clean=_no_scores,
    score_names=lambda spec: ("dice", "iou", "ce_loss", *overlap_names(_class_names(spec)), *ForegroundMeter.names),
    selection="dice",
    order="shuffled",
    optimizer=adam,
    schedule=constant,
    clean_line=_segmentation_clean_line,
    attack_line=_segmentation_attack_line,
)
