"""The command of the test scripts, the same for every task.

`test` reads the list and the networks, opens the result files, and computes the rows that they lack: first the clean
one, then each attack at each eps. At the end it checks whether the scores are reliable. A test that was stopped or
killed continues with the same command: finished rows are in the result files, and the finished images of the row under
way are in a file beside them (`advmia.results.partial`).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from advmia.attacks import square_memory
from advmia.attacks.inference import compile_copies, fitting_batch, plain_kernels
from advmia.attacks.square_memory import SquareMemory
from advmia.budgets import Budget
from advmia.checkpoints.best import read_training_of
from advmia.checkpoints.weights import LoadedModel, load_model
from advmia.commands.inputs import (
    Inputs,
    check_imported,
    check_normalization,
    check_scorable,
)
from advmia.commands.result_names import seeds_of, source_of, stem_of
from advmia.data.loading import EvaluationLoader, ImageData
from advmia.data.readers import count_listed_classes, read_samples
from advmia.evaluation import reliability
from advmia.evaluation.attacked import AttackRun, evaluation_options
from advmia.evaluation.guessing import base_rate
from advmia.evaluation.loop import evaluate, result_row
from advmia.evaluation.origin import check_dataset, check_training
from advmia.evaluation.tally import Evaluation
from advmia.models import shown_name
from advmia.pictures.adversarial import AdversarialFolder
from advmia.pictures.drawing import draw_sheets
from advmia.pictures.folder import SheetFolder
from advmia.pictures.tested import NetworkUnderTest
from advmia.results.rows import CLEAN, WORST, ResultRow
from advmia.results.write import ResultFile
from advmia.runtime import distributed, machine
from advmia.runtime.rng import GENERATOR
from advmia.runtime.signals import Stopped
from advmia.runtime.terminal import say
from advmia.tasks import Task

_NO_ATTACK = Budget(0, 0, 0)


def test(task: Task, args: argparse.Namespace) -> None:
    """Attacks one network at every eps; prints the published code's lines and writes a CSV and a JSON file."""
    source_model, _ = source_of(args)
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
        networks, memory = (target_network, source_network), square_memory(args.attacks)
        _Run(task, inputs, loader, data, results, *networks, target.classes, memory).compute_rows()
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
    memory: SquareMemory | None  # what attacks of this run share

    def compute_rows(self) -> None:
        """Computes the missing rows, printing each as it finishes; then the reliability checks and the pictures."""
        adversarial = self.adversarial  # is made first: it raises now, not after hours, if something else is there
        if self.inputs.args.pictures and distributed.is_main():
            SheetFolder(self.results)  # likewise
        print(f"{self.results.facts['dataset']}: {len(self.data)} images", flush=True)
        with self.results.turn((CLEAN, 0.0, 1, False)) as is_missing:
            if is_missing:
                self.results.add(self.results.clean_row_beside() or self.clean_row())
        clean_row = self.results.row(CLEAN, 0)
        check = base_rate(self.task, self.data).check(clean_row.scores, torch.tensor(clean_row.outcomes))
        if check.verdict == "warning":  # before the scores, which say nothing then
            print(check.line)
        print(self.task.clean_line(clean_row.scores), flush=True)
        for runs in self.runs:
            print(runs[0].label)
            for run in runs:
                with self.results.turn(*run.keys) as is_missing:
                    if is_missing:
                        found = self.evaluate(run)
                        self.results.add(*run.rows(found, self.task, clean_row, self.labels, self.classes))
                if adversarial:
                    adversarial.complete(run)
                for row in self.results.rows:
                    if row.key in run.keys:
                        self.print_row(row, run.budget)
        if distributed.is_main():
            checks = reliability.conclude(self.results, self.tested.loader, self.task, self.target, self.source)
            self.print_worst()
            for check in checks:
                print(check.line, flush=True)
            say(f"results in {self.results.csv_path} and {self.results.json_path.name}")
        if self.inputs.args.pictures:
            by_eps = [sorted(runs, key=lambda run: run.budget.grey_eps) for runs in self.runs]
            draw_sheets(self.tested, self.results, by_eps, self.inputs.args.pictures)

    @cached_property
    def runs(self) -> list[list[AttackRun]]:
        """Each attack at every eps."""
        args = self.inputs.args
        epsilons = dict.fromkeys(args.epsilons)
        return [
            [AttackRun.of(name, eps, args.restarts, rounds=args.eightBit) for eps in epsilons] for name in args.attacks
        ]

    @cached_property
    def tested(self) -> NetworkUnderTest:
        whole_list = replace(self.loader, data=self.data)
        seed, precision = self.inputs.args.seed, self.inputs.precision
        return NetworkUnderTest(self.task, self.target, self.source, whole_list, precision, seed)

    @cached_property
    def adversarial(self) -> AdversarialFolder | None:
        """Where the attacked images go; None without --saveAdversarial (collective at its first use)."""
        return AdversarialFolder(self.tested, self.results) if self.inputs.args.saveAdversarial else None

    def clean_row(self) -> ResultRow:
        """Returns the row of the clean images."""
        clean = self.evaluate()
        return result_row(CLEAN, _NO_ATTACK, (), clean.scores, clean)

    def evaluate(self, run: AttackRun | None = None) -> Evaluation:
        """Evaluates the target under an attack, or clean. Continues from partial progress, and saves its own."""
        name, budget, restarts = (run.name, run.budget, run.restarts) if run else (CLEAN, _NO_ATTACK, 1)
        options = replace(
            evaluation_options(run, self.inputs.args.seed, self.inputs.precision),
            partial=self.results.partial_evaluation(name, budget, restarts),
            keep=self.adversarial.keeper(run) if self.adversarial and run else None,
        )
        attack = run.build(self.task, self.memory) if run else None
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


def _load_networks(inputs: Inputs) -> tuple[LoadedModel, LoadedModel]:
    """Loads the target and the source, which are one object in a white-box test.

    A surrogate with the target's weights is the target, wherever its file lies.
    """
    args, spec = inputs.args, inputs.spec
    classes = count_listed_classes(spec, args.dataRoot)
    target = load_model(args.targetModel, args.targetWeight, spec, classes=classes)
    check_imported(args.targetModel, target.model, target.classes, spec.size)
    source_model, source_weight = source_of(args)
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
        used["source_training"] = (source_of(args)[1], source)
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

    `network`: the one that attacks run on, on the copy that --compile and --kernels ask for.
    """
    loader = inputs.evaluation_loader(data)
    if inputs.args.kernels == "plain":
        plain_kernels(network)
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
    source_model, source_weight = source_of(args) if is_transfer else (args.targetModel, args.targetWeight)
    run: dict[str, Any] = {
        "seed": args.seed,
        "size": inputs.spec.size,
        "precision": inputs.precision.name,
        "generator": GENERATOR,
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
    stem = stem_of(args, inputs.spec, *seeds_of(args, trainings))
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
