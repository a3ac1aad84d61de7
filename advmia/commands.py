"""The story of training and of testing, told once for every task. Only here and in `cli` are command lines known."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from advmia import processes, reliability, runtime
from advmia.attacks import ATTACKS
from advmia.attacks.steps import EvaluationAttack
from advmia.budgets import GREY_LEVELS, TRAINING_STEPS, Budget, pgd_budget, step_size_for, training_budget
from advmia.checkpoints import (
    BestCheckpoint,
    Loaded,
    Standing,
    TrainingSettings,
    load_model,
    read_record,
    record_path,
    standing,
)
from advmia.curves import TrainingCurves, picture_path
from advmia.data.loading import EvaluationLoader, ImageData, TrainingLoader, hold_out, load_data
from advmia.data.readers import (
    SampleList,
    count_classes,
    count_odd_masks,
    count_shared,
    read_samples,
)
from advmia.data.specs import DATASETS, DatasetSpec
from advmia.errors import UserError
from advmia.evaluation import Evaluation, evaluate, evaluate_each
from advmia.files import one_writer, set_aside
from advmia.inference import compile_copies, fitting_batch
from advmia.methods import METHODS, Method, MethodSettings, default_beta
from advmia.metrics import Scores
from advmia.models import MODELS, build_model, check_init
from advmia.precision import FP32, Precision
from advmia.results import CLEAN, ResultFile, Row, result_stem
from advmia.runtime import say
from advmia.state import Generators, Part, read_training, save_training, state_path
from advmia.stopping import Stopped
from advmia.tasks import Task
from advmia.training import Epoch, Position, fit
from advmia.visual import MapFolder, View, draw_maps

_UNATTACKED = Budget(0, 0, 0)


def train(task: Task, args: argparse.Namespace) -> None:
    """Trains one network; keeps its best epoch as `<saveDir>/<the reference's name>`, with a record beside it."""
    device = _device(args)
    precision = Precision.chosen(args.precision, device)
    spec = _spec(args, args.model)
    check_init(args.model, args.init)
    train_list, test_list = _read_lists(args, spec)
    classes = train_list.classes
    helper = _load_helper(args, spec, classes)
    train_data, test_data = _load(args, train_list, device), _load(args, test_list, device)
    settings = replace(
        _settings(args, spec, classes, precision),
        helper=helper.digest if helper else None,
        train_data=train_data.facts,
        test_data=test_data.facts,
    )
    if args.valFraction is not None:
        train_data, test_data = hold_out(train_data, args.valFraction, seed=args.seed)
    checkpoint = args.saveDir / task.checkpoint_name(settings)
    with _writing(checkpoint):
        found = processes.from_first(standing(checkpoint, settings) if processes.is_first() else None)
        if found is Standing.FINISHED:
            print(f"{checkpoint} is trained already with these settings; delete it to train it again")
            return
        model = runtime.on_device(_first_network(args, spec, classes, checkpoint), device)
        if processes.is_first():
            _make_way(checkpoint, found, resume=args.resume)
        method = _method(task, settings, runtime.on_device(helper.model, device) if helper else None)
        loader = TrainingLoader(
            train_data,
            args.bs,
            device,
            task.order,
            spec.augmentation,
            args.seed,
            share=(processes.number(), processes.count()),
        )
        _check_scorable(test_data)
        validation = _Validation(task, model, _evaluation_loader(args, test_data, device), settings)
        _train(task, args, checkpoint, settings, model, method, loader, validation)


def _train(
    task: Task,
    args: argparse.Namespace,
    checkpoint: Path,
    settings: TrainingSettings,
    model: nn.Module,
    method: Method,
    loader: TrainingLoader,
    validation: _Validation,
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
        "versions": runtime.versions(loader.device),
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
        if processes.is_first():
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
                print(_epoch_line(task, epoch, args.epoch, is_best), flush=True)
                curves.add(epoch, best.epoch)
    except Stopped as stop:
        save()
        reached = f"epoch {position.epoch}, step {position.steps} of {len(loader)}"
        stop.advice = f"{state_path(checkpoint)} keeps all up to {reached}: the same command with --resume goes on"
        raise
    if processes.is_first():
        best.finish()
        state_path(checkpoint).unlink(missing_ok=True)
    print(f"best epoch {best.epoch}: {score_name} {best.score:.4f}; weights in {checkpoint}")


def _resume(checkpoint: Path, settings: TrainingSettings, parts: dict[str, Part], position: Position) -> None:
    """Takes all that changes in a training from its state file, if there is one, in every process."""
    states = processes.from_first(read_training(checkpoint, asdict(settings)) if processes.is_first() else None)
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


def test(task: Task, args: argparse.Namespace) -> None:
    """Attacks one network at every eps; prints the reference's lines and writes a CSV and a JSON file of results."""
    device = _device(args)
    precision = Precision.chosen(args.precision, device)
    source_model = args.surrogateModel or args.targetModel
    source_weight = args.surrogateWeight or args.targetWeight
    spec = _spec(args, args.targetModel, source_model)
    needed = count_classes(spec, args.dataRoot)
    target = source = load_model(args.targetModel, args.targetWeight, spec, classes=needed)
    if (source_model, source_weight) != (args.targetModel, args.targetWeight):
        source = load_model(source_model, source_weight, spec, classes=target.classes)
    data = _load(args, read_samples(spec, args.dataRoot, "test", classes=target.classes), device)
    _check_scorable(data)
    with _writing(result_stem(args.resultDir, spec.name, args.targetWeight, source_weight)):
        digests = {"target_sha256": target.digest, "source_sha256": source.digest}
        results = _open_results(args, task, spec, data, source_model, source_weight, digests, precision, device)
        attacked = None if source is target else runtime.on_device(source.model, device)
        scored = runtime.on_device(target.model, device)
        try:
            _test(task, args, scored, attacked, target.classes, data, results, precision, device)
        except Stopped as stop:
            stop.advice = "the same command goes on"
            raise


