"""The story of training and of testing, told once for every task. Only here and in `cli` are command lines known."""

from __future__ import annotations

import argparse
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from advmia.attacks import ATTACKS
from advmia.attacks.common import EvaluationAttack
from advmia.attacks.inference import compile_copies, fitting_batch
from advmia.budgets import Budget
from advmia.checkpoints.best import read_record
from advmia.checkpoints.weights import load_model
from advmia.commands.inputs import (
    check_scorable,
    choose_device,
    choose_spec,
    evaluation_loader,
    load_images,
    lock_outputs,
)
from advmia.data.loading import ImageData
from advmia.data.readers import (
    count_listed_classes,
    read_samples,
)
from advmia.data.specs import DatasetSpec
from advmia.evaluation import reliability
from advmia.evaluation.loop import EvaluationOptions, evaluate, result_row
from advmia.evaluation.tally import Evaluation
from advmia.results.rows import CLEAN
from advmia.results.write import ResultFile, result_stem
from advmia.runtime import distributed, machine
from advmia.runtime.precision import Precision
from advmia.runtime.signals import Stopped
from advmia.runtime.terminal import say
from advmia.tasks import Task

_UNATTACKED = Budget(0, 0, 0)


def test(task: Task, args: argparse.Namespace) -> None:
    """Attacks one network at every eps; prints the reference's lines and writes a CSV and a JSON file of results."""
    device = choose_device(args)
    precision = Precision.choose(args.precision, device)
    source_model = args.surrogateModel or args.targetModel
    source_weight = args.surrogateWeight or args.targetWeight
    spec = choose_spec(args, args.targetModel, source_model)
    needed = count_listed_classes(spec, args.dataRoot)
    target = source = load_model(args.targetModel, args.targetWeight, spec, classes=needed)
    if (source_model, source_weight) != (args.targetModel, args.targetWeight):
        source = load_model(source_model, source_weight, spec, classes=target.classes)
    data = load_images(args, read_samples(spec, args.dataRoot, "test", classes=target.classes), device)
    check_scorable(data)
    with lock_outputs(result_stem(args.resultDir, spec.name, args.targetWeight, source_weight)):
        digests = {"target_sha256": target.digest, "source_sha256": source.digest}
        results = _open_results(args, task, spec, data, source_model, source_weight, digests, precision, device)
        attacked = None if source is target else machine.on_device(source.model, device)
        scored = machine.on_device(target.model, device)
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
    loader = evaluation_loader(args, data, device)
    if args.autoBatch:
        for first in islice(loader, 1):  # a process may have no share of a short list
            loader = replace(loader, batch_size=fitting_batch(source or target, first.x, len(loader.data)))
    if args.compile:
        compile_copies(source or target)
    print(f"{results.facts['dataset']}: {len(data)} images", flush=True)

    def evaluated(name: str, budget: Budget, attack: EvaluationAttack | None) -> Evaluation:
        title = "clean" if name == CLEAN else f"{name} eps {budget.grey_eps:g}"
        scope = (args.seed, name, budget.grey_eps)
        options = EvaluationOptions(scope, title, precision, results.partial_evaluation(name, budget))
        return evaluate(target, loader, task, attack, source=source, options=options)

    def attack_at(name: str, budget: Budget) -> None:
        attack = ATTACKS[name].build(budget, task.attacks[name])
        evaluation = evaluated(name, budget, attack)
        scores = evaluation.scores | task.against_clean(unattacked, evaluation.outcomes, truth)
        results.add(result_row(name, budget, attack.losses(classes), scores, evaluation))

    if results.find(CLEAN, 0) is None:
        clean = evaluated(CLEAN, _UNATTACKED, None)
        results.add(result_row(CLEAN, _UNATTACKED, (), clean.scores, clean))
    known = results.row(CLEAN, 0)
    unattacked, truth = torch.tensor(known.outcomes), data.samples.labels[torch.from_numpy(data.indices)]
    print(task.clean_line(known.scores), flush=True)
    for name in args.attacks:
        print(name)
        budgets = [ATTACKS[name].budget(eps) for eps in dict.fromkeys(args.epsilons)]
        for budget in budgets:
            if results.find(name, budget.grey_eps) is None:
                attack_at(name, budget)
            done = results.row(name, budget.grey_eps)
            print(task.attack_line(budget, done.scores, done.seconds), flush=True)
            if done.queries is not None:
                print(
                    f"\t\tmean queries: {done.queries:.1f} mean L2: {done.l2:.4f} mean Linf: {done.grey_linf:.2f}/255"
                )
    if distributed.is_main():
        whole = replace(loader, data=data)
        for check in reliability.conclude(results, whole, task, target, source):
            print(check.line, flush=True)
        say(f"results in {results.csv_path} and {results.json_path.name}")


def result_path(task: Task, args: argparse.Namespace) -> Path:
    """The record that `test` will write. Reads nothing."""
    spec = choose_spec(args, args.targetModel, args.surrogateModel or args.targetModel)
    source = args.surrogateWeight or args.targetWeight
    stem = result_stem(args.resultDir, spec.name, args.targetWeight, source)
    return stem.with_name(stem.name + ".json")


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
        "versions": machine.versions(device),
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
    for path in results.resume() if distributed.is_main() else []:
        say(f"results of another run were there: kept as {path}")
    results.rows = distributed.broadcast(results.rows)
    if results.rows:
        say(f"{len(results.rows)} rows are in {results.csv_path} already and are not repeated")
    return results
