"""Weights on disk: a bare state_dict, as the reference writes it, and beside it a record of how it came about."""

from __future__ import annotations

from dataclasses import dataclass

from advmia.budgets import grey_token
from advmia.models import MODELS


@dataclass(frozen=True)
class TrainingSettings:
    """All that shapes a trained network; a checkpoint of other settings is another network."""

    dataset: str
    model: str
    method: str
    classes: int
    eps: float  # grey levels, as step_size; 0 for natural training
    steps: int
    step_size: float
    beta: float
    gamma: float  # hat; 0 for the others, as hat_step
    hat_step: float
    helper: str | None  # SHA-256 of hat's helper's weights
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    init: str
    seed: int
    size: int  # pixels
    precision: str
    val_fraction: float | None
    processes: int  # each batch norm saw its process' share of a batch
    train_data: dict[str, object]
    test_data: dict[str, object]


def classification_name(settings: TrainingSettings) -> str:
    """The reference's file name, e.g. `ResNet_melBin_nat_class2_maxLR0.01_weightDecay0.001`."""
    head = f"{MODELS[settings.model].class_name}_{settings.dataset}_{settings.method}"
    tail = f"maxLR{settings.lr}_weightDecay{settings.weight_decay}"
    if settings.method == "nat":
        return f"{head}_class{settings.classes}_{tail}"
    attack = f"ADV{grey_token(settings.eps)}-255_{settings.steps}_{grey_token(settings.step_size)}-255"
    return f"{head}_beta{settings.beta:g}_class{settings.classes}_{attack}_{tail}"


def segmentation_name(settings: TrainingSettings) -> str:
    """The reference's file name, e.g. `UNet_mel_PGDAT_CrossEntropyLoss_Adam_eps8-255_step10_stepSize2-255`."""
    name = f"{MODELS[settings.model].class_name}_{settings.dataset}_{settings.method.upper()}_CrossEntropyLoss_Adam"
    if settings.method == "nat":
        return name
    eps, step_size = grey_token(settings.eps), grey_token(settings.step_size)
    return f"{name}_eps{eps}-255_step{settings.steps}_stepSize{step_size}-255"
