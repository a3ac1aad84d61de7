"""How long one step of a sweep takes: its passes, counted, times the seconds of each, measured."""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from advmia.attacks import ATTACKS
from advmia.commands.inputs import choose_spec
from advmia.commands.settings import method_of, settings_of
from advmia.data.list_rows import read_list
from advmia.data.loading import EVALUATION_BATCH_SIZE
from advmia.data.readers import count_listed_classes
from advmia.data.specs import DatasetSpec, Split
from advmia.entry_points import SCRIPTS
from advmia.errors import UserError
from advmia.evaluation.attacked import AttackRun
from advmia.runtime.precision import Precision
from advmia.runtime.terminal import say
from advmia.sweeps.passes import Cost, checks_cost, evaluation_cost, method_costs
from advmia.sweeps.scene import Scene
from advmia.sweeps.steps import Step
from advmia.sweeps.stopwatch import Stopwatch
from advmia.training.loop import validated_epochs

Known = TypeVar("Known")
REST = "clean images, checks, start"  # of a test, beside its attacks
TRAINING = "training"


@dataclass(frozen=True)
class StepTime:
    """The estimated seconds of one step, by parts: `TRAINING`, or for a test each attack and `REST`."""

    step: Step
    parts: Mapping[str, float]

    @property
    def seconds(self) -> float:
        return sum(self.parts.values())