def _test(
    task: Task,
    args: argparse.Namespace,
    target: nn.Module,
    source: nn.Module | None,
    classes: int,
    data: ImageData,
    results: ResultFile,
    precision: Precision,
    device: torch.device,
) -> None:
    """The rows that are missing, each as soon as it is there; then what is to be said of all."""
    loader = _evaluation_loader(args, data, device)
    if args.autoBatch:
        for first in islice(loader, 1):  # a process may have no share of a short list
            loader = replace(loader, batch_size=fitting_batch(source or target, first.x, len(loader.data)))
    if args.compile:
        compile_copies(source or target)
    print(f"{results.facts['dataset']}: {len(data)} images", flush=True)

    def evaluated(name: str, budgets: list[Budget], attacks: Sequence[EvaluationAttack | None]) -> list[Evaluation]:
        """The attacks take turns on each image; what is done of them is kept until they have their rows."""
        return evaluate_each(
            target,
            loader,
            task,
            attacks,
            source=source,
            scopes=[(args.seed, name, budget.grey_eps) for budget in budgets],
            title="clean" if name == CLEAN else f"{name} eps {' '.join(f'{budget.grey_eps:g}' for budget in budgets)}",
            precision=precision,
            unfinished=results.unfinished(name, budgets),
        )

    def attack_at(name: str, budgets: list[Budget]) -> None:
        """Adds a row for each budget."""
        made = ATTACKS[name].build_each(budgets, task.attacks[name])
        found = evaluated(name, budgets, made)
        rows = []
        for budget, attack, each in zip(budgets, made, found, strict=True):
            scores = each.scores | task.against_clean(unattacked, each.outcomes, truth)
            rows.append(_row(name, budget, attack.losses(classes), scores, each))
        results.add(*rows)

    if results.find(CLEAN, 0) is None:
        (clean,) = evaluated(CLEAN, [_UNATTACKED], [None])
        results.add(_row(CLEAN, _UNATTACKED, (), clean.scores, clean))
    known = results.row(CLEAN, 0)
    unattacked, truth = torch.tensor(known.outcomes), data.samples.labels[torch.from_numpy(data.rows)]
    print(task.clean_line(known.scores), flush=True)
    for name in args.attacks:
        print(name)
        budgets = [ATTACKS[name].budget(eps) for eps in dict.fromkeys(args.epsilons)]
        for budget in budgets:
            missing = [each for each in budgets if results.find(name, each.grey_eps) is None]
            if budget in missing:
                attack_at(name, missing if ATTACKS[name].shares_gradient else [budget])
            done = results.row(name, budget.grey_eps)
            print(task.attack_line(budget, done.scores, done.seconds), flush=True)
            if done.queries is not None:
                print(f"\t\tmean queries: {done.queries:.1f} mean L2: {done.l2:.4f} mean Linf: {done.linf:.2f}/255")
    if processes.is_first():
        whole = replace(loader, data=data)
        for check in reliability.conclude(results, whole, task, target, source):
            print(check.line, flush=True)
        say(f"results in {results.csv_path} and {results.json_path.name}")


