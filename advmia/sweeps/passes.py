"""Counts the passes through networks in trainings and tests.

Nothing is counted by hand: the methods, evaluations and checks themselves run on networks that only count, so that a
new method or attack is counted too. They are so small that what remains of the time is that of the method or the attack
outside networks, which is measured along.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from advmia.attacks import ATTACKS
from advmia.attacks.inference import inference_copy
from advmia.data.loading import EvaluationLoader
from advmia.evaluation.attacked import AttackRun
from advmia.evaluation.loop import EvaluationOptions, evaluate
from advmia.evaluation.probe import PROBED, probe_network
from advmia.runtime.rng import SampleRng
from advmia.sweeps.scene import Scene, square_mask, timed
from advmia.tasks import SEGMENTATION
from advmia.training.gradients import backward
from advmia.training.methods import Method

# Forward and backward by the weights in training; forward and backward by the image, and forward alone, on the copy
# that attacks run on; forward alone on the network itself, which is scored.
Kind = Literal["weights", "image", "forward", "score"]
# An attack of more steps is run with these numbers of steps, and the rest follows from the difference.
_FEW_STEPS, _SHARE_OF_STEPS = 4, 50
# Batches over which a method is averaged that draws numbers for each batch, and the lattice rule for these numbers:
# draw j of batch n is n * 50**j modulo 89.
_DRAWN_BATCHES, _LATTICE = 89, 50
_LEAD, _LARGEST_EPS = 10.0, 8 / 255  # of the right class's logit, so that no attack within this eps succeeds


@dataclass(frozen=True)
class Pass:
    """A kind of pass through the network of this name; `precision` is that in which it is made."""

    network: str
    kind: Kind
    precision: str


@dataclass(frozen=True)
class Cost:
    """Numbers of images that pass through networks, and seconds outside networks."""

    passes: Mapping[Pass, float] = field(default_factory=dict)
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        names = {**self.passes, **other.passes}
        passes = {name: self.passes.get(name, 0) + other.passes.get(name, 0) for name in names}
        return Cost(passes, self.seconds + other.seconds)

    def __mul__(self, factor: float) -> Cost:
        return Cost({name: count * factor for name, count in self.passes.items()}, self.seconds * factor)

    def __sub__(self, other: Cost) -> Cost:
        return self + other * -1


class Counts(Counter[Pass]):
    """The counts of a network and its copies."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Counts:
        return self


