"""The command of the training scripts, the same for every task.

`train` reads the lists and their images, builds the network, its method and its validation, and trains. It keeps the
best epoch as a checkpoint with a record beside it. `advmia.checkpoints.resume` says what happens when a training is
stopped or killed.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict, replace
from pathlib import Path

from torch import nn

from advmia.attacks.inference import compile_copies, plain_kernels
from advmia.checkpoints.best import BestCheckpoint
from advmia.checkpoints.paths import seed_folder, state_path
from advmia.checkpoints.resume import (
    CheckpointStatus,
    RandomState,
    Stateful,
    read_training,
    rename_earlier_training,
    save_training,
    status_of,
)
from advmia.checkpoints.settings import TrainingSettings
from advmia.checkpoints.weights import InitialWeights, load_initial
from advmia.commands.hat import compare_helper, load_helper
from advmia.commands.inputs import (
    Inputs,
    check_divisible,
    check_imported,
    check_scorable,
    choose_spec,
    lock_outputs,
)
from advmia.commands.settings import init_of, method_of, settings_of
from advmia.data.loading import ImageData, TrainingLoader, hold_out
from advmia.data.readers import count_listed_classes, read_samples
from advmia.errors import UserError
from advmia.evaluation.guessing import base_rate
from advmia.models import build_model, check_init
from advmia.models.batch_norm import smallest_batch
from advmia.runtime import distributed, machine
from advmia.runtime.precision import FP32
from advmia.runtime.signals import Stopped
from advmia.runtime.terminal import say
from advmia.tasks import Task
from advmia.training.averaging import WeightAverage
from advmia.training.curves import Frame
from advmia.training.logs import check_logs, reported_epochs
from advmia.training.loop import Epoch, Position, Saver, Training, fit
from advmia.training.methods import Method
from advmia.training.perturbation import WeightPerturbation
from advmia.training.recomputation import Recomputation
from advmia.training.selection import Selection
from advmia.training.trial import check_memory
from advmia.training.validation import Validation, epoch_line

SHOWN_DIGITS = 12  # of the SHA-256 of initial weights, in records and tables


def train(task: Task, args: argparse.Namespace) -> None:
    """Trains one network and keeps its best epoch at `checkpoint_path`, with a record beside it."""
    check_logs(args.log)
    inputs = Inputs.of(args, args.model)
    check_init(args.model, args.init)
    train_list, test_list = inputs.read_lists()
    check_imported(args.model, None, train_list.classes, inputs.spec.size)
    helper = load_helper(inputs, train_list.classes)
    is_file = isinstance(args.init, Path)
    initial = load_initial(args.model, args.init, train_list.classes) if is_file else None
    train_data, test_data = inputs.load_images(train_list), inputs.load_images(test_list)
    warnings = compare_helper(args, helper, train_data)
    settings = replace(
        settings_of(args, inputs.spec, train_list.classes, inputs.precision),
        helper_sha256=helper.sha256 if helper else None,
        init=f"weights {initial.sha256[:SHOWN_DIGITS]}" if initial else init_of(args),
        train_data=train_data.facts,
        test_data=test_data.facts,
    )
    if args.valFraction is not None:
        check_divisible(train_data)
        train_data, test_data = hold_out(train_data, args.valFraction, seed=args.seed)
    checkpoint = seed_folder(args.saveDir, args.seed) / task.checkpoint_name(settings)
    with lock_outputs(checkpoint):
        status = distributed.broadcast(status_of(checkpoint, settings) if distributed.is_main() else None)
        if status is CheckpointStatus.FINISHED:
            print(f"{checkpoint} is trained already with these settings; delete it to train it again")
            return
        model = machine.on_device(_initial_network(inputs, settings, checkpoint, initial), inputs.device)
        if distributed.is_main():
            rename_earlier_training(checkpoint, status, resume=args.resume)
        method = method_of(task, settings, machine.on_device(helper.model, inputs.device) if helper else None)
        if helper and args.kernels == "plain":
            plain_kernels(helper.model)
        training = _training(task, inputs, train_data, model, method)
        check_scorable(test_data)
        size = inputs.spec.size
        check_memory(training, size, f"{args.method} with {args.model} at {size} pixels")
        rate = base_rate(task, test_data)
        validation = Validation(task, training.validated_model, inputs.evaluation_loader(test_data), settings, rate)
        _run(task, args, settings, training, validation, warnings)


def _run(
    task: Task,
    args: argparse.Namespace,
    settings: TrainingSettings,
    training: Training,
    validation: Validation,
    warnings: list[str],
) -> None:
    """Trains from the beginning or from the saved state, and keeps the best epoch. `warnings`: for its record."""
    checkpoint = seed_folder(args.saveDir, args.seed) / task.checkpoint_name(settings)
    its_list = "validation list" if training.loader.data.samples.spec.val_list else "test list"
    chosen_on = f"held-out {args.valFraction:g} of the training list" if args.valFraction else its_list
    say(f"training {checkpoint}; the epoch is chosen by {validation.score_name} on the {chosen_on}")
    facts = {
        "selection": {"score": validation.score_name, "chosen_on": chosen_on},
        "versions": machine.versions(training.loader.device),
        "trained_on": training.loader.data.samples.dataset_name,
        **_if_set(warnings=warnings, checkpointed_activations=training.recomputation is not None),
    }
    selection = Selection(task.selection, validation.images)
    best = BestCheckpoint(checkpoint, settings, facts, training.validated_model, selection.is_better)
    position = Position()
    parts: dict[str, Stateful] = {
        "network": training.model,
        "optimizer": training.optimizer,
        "schedule": training.schedule,
        "generators": RandomState(),
        "position": position,
        "best": best,
        **({"average": training.average} if training.average else {}),
    }

    def save() -> None:
        if distributed.is_main():
            save_training(checkpoint, settings, parts)

    if args.resume:
        _load_state(checkpoint, settings, parts, position)
    saver = Saver(save, 60 * args.saveEvery if args.saveEvery else math.inf)
    earlier = [Epoch(**epoch) for epoch in best.epochs]
    frame = Frame(checkpoint.name, task.selection, validation.score_name, args.epoch, validation.base_rate.score)
    try:
        with reported_epochs(checkpoint, frame, args.log, earlier, best.epoch) as report:
            for trained in fit(training, validation, position=position, saver=saver, note=validation.note):
                epoch = validation.annotated(trained)
                entry = asdict(epoch)
                is_best = best.offer(entry, selection.value(entry))
                print(epoch_line(task, epoch, args.epoch, is_best), flush=True)
                report(epoch, best.epoch)
    except Stopped as stop:
        save()
        reached = f"epoch {position.epoch}, step {position.steps} of {len(training.loader)}"
        stop.advice = f"{state_path(checkpoint)} is saved at {reached}: the same command with --resume continues"
        raise
    if distributed.is_main():
        best.finish()
        state_path(checkpoint).unlink(missing_ok=True)
    kept = next((epoch for epoch in best.epochs if epoch["number"] == best.epoch), {})
    warning = f" [{kept['warning']}]" if kept.get("warning") else ""
    print(f"best epoch {best.epoch}: {validation.score_name} {best.score:.4f}{warning}; weights in {checkpoint}")


def _if_set(**facts: object) -> dict[str, object]:
    """Returns the facts that are neither empty nor False, which records leave out."""
    return {name: value for name, value in facts.items() if value}


def _load_state(checkpoint: Path, settings: TrainingSettings, parts: dict[str, Stateful], position: Position) -> None:
    """Loads the state of all parts in every rank, if there is a state file (collective)."""
    states = distributed.broadcast(read_training(checkpoint, settings) if distributed.is_main() else None)
    if states is None:
        if checkpoint.exists():  # of a training that was killed before its first state was saved
            say(f"--resume: there is no {state_path(checkpoint)}; starting this training again")
        return
    try:
        for name, part in parts.items():
            part.load_state_dict(states[name])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:  # edited, or of another version of this program
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{state_path(checkpoint)} does not fit this training ({reason}): delete it, or leave out --resume"
        ) from error
    say(f"resuming at epoch {position.epoch}, after {position.steps} of its steps")


def checkpoint_path(task: Task, args: argparse.Namespace) -> Path:
    """Returns the path at which `train` will keep its network. Reads at most the training list, for its classes."""
    spec = choose_spec(args, args.model)
    classes = count_listed_classes(spec, args.dataRoot) or read_samples(spec, args.dataRoot, "train").classes
    return seed_folder(args.saveDir, args.seed) / task.checkpoint_name(settings_of(args, spec, classes, FP32))


def _initial_network(
    inputs: Inputs, settings: TrainingSettings, checkpoint: Path, initial: InitialWeights | None
) -> nn.Module:
    """Returns the network with its initial weights, those of a file if there are `initial` ones.

    In a resumed training they are random, since the state file will replace them: so it needs no download.
    """
    args, spec = inputs.args, inputs.spec
    is_resumed = args.resume and state_path(checkpoint).exists()
    init = "random" if distributed.broadcast(is_resumed) else init_of(args)
    with distributed.local_main_first():  # one rank downloads for all
        machine.seed_everything(args.seed)
        model = build_model(args.model, settings.classes, mean=spec.mean, std=spec.std, init=init)
    if initial is not None:
        initial.copy_to(model)
    return model


def _training(task: Task, inputs: Inputs, data: ImageData, model: nn.Module, method: Method) -> Training:
    """Returns the network with its loader, optimizer and schedule. Raises `UserError` for too few images a batch."""
    args = inputs.args
    world_size, smallest = distributed.world_size(), smallest_batch(model, inputs.spec.size)
    needed = smallest * world_size if smallest > 1 else 1
    pixels = f"{inputs.spec.size} pixels" + (f" in {world_size} processes" if world_size > 1 else "")
    if min(args.bs, len(data)) < needed:
        raise UserError(
            f"{args.model} cannot train on batches of fewer than {needed} images of {pixels}, and here are"
            f" {min(args.bs, len(data))}: use a larger --bs, more images or a larger --imgSize"
        )
    loader = TrainingLoader(
        data,
        args.bs,
        inputs.device,
        task.order,
        inputs.spec.augmentation,
        args.seed,
        rank=distributed.rank(),
        world_size=world_size,
        smallest_share=smallest,
    )
    if 0 < len(data) % args.bs < needed:
        say(
            f"the last {len(data) % args.bs} images of an epoch are too few for {args.model} at {pixels}: they join the"
            " batch before"
        )
    average = None if args.ema is None else WeightAverage(model, args.ema)
    for network in {model, average.model if average else model}:
        if args.compile:
            compile_copies(network)
        if args.kernels == "plain":
            plain_kernels(network)
    optimizer = task.optimizer(model.parameters(), args.lr, args.wd)
    # The reference plans floor(N / bs) + 1 steps for each epoch: as many as there are, or one more.
    schedule = task.schedule(optimizer, args.lr, args.epoch * (len(data) // args.bs + 1))
    perturbation = WeightPerturbation(args.awp, args.awpWarmUp) if args.awp is not None else None
    return Training(
        model,
        method,
        loader,
        optimizer,
        schedule,
        args.epoch,
        inputs.precision,
        perturbation,
        average,
        args.validateEvery,
        Recomputation(model) if args.checkpointActivations else None,
    )
