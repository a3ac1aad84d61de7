"""The story of training and of testing, told once for every task. Only here and in `cli` are command lines known."""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

from torch import nn

from advmia.attacks.inference import compile_copies
from advmia.budgets import TRAINING_STEPS, grey_step_size_for, training_budget
from advmia.checkpoints.best import BestCheckpoint
from advmia.checkpoints.paths import state_path
from advmia.checkpoints.resume import (
    CheckpointStatus,
    Generators,
    Part,
    read_training,
    rename_earlier_training,
    save_training,
    status_of,
)
from advmia.checkpoints.settings import TrainingSettings
from advmia.checkpoints.weights import LoadedModel, load_model
from advmia.commands.inputs import (
    check_scorable,
    choose_device,
    choose_spec,
    evaluation_loader,
    load_images,
    lock_outputs,
    read_lists,
)
from advmia.data.loading import TrainingLoader, hold_out
from advmia.data.readers import (
    count_listed_classes,
    read_samples,
)
from advmia.data.specs import DatasetSpec
from advmia.errors import UserError
from advmia.models import MODELS, build_model, check_init
from advmia.runtime import distributed, machine
from advmia.runtime.precision import FP32, Precision
from advmia.runtime.signals import Stopped
from advmia.runtime.terminal import say
from advmia.tasks import Task
from advmia.training.curves import TrainingCurves
from advmia.training.loop import Epoch, Position, fit
from advmia.training.methods import METHODS, Method, MethodSettings, default_beta
from advmia.training.validation import Validation, epoch_line


def train(task: Task, args: argparse.Namespace) -> None:
    """Trains one network; keeps its best epoch as `<saveDir>/<the reference's name>`, with a record beside it."""
    device = choose_device(args)
    precision = Precision.choose(args.precision, device)
    spec = choose_spec(args, args.model)
    check_init(args.model, args.init)
    train_list, test_list = read_lists(args, spec)
    classes = train_list.classes
    helper = _load_helper(args, spec, classes)
    train_data, test_data = load_images(args, train_list, device), load_images(args, test_list, device)
    settings = replace(
        _settings(args, spec, classes, precision),
        helper=helper.digest if helper else None,
        train_data=train_data.facts,
        test_data=test_data.facts,
    )
    if args.valFraction is not None:
        train_data, test_data = hold_out(train_data, args.valFraction, seed=args.seed)
    checkpoint = args.saveDir / task.checkpoint_name(settings)
    with lock_outputs(checkpoint):
        found = distributed.broadcast(status_of(checkpoint, settings) if distributed.is_main() else None)
        if found is CheckpointStatus.FINISHED:
            print(f"{checkpoint} is trained already with these settings; delete it to train it again")
            return
        model = machine.on_device(_first_network(args, spec, classes, checkpoint), device)
        if distributed.is_main():
            rename_earlier_training(checkpoint, found, resume=args.resume)
        method = _method(task, settings, machine.on_device(helper.model, device) if helper else None)
        loader = TrainingLoader(
            train_data,
            args.bs,
            device,
            task.order,
            spec.augmentation,
            args.seed,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
        )
        check_scorable(test_data)
        validation = Validation(task, model, evaluation_loader(args, test_data, device), settings)
        _train(task, args, checkpoint, settings, model, method, loader, validation)


