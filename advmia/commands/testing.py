"""The command of the test scripts, the same for every task.

`test` reads the list and the networks, opens the result files, and computes the rows that they lack: first the clean
one, then each attack at each eps. At the end it checks whether the scores are reliable. A test that was stopped or
killed continues with the same command: finished rows are in the result files, and the finished images of the row under
way are in a file beside them (`advmia.results.partial`).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advmia.attacks.inference import compile_copies, fitting_batch
from advmia.budgets import Budget
from advmia.checkpoints.best import read_seed, read_training_of, seed_of
from advmia.checkpoints.paths import seed_folder
from advmia.checkpoints.weights import LoadedModel, load_model
from advmia.commands.inputs import (
    Inputs,
    check_imported,
    check_normalization,
    check_scorable,
    choose_spec,
)
from advmia.data.loading import EvaluationLoader, ImageData
from advmia.data.readers import count_listed_classes, read_samples
from advmia.data.specs import DatasetSpec
from advmia.evaluation import reliability
from advmia.evaluation.attacked import AttackRun
from advmia.evaluation.guessing import base_rate
from advmia.evaluation.loop import EvaluationOptions, evaluate, result_row
from advmia.evaluation.origin import check_dataset, check_training
from advmia.evaluation.tally import Evaluation
from advmia.models import shown_name
from advmia.results.rows import CLEAN, WORST, ResultRow
from advmia.results.write import ResultFile, result_stem
from advmia.runtime import distributed, machine
from advmia.runtime.signals import Stopped
from advmia.runtime.terminal import say
from advmia.tasks import Task

_NO_ATTACK = Budget(0, 0, 0)


def test(task: Task, args: argparse.Namespace) -> None:
    """Attacks one network at every eps; prints the published code's lines and writes a CSV and a JSON file."""
    source_model, _ = _source(args)
    inputs = Inputs.of(args, args.targetModel, source_model)
    target, source = _load_networks(inputs)
    trainings = _read_trainings(inputs, target, source)
    samples = read_samples(inputs.spec, args.dataRoot, "test", classes=target.classes)
    data = inputs.load_images(samples)
    check_scorable(data)
    check = check_training(trainings, data)
    if check.verdict == "warning":
        say(f"warning: {check.reason}")
    results = _open_results(task, inputs, data, (target.sha256, source.sha256), trainings)
    source_network = None if source is target else machine.on_device(source.model, inputs.device)
    target_network = machine.on_device(target.model, inputs.device)
    try:
        loader = _loader(inputs, data, source_network or target_network)
        _Run(task, inputs, loader, data, results, target_network, source_network, target.classes).compute_rows()
    except Stopped as stop:
        stop.advice = "the same command continues"
        raise


