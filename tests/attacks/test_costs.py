"""The number of passes that each attack takes for an image that withstands it, as its module's docstring says."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from advmia.attacks import ATTACKS
from advmia.attacks.common import notes_of
from advmia.budgets import Budget
from advmia.tasks import MULTI_LABEL, SEGMENTATION, SINGLE_LABEL, Task
from tests.support.networks import SmallNet, SmallSegmenter, pixels, streams, targets

IMAGES, EPS = 3, 8 / 255

Cost = Callable[[int, int], int]  # takes the number N of steps (queries, directions) and the number K of classes


def runs(k: int) -> int:
    """Returns APGD-T's number of runs: each target with each loss; for two classes there is one loss."""
    return 1 if k == 2 else 2 * min(9, k - 1)


def target_count(k: int) -> int:
    """Returns FAB-T's number of targets."""
    return min(9, k - 1)


# Forward passes and backward passes for each image.
COSTS: dict[str, tuple[Cost, Cost]] = {
    "fgsm": (lambda n, k: 1, lambda n, k: 1),
    "pgd": (lambda n, k: n, lambda n, k: n),
    "cw": (lambda n, k: n, lambda n, k: n),
    "mifgsm": (lambda n, k: n, lambda n, k: n),
    "dimifgsm": (lambda n, k: n, lambda n, k: n),
    "apgd-ce": (lambda n, k: 1 + n + 1, lambda n, k: n),
    "apgd-t": (lambda n, k: 1 + runs(k) * (n + 1), lambda n, k: runs(k) * n),
    "fab-t": (lambda n, k: 1 + target_count(k) * 2 * n, lambda n, k: target_count(k) * n),
    "square": (lambda n, k: n + 1, lambda n, k: 0),
    "aa": (
        lambda n, k: 5 + (n + 2) + (1 + runs(k) * (n + 1)) + (1 + target_count(k) * 2 * n) + (50 * n + 1),
        lambda n, k: n + runs(k) * n + target_count(k) * n,
    ),
}
# Of the other tasks, whose attacks leave no image out.
OTHERS: dict[str, tuple[Cost, Cost]] = {
    "pgd": COSTS["pgd"],
    "pgd-margin": COSTS["pgd"],
    "pgd-dice": COSTS["pgd"],
    **dict.fromkeys(("segpgd", "cospgd", "mifgsm", "dimifgsm"), COSTS["pgd"]),
    "pgd-finding": (lambda n, k: 2 * (n + 1), lambda n, k: 2 * n),  # by itself, it also says which image is worst
    "sea": (lambda n, k: 4 * (n + (4 if n > 3 else 2)), lambda n, k: 4 * n),
    **dict.fromkeys(("apgd", "apgd-margin", "apgd-dice"), (lambda n, k: n + 1, lambda n, k: n)),
}


class Counting(nn.Module):
    """Counts the images in forward passes, and in backward passes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.forwards = self.backwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        if x.requires_grad:
            x.register_hook(self._count_backward)
        return self.model(x)

    def _count_backward(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


class Sure(nn.Module):
    """A small network that predicts class 0 by a wide margin for all images; its gradients are not 0."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.model = SmallNet(classes)
        self.register_buffer("lead", torch.tensor([40.0] + (classes - 1) * [0.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) + self.lead


def counted(model: nn.Module, y: Tensor, attack: str, steps: int, task: Task) -> Counting:
    """Returns the model as a `Counting`, after an attack on it."""
    counting = Counting(model.eval())
    x, _ = pixels(IMAGES, size=8)
    built = ATTACKS[attack].build(Budget(EPS, steps, EPS / 4), task.attacks[attack])
    built(counting, x, y, rng=streams(IMAGES))
    return counting


@pytest.mark.parametrize("attack", COSTS)
def test_passes_of_single_label_attacks(attack: str) -> None:
    """Fails if a pass is wasted: a forward pass for logits that it has already, or a backward pass after the last step.

    All images withstand the attacks, so that none leaves early.
    """
    for steps, classes in itertools.product((1, 2) if attack == "aa" else (1, 4), (2, 3, 4, 12)):
        counts = counted(Sure(classes), torch.zeros(IMAGES, dtype=torch.int64), attack, steps, SINGLE_LABEL)
        forwards, backwards = (IMAGES * cost(steps, classes) for cost in COSTS[attack])
        assert (counts.forwards, counts.backwards) == (forwards, backwards), (steps, classes)


@pytest.mark.parametrize(
    ("task", "attack"), [(task, name) for task in (MULTI_LABEL, SEGMENTATION) for name in task.attacks],
    ids=lambda value: value if isinstance(value, str) else value.name,
)  # fmt: skip
def test_passes_of_the_other_tasks(task: Task, attack: str) -> None:
    """Fails if a pass is wasted by an attack without early stopping."""
    for steps in (1, 6):
        model = SmallSegmenter(2) if task is SEGMENTATION else SmallNet(2)
        counts = counted(model, targets(task, IMAGES, 8, 2), attack, steps, task)
        forwards, backwards = (IMAGES * cost(steps, 2) for cost in OTHERS[attack])
        assert (counts.forwards, counts.backwards) == (forwards, backwards), steps


def test_every_attack_has_its_cost() -> None:
    """Fails if the cost of an attack is not tested."""
    assert {*COSTS, "simba"} == set(SINGLE_LABEL.attacks)
    assert set(OTHERS) == {*MULTI_LABEL.attacks, *SEGMENTATION.attacks}


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize(
    ("fall", "passes"), [pytest.param(0, 2, id="no step helps"), pytest.param(1, 1, id="the first step helps")]
)
def test_passes_of_simba(classes: int, fall: float, passes: int) -> None:
    """Fails if a direction is tried forwards although it has helped backwards.

    The network's margin falls by `fall` with each call, whatever the image, and stays far from 0.
    """
    calls = 0

    class Tiring(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            logits = torch.zeros(len(x), classes)
            logits[:, 0] = 40 - fall * calls
            return logits

    directions, y = 6, torch.zeros(IMAGES, dtype=torch.int64)
    counts = counted(Tiring(), y, "simba", directions, SINGLE_LABEL)
    assert (counts.forwards, counts.backwards) == (IMAGES * (1 + passes * directions), 0)


@pytest.mark.parametrize("attack", ["square", "simba", "aa"])
def test_queries_are_counted(attack: str) -> None:
    """Fails if `notes["queries"]` is not the number of forward passes after the first; some images leave early.

    AutoAttack counts Square's queries only: all 50 at an eps as small as here.
    """
    model = Counting(SmallNet(3).eval())
    x, _ = pixels(12, size=8)
    with torch.no_grad():
        y = model.model(x).argmax(dim=1)
    y[:3] = (y[:3] + 1) % 3  # misclassified before the attack
    steps, eps = (40, 1.0) if attack == "simba" else (40, EPS) if attack == "square" else (1, 1e-6)
    built = ATTACKS[attack].build(Budget(eps, steps, eps), SINGLE_LABEL.attacks[attack])
    built(model, x, y, rng=streams(12))
    notes = notes_of(built)
    queries = notes["queries"]
    assert (queries[:3] == 0).all() and (queries[3:] > 0).all()
    if attack == "aa":
        assert (queries[3:] == 50).all() and (notes["fooled_by"] == -1).all()
    else:
        assert model.forwards == 12 + queries.sum()