def visualise(task: Task, args: argparse.Namespace) -> None:
    """Grad-CAM of each image's true class, clean and under attack: JPEGs, a contact sheet and a CSV in `--saveDir`."""
    device = _device(args)
    precision = Precision.chosen(args.precision, device)
    spec = _spec(args, args.model)
    loaded = load_model(args.model, args.weight, spec, classes=count_classes(spec, args.dataRoot))
    data = _load(args, read_samples(spec, args.dataRoot, "test", classes=loaded.classes), device)
    run = {
        "weight_sha256": loaded.digest,
        "data": data.facts,
        "precision": precision.name,
        **{name: getattr(args, name) for name in ("imgSize", "seed", "attacks", "epsilons", "overlayOn")},
    }
    with one_writer(args.saveDir / "gradVisual"):
        folder = MapFolder(args.saveDir, run)
        if folder.is_finished:
            print(f"{args.saveDir} holds these maps already; delete {folder.record_path} to draw them again")
            return
        views = [View("clean", 0.0, None, ())]
        for name in dict.fromkeys(args.attacks):
            for eps in dict.fromkeys(args.epsilons):
                made = ATTACKS[name].build(ATTACKS[name].budget(eps), task.attacks[name])
                views.append(View(name, eps, made, (args.seed, name, eps)))
        layer = MODELS[args.model].cam_layer
        assert layer is not None, f"{args.model} names no layer for Grad-CAM"
        model = runtime.on_device(loaded.model, device)
        if args.compile:
            compile_copies(model)
        loader = EvaluationLoader(data, args.bs, device)
        rows = draw_maps(model, layer, loader, views, folder, on_clean=args.overlayOn == "clean", precision=precision)
    pictures = f"{len(rows)} maps of {len(data)} images, the contact sheet gradVisual.png and gradVisual.csv"
    print(f"{pictures} in {args.saveDir}")


def checkpoint_path(task: Task, args: argparse.Namespace) -> Path:
    """Where `train` will keep its network. Reads no more than the labels, and those only of undeclared classes."""
    spec = _spec(args, args.model)
    classes = count_classes(spec, args.dataRoot) or read_samples(spec, args.dataRoot, "train").classes
    return Path(args.saveDir / task.checkpoint_name(_settings(args, spec, classes, FP32)))


def result_path(task: Task, args: argparse.Namespace) -> Path:
    """The record that `test` will write. Reads nothing."""
    spec = _spec(args, args.targetModel, args.surrogateModel or args.targetModel)
    source = args.surrogateWeight or args.targetWeight
    stem = result_stem(args.resultDir, spec.name, args.targetWeight, source)
    return stem.with_name(stem.name + ".json")


def _device(args: argparse.Namespace) -> torch.device:
    """This process' device, and memory as suits it."""
    device = processes.pick_device(args.gpu)
    if device.type == "cpu":
        runtime.keep_freed_memory()
    return device


def _spec(args: argparse.Namespace, *models: str) -> DatasetSpec:
    """The data set at the size asked for, which the models must be able to take."""
    spec = DATASETS[args.dataset]
    if args.imgSize is not None:
        spec = spec.at_size(args.imgSize)
    for model in models:
        if spec.size < MODELS[model].min_size:
            raise UserError(
                f"--imgSize {spec.size} is too small for {model}: it takes {MODELS[model].min_size} or more"
            )
    return spec


def _read_lists(args: argparse.Namespace, spec: DatasetSpec) -> tuple[SampleList, SampleList]:
    """The training and the test list, both checked before either is decoded."""
    train_list = read_samples(spec, args.dataRoot, "train")
    test_list = read_samples(spec, args.dataRoot, "test", classes=train_list.classes)
    shared = count_shared(train_list, test_list)
    if shared:
        say(f"warning: {shared} images are in both {train_list.path} and {test_list.path.name}: scores will flatter")
    return train_list, test_list


def _load(args: argparse.Namespace, samples: SampleList, device: torch.device) -> ImageData:
    """The pixels of the rows asked for, in the device's memory if they fit; what is odd about them is said."""
    samples = samples.first(args.limit)
    odd = count_odd_masks(samples)
    if odd:
        say(f"{samples.path}: {odd} masks have another size than their image; both are resized to the same square")
    with processes.one_before_the_others():  # they find in the cache what it has decoded
        data = load_data(args.dataRoot, samples, workers=args.workers)
    if data.empty_masks == len(data):
        raise UserError(f"{samples.path}: all {len(data)} masks are empty: foreground must be grey 128 or more of 255")
    if data.empty_masks:
        say(f"{samples.path}: {data.empty_masks} masks are all background")
    return data.kept_on(device)


def _writing(path: Path) -> AbstractContextManager[None]:
    """Of the processes of one run the first writes; no other run does meanwhile."""
    return one_writer(path) if processes.is_first() else nullcontext()