@dataclass
class Estimator:
    """Estimates steps on one device. What several steps have in common is counted and timed once."""

    device: torch.device
    stopwatch: Stopwatch = field(default_factory=Stopwatch)
    known: dict[Hashable, object] = field(default_factory=dict)

    def time_of(self, step: Step) -> StepTime:
        """Returns the time of a training or a test. Raises `UserError` for a batch that does not fit the memory."""
        words = list(step.words)
        while words[0] not in SCRIPTS:  # `-m advmia.entry_points` before it
            del words[0]
        script = SCRIPTS[words[0]]
        args = script.parse(words)
        precision = Precision.choose(args.precision, self.device)
        model = args.model if step.kind == "train" else args.targetModel
        spec = choose_spec(args, model)
        classes = len(spec.findings) or count_listed_classes(spec, args.dataRoot) or 2
        scene = Scene(spec, classes, 0, args.bs or EVALUATION_BATCH_SIZE, self.device, precision)
        if step.kind == "train":
            parts: Mapping[str, float] = {TRAINING: self._training(scene, args)}
        else:
            parts = self._test(scene, args)
        return StepTime(step, parts)

    def _training(self, scene: Scene, args: argparse.Namespace) -> float:
        """Returns the seconds of a training: its updates, validations and saved states, and the start."""
        train, validation = self._training_lists(scene.spec, args)
        scene, epochs = replace(scene, images=train), args.epoch
        examples, loss = self._method_costs(scene, args)
        perturbed = 0.0 if args.awp is None else max(epochs - args.awpWarmUp, 0) / epochs  # share of the epochs
        update = 0.0
        for awp, share in ((None, 1 - perturbed), (args.awp, perturbed)):
            if share:
                update += share * self.stopwatch.of_update(scene, args.model, awp, args.ema)
        # An update has one pass by the weights, or two with a perturbation; those beyond are the method's.
        own = loss - Cost({kind: 1 for kind in loss.passes if kind.kind == "weights"})
        image = update + self._seconds(scene, examples + own * (1 + perturbed), is_training=True)
        seconds = self.stopwatch.of_start(self.device, "train")
        seconds += epochs * (train * image + self.stopwatch.of_saving(scene, args.model))
        if examples.passes:
            updates = epochs * math.ceil(train / args.bs)
            seconds += updates * self.stopwatch.of_refolding(scene, args.model)
        validations = len(validated_epochs(epochs, args.validateEvery))
        return seconds + validations * self._validation(replace(scene, images=validation), args)

    def _training_lists(self, spec: DatasetSpec, args: argparse.Namespace) -> tuple[int, int]:
        """Returns the numbers of images to train on, and to validate on."""
        train = self._images(spec, args, "train")
        if args.valFraction is not None:
            held_out = math.ceil(args.valFraction * train)
            return train - held_out, held_out
        return train, self._images(replace(spec, test_list=spec.val_list or spec.test_list), args, "test")

    def _method_costs(self, scene: Scene, args: argparse.Namespace) -> tuple[Cost, Cost]:
        settings = settings_of(args, scene.spec, scene.classes, scene.precision)
        helper = args.helperModel if args.method == "hat" else None
        build = partial(method_of, scene.task, settings)
        key = (scene, args.model, args.method, helper, settings.steps, bool(settings.grey_eps), settings.attack_loss)
        return self._once(key, lambda: method_costs(scene, args.model, helper, build))

    def _validation(self, scene: Scene, args: argparse.Namespace) -> float:
        seconds = self._evaluation(scene, None, args.model, None, is_test=False)
        if args.method != "nat" and args.eps:
            seconds += self._evaluation(scene, AttackRun.of("pgd", args.eps), args.model, None, is_test=False)
        return seconds

    def _test(self, scene: Scene, args: argparse.Namespace) -> dict[str, float]:
        """Returns the seconds of a test by attack, and those of the rest."""
        scene = replace(scene, images=self._images(scene.spec, args, "test"))
        target, source = args.targetModel, args.surrogateModel
        parts: dict[str, float] = defaultdict(float)
        for name in args.attacks:
            for eps in dict.fromkeys(args.epsilons):
                run = AttackRun.of(name, eps, args.restarts, rounds=args.eightBit)
                if ATTACKS[name].streams in args.attacks:  # takes its images from there, which costs as little as eps 0
                    run = replace(run, budget=replace(run.budget, eps=0.0))
                parts[run.label] += self._evaluation(scene, run, target, source)
        checks = self._once(("checks", scene, target, source), lambda: checks_cost(scene, target, source))
        rest = self._seconds(scene, checks) + self._evaluation(scene, None, target, source)
        return parts | {REST: rest + self.stopwatch.of_start(self.device, "test")}

    def _evaluation(
        self, scene: Scene, run: AttackRun | None, target: str, source: str | None, *, is_test: bool = True
    ) -> float:
        """Returns the seconds of an evaluation of the whole list."""
        # The cost is the same at each eps but 0.
        attack = None if run is None else (run.name, run.restarts, run.rounds, bool(run.budget.eps))
        key = (scene, target, source, is_test, attack)
        cost = self._once(key, lambda: evaluation_cost(scene, run, target, source, is_test=is_test))
        return scene.images * self._seconds(scene, cost)

    def _seconds(self, scene: Scene, cost: Cost, *, is_training: bool = False) -> float:
        """Returns the seconds of passes, and those outside networks."""
        return cost.seconds + sum(
            count * self.stopwatch.of_pass(scene, kind, is_training=is_training)
            for kind, count in cost.passes.items()
            if count
        )

    def _images(self, spec: DatasetSpec, args: argparse.Namespace, split: Split) -> int:
        """Returns the number of images of a list that the step will use; where it is missing, of the published one."""
        path = spec.list_path(args.dataRoot, split)
        count = self._once(path, partial(_listed, spec, path, split))
        return count if args.limit is None else min(count, args.limit)

    def _once(self, key: Hashable, compute: Callable[[], Known]) -> Known:
        if key not in self.known:
            self.known[key] = compute()
        return self.known[key]  # type: ignore[return-value]


def _listed(spec: DatasetSpec, path: Path, split: Split) -> int:
    """Returns the number of images in a list. Says so if it is missing, and the published list is taken for it."""
    try:
        return len(read_list(spec, path)[0])
    except UserError:
        if path.exists() or spec.published_rows is None:
            raise
    count = spec.published_rows[split == "test"]
    say(f"there is no list {path}: the estimate takes the {count} images of the published one")
    return count
