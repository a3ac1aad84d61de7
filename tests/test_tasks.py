"""Tests that everything a task offers can be built, and that its scores are the columns of its results."""

from __future__ import annotations

from itertools import cycle, islice

import pytest
import torch
from torch import nn

from advmia.attacks import ATTACKS
from advmia.attacks.common import frozen_eval
from advmia.budgets import Budget
from advmia.data.datasets import DATASETS
from advmia.metrics import Scores
from advmia.models import MODELS, build_model
from advmia.runtime.rng import SampleRng
from advmia.tasks import METHOD_NAMES, MULTI_LABEL, SEGMENTATION, SINGLE_LABEL, Task
from advmia.training.methods import METHODS, MethodSettings, default_beta
from tests.support.attacks import SMALL_ONLY

ONE_STEP = Budget.grey(8, steps=1, grey_step_size=2)
TASKS = {task.name: task for task in (SINGLE_LABEL, MULTI_LABEL, SEGMENTATION)}


@pytest.fixture(params=TASKS)
def task(request: pytest.FixtureRequest) -> Task:
    return TASKS[request.param]


def example(task: Task, dataset: str) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Two images of 32 pixels, their targets, and the number of classes."""
    spec = DATASETS[dataset]
    classes = spec.classes or 3
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    y = {
        "single-label": torch.tensor([0, 1]),
        "multi-label": (torch.arange(2 * classes) % 3 == 0).float().reshape(2, classes),
        "segmentation": (x[:, 0] > 0.5).long(),
    }[task.name]
    return x, y, classes


def test_every_data_set_has_a_task() -> None:
    """Fails if a data set is declared that no script offers, or that two scripts offer."""
    offered = [name for task in TASKS.values() for name in task.datasets]
    assert sorted(offered) == sorted(DATASETS)


def test_every_model_has_a_task() -> None:
    """Fails if a network is declared that no script offers."""
    assert {name for task in TASKS.values() for name in task.models} == set(MODELS)


def test_methods_are_declared_once() -> None:
    """Fails if a method is declared but cannot be built, or the tables' order is not that of the declaration."""
    assert tuple(METHODS) == METHOD_NAMES == SINGLE_LABEL.methods
    for task in TASKS.values():
        assert [name for name in METHOD_NAMES if name in task.methods] == list(task.methods)


@pytest.mark.slow
@pytest.mark.usefixtures("narrow_wrn")
def test_every_network_and_data_set(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a method's loss has no gradient by some weight, or an attack leaves its budget.

    Each network and each data set is taken: which network goes with which data set makes no difference to the code.
    """
    # Otherwise AutoAttack's Square makes 50 queries for each step.
    monkeypatch.setattr("advmia.attacks.auto_attack.QUERIES_PER_STEP", 2)
    # One data set of those that need the same network.
    different = {(DATASETS[name].classes, DATASETS[name].mean): name for name in task.datasets}
    pairs = zip(cycle(different.values()), cycle(task.models), strict=False)
    for number, (dataset, name) in enumerate(islice(pairs, max(len(different), len(task.models)))):
        x, y, classes = example(task, dataset)
        model = build_model(name, classes, mean=DATASETS[dataset].mean, std=DATASETS[dataset].std)
        for method in task.methods:
            check_method(task, method, dataset, model, x, y)
        # Some attacks do not change an image that is misclassified to begin with.
        y = predicted(model, x) if task is SINGLE_LABEL else y
        for attack, objective in task.attacks.items():
            if number and attack in SMALL_ONLY:
                continue
            built = ATTACKS[attack].build(ONE_STEP, objective)
            x_adv = built(model, x, y, rng=SampleRng.of(0, samples=range(2)))
            check_image(attack, model, x, y, x_adv)


def predicted(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad(), frozen_eval(model):
        return model(x).argmax(dim=1)


def check_image(attack: str, model: nn.Module, x: torch.Tensor, y: torch.Tensor, x_adv: torch.Tensor) -> None:
    """Checks that x_adv differs from x within the budget. SimBA's eps is no bound, and its one step may not help."""
    if attack == "fab-t":  # x_adv is x where it finds no adversarial example
        assert torch.equal((x_adv != x).flatten(1).any(dim=1), predicted(model, x_adv) != y)
    elif attack != "simba":
        assert (x_adv != x).flatten(1).any(dim=1).all(), attack
    assert attack == "simba" or (x_adv - x).abs().max() <= 8 / 255 + 1e-6
    assert x_adv.min() >= 0 and x_adv.max() <= 1 and not x_adv.requires_grad


def check_method(task: Task, name: str, dataset: str, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    """Checks that the loss of a method has a gradient with respect to every parameter."""
    losses = task.objective, task.divergence
    settings = MethodSettings(*losses, ONE_STEP, default_beta(name, dataset), 1.0, 3.5, helper=model)
    model.zero_grad()
    METHODS[name](settings)(model, x, y, rng=SampleRng.of(0, samples=range(2))).backward()
    assert all(parameter.grad is not None for parameter in model.parameters()), (name, dataset)


def test_scores_are_the_columns(task: Task) -> None:
    """Fails if a result file would lack a column, or the meter does not compute the score that chooses the epoch."""
    x, y, classes = example(task, task.datasets[0])
    logits = build_model(task.models[0], classes)(x).detach()
    spec = DATASETS[task.datasets[0]]
    scores: Scores = {}
    for meter in (task.meter(spec, classes), *([task.further_meter()] if task.further_meter else [])):
        meter.update(logits, y)
        scores |= meter.compute()
    outcomes = task.outcome(logits, y)
    scores |= task.against_clean(outcomes, outcomes, y)
    assert tuple(scores) == task.score_names(spec) and task.selection in scores
    assert len(outcomes) == len(x)
    assert torch.isfinite(task.criterion(logits, y))