class CountingNetwork(nn.Module):
    """A linear network that counts the images in its passes, and those of its copies, by kind and precision.

    Its outputs depend on the images, but no attack changes a prediction: it classifies all images as class 0, and
    predicts the mask of `square_mask`.
    """

    def __init__(self, name: str, scene: Scene, counts: Counts) -> None:
        super().__init__()
        size, classes = scene.spec.size, scene.classes
        self.name, self.counts = name, counts
        self._original = id(self)
        lead = torch.zeros(classes)
        if scene.task is SEGMENTATION:
            self.layer: nn.Module = nn.Conv2d(scene.channels, classes, 1)
            mask = square_mask(size)
            lead = torch.stack([(mask == label).float() for label in range(classes)])
        else:
            self.layer = nn.Sequential(nn.Flatten(), nn.Linear(scene.channels * size * size, classes))
            lead[0] = 1
        self.register_buffer("lead", _LEAD * lead)
        for weights in self.parameters():
            nn.init.normal_(weights, std=0.1 / weights[0].numel() ** 0.5)
        self.to(scene.device)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (B, C, H, W) to logits (B, classes, ...)."""
        logits: Tensor = self.layer(x) + self.lead
        kind: Kind = "forward" if id(self) != self._original else "score"
        if logits.requires_grad:
            kind = "weights" if any(weights.requires_grad for weights in self.parameters()) else "image"
        self.counts[Pass(self.name, kind, precision_now(x.device))] += len(x)
        return logits


def precision_now(device: torch.device) -> str:
    """Returns the precision in which networks run at this moment."""
    if torch.is_autocast_enabled(device.type):
        return "bf16"
    return "tf32" if device.type == "cuda" and torch.backends.cudnn.allow_tf32 else "fp32"


class EvenRng(SampleRng):
    """Random streams whose numbers for a whole batch spread evenly over [0, 1) from batch to batch."""

    def __init__(self, number: int, images: int, device: torch.device) -> None:
        """`number`: of the batch."""
        super().__init__(torch.arange(images, device=device), torch.Generator())
        self._number, self.draws = number, 0

    def batch_uniform(self) -> float:
        """Returns the next number in [0, 1) of this batch."""
        place = self._number * _LATTICE**self.draws % _DRAWN_BATCHES
        self.draws += 1
        return (place + 0.5) / _DRAWN_BATCHES


def method_costs(
    scene: Scene, network: str, helper: str | None, build: Callable[[nn.Module | None], Method]
) -> tuple[Cost, Cost]:
    """Returns what a method costs for each image in its examples and in its loss.

    `network`, `helper`: their names. `build`: builds the method from its helper.
    """
    counts, count = Counts(), scene.count()
    model = CountingNetwork(network, scene, counts).train()
    method = build(None if helper is None else CountingNetwork(helper, scene, counts))
    batch = next(iter(EvaluationLoader(scene.data(count), count, scene.device)))
    _copied(batch.x, model, getattr(method, "helper", model))
    examples, loss = Cost(), Cost()
    for number in range(_DRAWN_BATCHES):
        rng = EvenRng(number, count, scene.device)
        with scene.precision.autocast(scene.device):
            counts.clear()
            make = partial(method.examples, model, batch.x, batch.y, rng=rng)
            x_adv, seconds = timed(make, scene.device)
            examples += Cost(Counter(counts), seconds)
        counts.clear()
        autocast = partial(scene.precision.autocast, scene.device)
        backward(method.losses(model, batch.x, x_adv, batch.y), context=autocast)
        loss += Cost(Counter(counts))
        if not rng.draws:
            break
    images = count * (number + 1)
    return examples * (1 / images), loss * (1 / images)


def evaluation_cost(
    scene: Scene, run: AttackRun | None, target: str, source: str | None = None, *, is_test: bool = True
) -> Cost:
    """Returns what an evaluation under an attack, or of the clean images, costs for each image that withstands it.

    `target`, `source`: names of the networks; no source for a white-box evaluation. `is_test`: see `EvaluationOptions`.
    """
    steps = run.budget.steps if run else 0
    if run is not None:  # the cost is the same at each eps but 0; at a very large one, the counting network could err
        run = replace(run, budget=replace(run.budget, eps=min(run.budget.eps, _LARGEST_EPS)))
    if run is None or steps <= 2 * _FEW_STEPS or not run.budget.eps:
        return _evaluation_cost(scene, run, target, source, is_test)
    few, more = _FEW_STEPS, max(2 * _FEW_STEPS, steps // _SHARE_OF_STEPS)
    first, second = (
        _evaluation_cost(scene, replace(run, budget=replace(run.budget, steps=count)), target, source, is_test)
        for count in (few, more)
    )
    cost = first + (second - first) * ((steps - few) / (more - few))
    return replace(cost, seconds=max(cost.seconds, second.seconds))


def _evaluation_cost(scene: Scene, run: AttackRun | None, target: str, source: str | None, is_test: bool) -> Cost:
    counts = Counts()
    data = scene.data(scene.count(early_stopping=run is not None and ATTACKS[run.name].early_stopping))
    loader = EvaluationLoader(data, scene.batch_size, scene.device)
    model = CountingNetwork(target, scene, counts)
    attacked = None if source is None else CountingNetwork(source, scene, counts)
    _copied(next(iter(loader)).x, model, attacked or model)
    options = EvaluationOptions(
        ("estimate",), precision=scene.precision, is_test=is_test, rounding=run.rounding if run else None
    )
    attack = run.build(scene.task) if run else None

    def evaluate_once() -> None:
        counts.clear()
        evaluate(model, loader, scene.task, attack, source=attacked, options=options)

    evaluate_once()  # a first call takes longer
    _, seconds = timed(evaluate_once, scene.device)
    return Cost(Counter(counts), seconds) * (1 / len(data))


def checks_cost(scene: Scene, target: str, source: str | None = None) -> Cost:
    """Returns what the checks at the end of a test cost, on networks of these names."""
    counts = Counts()
    small = replace(scene, spec=replace(scene.spec, size=8, resize=8))  # the passes are all that counts
    loader = EvaluationLoader(small.data(min(scene.images, PROBED)), scene.batch_size, scene.device)
    model = CountingNetwork(target, small, counts)
    attacked = model if source is None else CountingNetwork(source, small, counts)
    _copied(next(iter(loader)).x, model, attacked)
    counts.clear()
    probe_network(attacked, loader, scene.task, target=model)
    return Cost(Counter(counts))


def _copied(x: Tensor, *models: nn.Module) -> None:
    """Makes the copies on which attacks on the models run, and which are compared with them by passes of their own."""
    for model in models:
        inference_copy(model, x)
