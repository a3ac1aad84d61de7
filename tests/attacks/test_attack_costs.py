"""What each attack costs an image that nothing fools, in passes through the network: as its module's docstring says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from advmia.attacks import ATTACKS
from advmia.budgets import Budget
from advmia.tasks import MULTI_LABEL, SEGMENTATION, SINGLE_LABEL, Task
from tests.support.networks import SmallNet, SmallSegmenter, pixels, streams, targets

IMAGES, EPS = 3, 8 / 255

Cost = Callable[[int, int], int]  # of N steps (queries, directions) and K classes


def runs(k: int) -> int:
    """Of APGD-T: each target with each loss; one loss for two classes."""
    return 1 if k == 2 else 2 * min(9, k - 1)


def ways(k: int) -> int:
    """Of FAB-T: the targets."""
    return min(9, k - 1)


# Forward and backward passes an image.
COSTS: dict[str, tuple[Cost, Cost]] = {
    "fgsm": (lambda n, k: 1, lambda n, k: 1),
    "pgd": (lambda n, k: n, lambda n, k: n),
    "cw": (lambda n, k: n, lambda n, k: n),
    "apgd-ce": (lambda n, k: 1 + n + 1, lambda n, k: n),
    "apgd-t": (lambda n, k: 1 + runs(k) * (n + 1), lambda n, k: runs(k) * n),
    "fab-t": (lambda n, k: 1 + ways(k) * 2 * n, lambda n, k: ways(k) * n),
    "square": (lambda n, k: n + 1, lambda n, k: 0),
    "aa": (
        lambda n, k: 5 + (n + 2) + (1 + runs(k) * (n + 1)) + (1 + ways(k) * 2 * n) + (50 * n + 1),
        lambda n, k: n + runs(k) * n + ways(k) * n,
    ),
}
# Of the other tasks: no image is left out for being wrong.
OTHERS: dict[str, tuple[Cost, Cost]] = {
    "pgd": COSTS["pgd"],
    "pgd-margin": COSTS["pgd"],
    "pgd-dice": COSTS["pgd"],
    **dict.fromkeys(("apgd", "apgd-margin", "apgd-dice"), (lambda n, k: n + 1, lambda n, k: n)),
}


class Counting(nn.Module):
    """Counts the images that pass forward, and those whose gradient comes back."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.forwards = self.backwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        if x.requires_grad:
            x.register_hook(self._note)
        return self.model(x)

    def _note(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


class Sure(nn.Module):
    """A small network that says class 0 by a wide margin, whatever it sees; its gradients are the network's."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.model = SmallNet(classes)
        self.register_buffer("lead", torch.tensor([40.0] + (classes - 1) * [0.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) + self.lead


def counted(model: nn.Module, y: Tensor, attack: str, steps: int, task: Task) -> Counting:
    counting = Counting(model.eval())
    x, _ = pixels(IMAGES, size=8)
    made = ATTACKS[attack].build(Budget(EPS, steps, EPS / 4), task.attacks[attack])
    made(counting, x, y, rng=streams(IMAGES))
    return counting


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("classes", [2, 3, 4, 12])
@pytest.mark.parametrize("attack", COSTS)
def test_passes_of_single_label_attacks(attack: str, classes: int, steps: int) -> None:
    """Fails if a pass is wasted, say a forward pass whose logits were known, or a backward pass after the last step.

    Nothing fools the network, so that no image leaves early; its gradients are not 0.
    """
    found = counted(Sure(classes), torch.zeros(IMAGES, dtype=torch.int64), attack, steps, SINGLE_LABEL)
    forwards, backwards = (IMAGES * cost(steps, classes) for cost in COSTS[attack])
    assert (found.forwards, found.backwards) == (forwards, backwards)


@pytest.mark.parametrize("steps", [1, 6])
@pytest.mark.parametrize(
    ("task", "attack"), [(task, name) for task in (MULTI_LABEL, SEGMENTATION) for name in task.attacks],
    ids=lambda value: value if isinstance(value, str) else value.name,
)  # fmt: skip
def test_passes_of_the_other_tasks(task: Task, attack: str, steps: int) -> None:
    """As above, for attacks without a criterion to stop at."""
    model = SmallSegmenter(2) if task is SEGMENTATION else SmallNet(2)
    found = counted(model, targets(task, IMAGES, 8, 2), attack, steps, task)
    forwards, backwards = (IMAGES * cost(steps, 2) for cost in OTHERS[attack])
    assert (found.forwards, found.backwards) == (forwards, backwards)


def test_every_attack_has_its_cost() -> None:
    """Fails if an attack is offered whose cost is not measured."""
    assert {*COSTS, "simba"} == set(SINGLE_LABEL.attacks)
    assert set(OTHERS) == {*MULTI_LABEL.attacks, *SEGMENTATION.attacks}


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize(
    ("way", "each"), [pytest.param(0, 2, id="no step helps"), pytest.param(1, 1, id="the first step helps")]
)
def test_passes_of_simba(classes: int, way: float, each: int) -> None:
    """Fails if the second step of a direction is tried though the first has helped.

    The network's lead falls with each call, or stays, whatever the image: by `way`, far from being fooled.
    """
    calls = 0

    class Tiring(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            logits = torch.zeros(len(x), classes)
            logits[:, 0] = 40 - way * calls
            return logits

    directions, y = 6, torch.zeros(IMAGES, dtype=torch.int64)
    found = counted(Tiring(), y, "simba", directions, SINGLE_LABEL)
    assert (found.forwards, found.backwards) == (IMAGES * (1 + each * directions), 0)


@pytest.mark.parametrize("attack", ["square", "simba", "aa"])
def test_queries_are_those_made(attack: str) -> None:
    """Fails if `notes` count other than the forward passes but for the first look; some images leave early.

    AutoAttack's are Square's alone: at a tiny eps all 50 of them.
    """
    model = Counting(SmallNet(3).eval())
    x, _ = pixels(12, size=8)
    with torch.no_grad():
        y = model.model(x).argmax(dim=1)
    y[:3] = (y[:3] + 1) % 3  # wrong to begin with
    steps, eps = (40, 1.0) if attack == "simba" else (40, EPS) if attack == "square" else (1, 1e-6)
    made = ATTACKS[attack].build(Budget(eps, steps, eps), SINGLE_LABEL.attacks[attack])
    made(model, x, y, rng=streams(12))
    queries = made.notes["queries"]
    assert (queries[:3] == 0).all() and (queries[3:] > 0).all()
    if attack == "aa":
        assert (queries[3:] == 50).all() and (made.notes["fooled_by"] == -1).all()
    else:
        assert model.forwards == 12 + queries.sum()