@dataclass(frozen=True)
class _Run:
    """A test with everything read: the list, the networks and the result files."""

    task: Task
    inputs: Inputs
    loader: EvaluationLoader  # this rank's shard of the list
    data: ImageData  # the whole list
    results: ResultFile
    target: nn.Module
    source: nn.Module | None  # None: the target itself
    classes: int

    def compute_rows(self) -> None:
        """Computes the missing rows, printing each as it finishes; then the reliability checks."""
        print(f"{self.results.facts['dataset']}: {len(self.data)} images", flush=True)
        with self.results.turn((CLEAN, 0.0, 1, False)) as is_missing:
            if is_missing:
                self.results.add(self.results.clean_row_beside() or self.clean_row())
        clean_row = self.results.row(CLEAN, 0)
        check = base_rate(self.task, self.data).check(clean_row.scores, torch.tensor(clean_row.outcomes))
        if check.verdict == "warning":  # before the scores, which say nothing then
            print(check.line)
        print(self.task.clean_line(clean_row.scores), flush=True)
        args = self.inputs.args
        for name in args.attacks:
            epsilons = dict.fromkeys(args.epsilons)
            runs = [AttackRun.of(name, eps, args.restarts, rounds=args.eightBit) for eps in epsilons]
            print(runs[0].label)
            for run in runs:
                with self.results.turn(*run.keys) as is_missing:
                    if is_missing:
                        found = self.evaluate(run)
                        self.results.add(*run.rows(found, self.task, clean_row, self.labels, self.classes))
                for row in self.results.rows:
                    if row.key in run.keys:
                        self.print_row(row, run.budget)
        if distributed.is_main():
            whole_list = replace(self.loader, data=self.data)
            checks = reliability.conclude(self.results, whole_list, self.task, self.target, self.source)
            self.print_worst()
            for check in checks:
                print(check.line, flush=True)
            say(f"results in {self.results.csv_path} and {self.results.json_path.name}")

    def clean_row(self) -> ResultRow:
        """Returns the row of the clean images."""
        clean = self.evaluate()
        return result_row(CLEAN, _NO_ATTACK, (), clean.scores, clean)

    def evaluate(self, run: AttackRun | None = None) -> Evaluation:
        """Evaluates the target under an attack, or clean. Continues from partial progress, and saves its own."""
        name, budget, restarts = (run.name, run.budget, run.restarts) if run else (CLEAN, _NO_ATTACK, 1)
        options = EvaluationOptions(
            scope=(self.inputs.args.seed, name, budget.grey_eps),
            title=f"{run.label} eps {budget.grey_eps:g}" if run else "clean",
            precision=self.inputs.precision,
            partial=self.results.partial_evaluation(name, budget, restarts),
            rounding=run.rounding if run else None,
        )
        attack = run.build(self.task) if run else None
        return evaluate(self.target, self.loader, self.task, attack, source=self.source, options=options)

    def print_worst(self) -> None:
        """Prints the rows `worst` at the eps of this run."""
        attacks: list[str] = []
        for row in self.results.rows:
            if row.attack == WORST and row.grey_eps in self.inputs.args.epsilons:
                if row.attacks != attacks:
                    attacks = row.attacks
                    print(f"{WORST} of {', '.join(attacks)}")
                self.print_row(row, Budget.grey(row.grey_eps, 0, 0))

    def print_row(self, row: ResultRow, budget: Budget) -> None:
        """Prints the line of an attack, or of the images that it has left rounded to 8 bits."""
        if row.eight_bits:
            print(f"\t\trounded to 8 bits: {self.task.selection} {row.scores[self.task.selection]:.4f}", flush=True)
            return
        print(self.task.attack_line(budget, row.scores, row.seconds), flush=True)
        if row.queries is not None:
            print(f"\t\tmean queries: {row.queries:.1f} mean L2: {row.l2:.4f} mean Linf: {row.grey_linf:.2f}/255")

    @property
    def labels(self) -> Tensor:
        """The label or labels of each image; empty for masks."""
        return self.data.samples.labels[torch.from_numpy(self.data.indices)]


def result_path(task: Task, args: argparse.Namespace) -> Path:
    """Returns the path of the JSON file that `test` will write, unless another run has this name.

    Reads at most the checkpoints and their records, which say the seeds of the trainings.
    """
    source_model, source_weight = _source(args)
    is_transfer = (source_model, source_weight) != (args.targetModel, args.targetWeight)
    spec = choose_spec(args, args.targetModel, source_model)
    stem = _stem(args, spec, read_seed(args.targetWeight), read_seed(source_weight) if is_transfer else None)
    return ResultFile(stem, facts={}, score_names=task.score_names(spec), run={}, details={}).json_path


def _source(args: argparse.Namespace) -> tuple[str, Path]:
    """Returns the source's model and checkpoint; what the flags do not name is the target's."""
    return args.surrogateModel or args.targetModel, args.surrogateWeight or args.targetWeight


def _seeds(args: argparse.Namespace, trainings: dict[str, Any]) -> tuple[int, int | None]:
    """Returns the seeds of the trainings of the target and of the source; None for the source of a white-box test."""
    target = seed_of(args.targetWeight, trainings["target_training"])
    if "source_training" not in trainings:
        return target, None
    return target, seed_of(_source(args)[1], trainings["source_training"])


def _stem(args: argparse.Namespace, spec: DatasetSpec, seed: int, source_seed: int | None) -> Path:
    """Returns the result files' path without its ending. `seed`, `source_seed`: see `_seeds`."""
    source = None if source_seed is None else _source(args)[1]
    mark = "" if source_seed in (None, seed) else f"seed{source_seed}__"
    return result_stem(seed_folder(args.resultDir, seed), spec.name, args.targetWeight, source, mark)