def _train(
    task: Task,
    args: argparse.Namespace,
    checkpoint: Path,
    settings: TrainingSettings,
    model: nn.Module,
    method: Method,
    loader: TrainingLoader,
    validation: Validation,
) -> None:
    """The training itself, from its beginning or from where an earlier one was stopped."""
    if args.compile:
        compile_copies(model)
    optimizer = task.optimizer(model.parameters(), args.lr, args.wd)
    schedule = task.schedule(optimizer, args.lr, args.epoch * (len(loader.data) // args.bs + 1))
    score_name = f"{task.selection}{validation.attack_name}"
    chosen_on = f"held-out {args.valFraction:g} of the training list" if args.valFraction else "test list"
    say(f"training {checkpoint}; the epoch is chosen by {score_name} on the {chosen_on}")
    facts = {
        "selection": {"score": score_name, "chosen_on": chosen_on},
        "versions": machine.versions(loader.device),
    }
    best, position = BestCheckpoint(checkpoint, settings, facts, model), Position()
    parts: dict[str, Part] = {
        "network": model,
        "optimizer": optimizer,
        "schedule": schedule,
        "generators": Generators(),
        "position": position,
        "best": best,
    }

    def save() -> None:
        if distributed.is_main():
            save_training(checkpoint, asdict(settings), parts)

    if args.resume:
        _resume(checkpoint, settings, parts, position)
    epochs = fit(
        model,
        method,
        loader,
        optimizer,
        schedule,
        epochs=args.epoch,
        validate=validation,
        precision=Precision(settings.precision),
        note=validation.note,
        position=position,
        save=save,
        save_every=60 * args.saveEvery if args.saveEvery else math.inf,
    )
    earlier = [Epoch(**known) for known in best.epochs]
    try:
        with TrainingCurves(checkpoint, task.selection, score_name, earlier, best.epoch) as curves:
            for epoch in epochs:
                score = (epoch.robust or epoch.clean)[task.selection]
                is_best = best.offer(asdict(epoch), score)
                print(epoch_line(task, epoch, args.epoch, is_best), flush=True)
                curves.add(epoch, best.epoch)
    except Stopped as stop:
        save()
        reached = f"epoch {position.epoch}, step {position.steps} of {len(loader)}"
        stop.advice = f"{state_path(checkpoint)} keeps all up to {reached}: the same command with --resume goes on"
        raise
    if distributed.is_main():
        best.finish()
        state_path(checkpoint).unlink(missing_ok=True)
    print(f"best epoch {best.epoch}: {score_name} {best.score:.4f}; weights in {checkpoint}")


def _resume(checkpoint: Path, settings: TrainingSettings, parts: dict[str, Part], position: Position) -> None:
    """Takes all that changes in a training from its state file, if there is one, in every process."""
    states = distributed.broadcast(read_training(checkpoint, asdict(settings)) if distributed.is_main() else None)
    if states is None:
        say(f"--resume: there is no {state_path(checkpoint)}; beginning anew")
        return
    try:
        for name, part in parts.items():
            part.load_state_dict(states[name])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:  # by hand, or by another version of this program
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{state_path(checkpoint)} does not fit this training ({reason}): delete it, or leave out --resume"
        ) from error
    say(f"going on at epoch {position.epoch}, after {position.steps} of its steps")


def checkpoint_path(task: Task, args: argparse.Namespace) -> Path:
    """Where `train` will keep its network. Reads no more than the labels, and those only of undeclared classes."""
    spec = choose_spec(args, args.model)
    classes = count_listed_classes(spec, args.dataRoot) or read_samples(spec, args.dataRoot, "train").classes
    return Path(args.saveDir / task.checkpoint_name(_settings(args, spec, classes, FP32)))


def _load_helper(args: argparse.Namespace, spec: DatasetSpec, classes: int) -> LoadedModel | None:
    """HAT's helper, checked before any work; other methods have none."""
    if args.method != "hat":
        return None
    if args.helperModel is None or args.helperWeight is None:
        raise UserError("--method hat needs --helperModel and --helperWeight: a naturally trained network")
    return load_model(args.helperModel, args.helperWeight, spec, classes=classes)


def _first_network(args: argparse.Namespace, spec: DatasetSpec, classes: int, checkpoint: Path) -> nn.Module:
    """The network that the training begins with. One that goes on needs no download: a state has all its weights."""
    goes_on = args.resume and state_path(checkpoint).exists()
    init = "random" if distributed.broadcast(goes_on) else _first_weights(args)
    with distributed.local_main_first():  # what is downloaded, is once
        machine.seed_everything(args.seed)
        return build_model(args.model, classes, mean=spec.mean, std=spec.std, init=init)


def _first_weights(args: argparse.Namespace) -> Literal["random", "imagenet"]:
    """chexnet starts from ImageNet weights unless told otherwise; the other networks have none."""
    return args.init or ("imagenet" if MODELS[args.model].load_imagenet else "random")


def _settings(args: argparse.Namespace, spec: DatasetSpec, classes: int, precision: Precision) -> TrainingSettings:
    """What the command line says of a training; the helper's digest and the data are to be filled in."""
    is_natural, is_hat = args.method == "nat", args.method == "hat"
    eps = 0.0 if is_natural else args.eps
    beta = getattr(args, "beta", None)
    return TrainingSettings(
        dataset=spec.name,
        model=args.model,
        method=args.method,
        classes=classes,
        eps=eps,
        steps=0 if is_natural else TRAINING_STEPS,
        step_size=0.0 if is_natural else grey_step_size_for(eps),
        beta=default_beta(args.method, spec.name) if beta is None else beta,
        gamma=args.gamma if is_hat else 0.0,
        hat_step=args.hatStep if is_hat else 0.0,
        helper=None,
        epochs=args.epoch,
        batch_size=args.bs,
        lr=args.lr,
        weight_decay=args.wd,
        init=_first_weights(args),
        seed=args.seed,
        size=spec.size,
        precision=precision.name,
        val_fraction=args.valFraction,
        processes=distributed.world_size(),
        train_data={},
        test_data={},
    )


def _method(task: Task, settings: TrainingSettings, helper: nn.Module | None) -> Method:
    return METHODS[settings.method](
        MethodSettings(
            objective=task.objective,
            budget=training_budget(settings.eps),
            beta=settings.beta,
            gamma=settings.gamma,
            step=settings.hat_step,
            helper=helper,
        )
    )