def _evaluation_loader(args: argparse.Namespace, data: ImageData, device: torch.device) -> EvaluationLoader:
    """This process' share of the list; `--bs` is the batch of all processes together."""
    share = data.share(processes.number(), processes.count())
    return EvaluationLoader(share, -(-args.bs // processes.count()), device)


def _check_scorable(data: ImageData) -> None:
    """Says for which findings a list has no AUROC; none for any of them is no list to score on."""
    undefined, where = data.undefined_findings, data.samples.path
    if undefined and len(undefined) == len(data.samples.spec.findings):
        raise UserError(f"{where}: no finding has both a positive and a negative among the {len(data)} rows: use more")
    if undefined:
        say(f"{where}: {', '.join(undefined)} have one class only in {len(data)} rows: left out of the mean AUROC")


def _load_helper(args: argparse.Namespace, spec: DatasetSpec, classes: int) -> Loaded | None:
    """HAT's helper, checked before any work; other methods have none."""
    if args.method != "hat":
        return None
    if args.helperModel is None or args.helperWeight is None:
        raise UserError("--method hat needs --helperModel and --helperWeight: a naturally trained network")
    return load_model(args.helperModel, args.helperWeight, spec, classes=classes)


def _first_network(args: argparse.Namespace, spec: DatasetSpec, classes: int, checkpoint: Path) -> nn.Module:
    """The network that the training begins with. One that goes on needs no download: a state has all its weights."""
    goes_on = args.resume and state_path(checkpoint).exists()
    init = "random" if processes.from_first(goes_on) else _first_weights(args)
    with processes.one_before_the_others():  # what is downloaded, is once
        runtime.seed_everything(args.seed)
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
        step_size=0.0 if is_natural else step_size_for(eps),
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
        processes=processes.count(),
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


def _make_way(checkpoint: Path, found: Standing | None, *, resume: bool) -> None:
    """What a training from the beginning would replace is renamed; none is lost.

    With `resume`, what the same training has left is gone on with, or made anew.
    """
    is_begun = state_path(checkpoint).exists()
    if not (resume and (is_begun or found is Standing.UNFINISHED)):
        files = (checkpoint, record_path(checkpoint), picture_path(checkpoint), state_path(checkpoint))
        moved = ", ".join(path.name for path in set_aside(*files))
        if is_begun:
            say(f"an unfinished training was at {checkpoint}, which --resume goes on with: kept as {moved}")
        elif moved:
            say(f"{checkpoint} was made with other settings, by another program or in part: kept as {moved}")


class _Validation:
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
        return evaluate(
            self._model,
            self._loader,
            self._task,
            attack,
            scope=self._scope,
            title="validation" if budget is None else "validation under attack",
            precision=self._precision,
        ).scores


def _epoch_line(task: Task, epoch: Epoch, epochs: int, is_best: bool) -> str:
    name = task.selection
    robust = f" robust {name} {epoch.robust[name]:.4f}" if epoch.robust else ""
    return (
        f"epoch {epoch.number}/{epochs} loss {epoch.loss:.4f} clean {name} {epoch.clean[name]:.4f}{robust}"
        f" {epoch.seconds:.1f} s{' (best so far)' if is_best else ''}"
    )


def _open_results(
    args: argparse.Namespace,
    task: Task,
    spec: DatasetSpec,
    data: ImageData,
    source_model: str,
    source_weight: Path,
    digests: dict[str, str],
    precision: Precision,
    device: torch.device,
) -> ResultFile:
    """The run's result files, with the rows that an earlier, equal run has already finished."""
    samples = data.samples
    run: dict[str, Any] = {
        "seed": args.seed,
        "size": spec.size,
        "precision": precision.name,
        "data": data.facts,
        **digests,
    }
    record = {
        "versions": runtime.versions(device),
        "target_training": (read_record(args.targetWeight) or {}).get("settings"),
        "samples": {
            "index": list(range(len(samples))),
            "file": samples.files,
            "label": samples.masks or samples.labels.tolist(),
        },
    }
    facts = {
        "dataset": samples.dataset_name,
        "target_model": args.targetModel,
        "target_weight": str(args.targetWeight),
        "source_model": source_model,
        "source_weight": str(source_weight),
    }
    stem = result_stem(args.resultDir, spec.name, args.targetWeight, source_weight)
    results = ResultFile(stem, facts, task.score_names, run, record)
    for path in results.resume() if processes.is_first() else []:
        say(f"results of another run were there: kept as {path}")
    results.rows = processes.from_first(results.rows)
    if results.rows:
        say(f"{len(results.rows)} rows are in {results.csv_path} already and are not repeated")
    return results


def _row(attack: str, budget: Budget, losses: Sequence[str], scores: Scores, found: Evaluation) -> Row:
    linf = found.linf * GREY_LEVELS
    notes = {"l2": found.l2, "linf": linf, **found.notes}
    return Row(
        attack=attack,
        eps=budget.grey_eps,
        steps=budget.steps,
        step_size=budget.grey_step_size,
        n=len(found),
        scores=scores,
        seconds=found.seconds,
        l2=float(found.l2.mean()),
        linf=float(linf.mean()),
        queries=float(found.notes["queries"].float().mean()) if "queries" in found.notes else None,
        losses=list(losses),
        outcomes=found.outcomes.tolist(),
        notes={name: values.tolist() for name, values in notes.items()},
    )