def _load_networks(inputs: Inputs) -> tuple[LoadedModel, LoadedModel]:
    """Loads the target and the source, which are one object in a white-box test.

    A surrogate with the target's weights is the target, wherever its file lies.
    """
    args, spec = inputs.args, inputs.spec
    classes = count_listed_classes(spec, args.dataRoot)
    target = load_model(args.targetModel, args.targetWeight, spec, classes=classes)
    check_imported(args.targetModel, target.model, target.classes, spec.size)
    source_model, source_weight = _source(args)
    if (source_model, source_weight) == (args.targetModel, args.targetWeight):
        return target, target
    source = load_model(source_model, source_weight, spec, classes=target.classes)
    check_imported(source_model, source.model, source.classes, spec.size)
    if source.sha256 != target.sha256:
        return target, source
    say(f"{source_weight} holds the weights of the target {args.targetWeight}: this is a white-box test")
    return target, target


def _read_trainings(inputs: Inputs, target: LoadedModel, source: LoadedModel) -> dict[str, Any]:
    """Returns what the networks' records say of their trainings: settings and warnings, as `check_training` takes them.

    Raises `UserError` if a network was trained on another data set, unless --otherDataset says that this is meant.
    """
    args = inputs.args
    used = {"target_training": (args.targetWeight, target)}
    if source is not target:
        used["source_training"] = (_source(args)[1], source)
    trainings: dict[str, Any] = {}
    warnings = {}
    for name, (path, network) in used.items():
        trainings[name], said = read_training_of(path, network.sha256)
        check_dataset(path, trainings[name], inputs.spec, is_meant=getattr(args, "otherDataset", False))
        check_normalization(path, trainings[name], args)
        if said:
            warnings[name.removesuffix("_training")] = said
    return trainings | ({"training_warnings": warnings} if warnings else {})


def _loader(inputs: Inputs, data: ImageData, network: nn.Module) -> EvaluationLoader:
    """Returns a loader of this rank's shard, whose batches are as large as fit the GPU, unless --bs says how large.

    `network`: the one that attacks run on, with --compile on a compiled copy of it.
    """
    loader = inputs.evaluation_loader(data)
    if inputs.args.autoBatch or inputs.args.bs is None:
        for first in islice(loader, 1):  # a rank's shard of a short list may be empty
            loader = replace(loader, batch_size=fitting_batch(network, first.x, len(loader.data)))
    if inputs.args.compile:
        compile_copies(network)
    return loader


def _open_results(
    task: Task, inputs: Inputs, data: ImageData, digests: tuple[str, str], trainings: dict[str, Any]
) -> ResultFile:
    """Returns the result files of this run, with the rows that an earlier, equal run has finished (collective).

    `digests`: the SHA-256 of the target's and of the source's weights. `trainings`: see `_read_trainings`.
    """
    args, samples = inputs.args, data.samples
    is_transfer = digests[0] != digests[1]
    source_model, source_weight = _source(args) if is_transfer else (args.targetModel, args.targetWeight)
    run: dict[str, Any] = {
        "seed": args.seed,
        "size": inputs.spec.size,
        "precision": inputs.precision.name,
        "data": data.facts,
        "target_sha256": digests[0],
        "source_sha256": digests[1],
        # Only where they are used, as in the files of earlier versions.
        **({"normalize": args.normalize} if args.normalize is not None else {}),
        **inputs.spec.recorded,
    }
    record = {
        "finished": False,  # until the checks at the end
        "versions": machine.versions(inputs.device),
        **trainings,
        "samples": {
            "index": list(range(len(samples))),
            "file": samples.files,
            "label": samples.masks or samples.labels.tolist(),
        },
    }
    facts = {
        "dataset": samples.dataset_name,
        "target_model": shown_name(args.targetModel),
        "target_weight": str(args.targetWeight),
        "source_model": shown_name(source_model),
        "source_weight": str(source_weight),
    }
    stem = _stem(args, inputs.spec, *_seeds(args, trainings))
    results = ResultFile(stem, facts, task.score_names(inputs.spec), run, record)
    with results.locked() as renamed:
        for path in renamed:
            say(f"damaged results, or those of another version, were there: kept as {path}")
    results.stem, results.rows = distributed.broadcast((results.stem, results.rows))
    if results.stem != stem:
        say(
            f"{stem.name}.json holds results of a run with other settings: those of this run are in {results.json_path}"
        )
    if results.rows:
        say(f"{len(results.rows)} rows are in {results.csv_path} already and are not repeated")
    return results
