"""What the flags of a training script say of the training: its settings, its method and its initial weights."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Literal

from torch import nn

from advmia.attacks.gradient import pgd
from advmia.budgets import training_steps
from advmia.checkpoints.settings import TrainingSettings
from advmia.data.specs import DatasetSpec
from advmia.errors import UserError
from advmia.models import MODELS
from advmia.runtime import distributed
from advmia.runtime.precision import Precision
from advmia.runtime.rng import GENERATOR
from advmia.tasks import Task
from advmia.training.methods import MASK_ATTACKS, METHODS, Method, MethodSettings, default_beta


def settings_of(args: argparse.Namespace, spec: DatasetSpec, classes: int, precision: Precision) -> TrainingSettings:
    """Returns the settings that the flags state, still without those of the helper and the data."""
    is_hat = args.method == "hat"
    grey_eps = 0.0 if args.method == "nat" else args.eps
    steps, grey_step_size = training_steps(args.method, grey_eps)
    return TrainingSettings(
        dataset=spec.name,
        model=args.model,
        method=args.method,
        classes=classes,
        grey_eps=grey_eps,
        steps=steps,
        grey_step_size=grey_step_size,
        beta=default_beta(args.method, spec.name) if args.beta is None else args.beta,
        gamma=args.gamma if is_hat else 0.0,
        hat_step=args.hatStep if is_hat else 0.0,
        helper_sha256=None,
        epochs=args.epoch,
        batch_size=args.bs,
        lr=args.lr,
        weight_decay=args.wd,
        init=init_of(args),
        seed=args.seed,
        size=spec.size,
        precision=precision.name,
        val_fraction=args.valFraction,
        world_size=distributed.world_size(),
        train_data={},
        test_data={},
        normalize=args.normalize,
        awp=args.awp,
        awp_warm_up=None if args.awp is None else args.awpWarmUp,
        ema=args.ema,
        attack_loss=_attack_loss(args),
        validate_every=None if args.validateEvery == 1 else args.validateEvery,
        generator=None if args.method == "nat" else GENERATOR,
        **spec.recorded,
    )


def _attack_loss(args: argparse.Namespace) -> str | None:
    """Returns the loss that the attack ascends in place of the task's, None for the task's."""
    name: str | None = getattr(args, "attackLoss", None)  # a flag for masks only
    if name is None or name == next(iter(MASK_ATTACKS)):
        return None
    if args.method != "pgdat":
        raise UserError(f"--attackLoss {name} is for --method pgdat; {args.method} has an attack of its own, or none")
    return name


def method_of(task: Task, settings: TrainingSettings, helper: nn.Module | None) -> Method:
    """Returns the training method with these settings. `helper`: HAT's."""
    return METHODS[settings.method](
        MethodSettings(
            objective=task.objective,
            divergence=task.divergence,
            budget=settings.budget,
            beta=settings.beta,
            gamma=settings.gamma,
            hat_step=settings.hat_step,
            helper=helper,
            attack=MASK_ATTACKS[settings.attack_loss] if settings.attack_loss else pgd,
        )
    )


def init_of(args: argparse.Namespace) -> Literal["random", "imagenet"]:
    """Returns the initial weights: by default ImageNet's for networks that have them, else random.

    They are random too if `--init` names a file, whose weights replace them.
    """
    return "random" if isinstance(args.init, Path) else args.init or MODELS[args.model].init
