"""APGD's checkpoints, momentum, step sizes and targets, each against an independent computation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advmia.attacks.auto_pgd import (
    ApgdRun,
    AscentSettings,
    auto_ascend,
    checkpoint_steps,
    likeliest_wrong,
    targeted_losses,
)
from advmia.budgets import Budget
from advmia.losses import margin, targeted_cross_entropy, targeted_dlr, targeted_margin
from tests.support.networks import LogitsFromList, gaussian, record_calls

EPS = 8 / 255


def test_checkpoints_of_100_steps() -> None:
    """Fails if rounding moves one of the paper's checkpoints: 0.57 * 100 is slightly above 57 in floating point."""
    assert list(checkpoint_steps(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert list(checkpoint_steps(100).values()) == [22, 19, 16, 13, 10, 7, 6, 6]


def test_checkpoints_of_other_budgets() -> None:
    """Fails if a checkpoint lies beyond the last step, or the steps since the one before are miscounted."""
    for steps in (1, 2, 3, 7, 20, 50, 1000):
        checkpoints = checkpoint_steps(steps)
        at = np.array([0, *checkpoints])
        assert (np.diff(at) == list(checkpoints.values())).all() and (np.diff(at) > 0).all(), steps
        assert at[1] == int(np.ceil(22 * steps / 100)) and at[-1] <= steps, steps
    assert checkpoint_steps(0) == {}


class Bowl(nn.Module):
    """Logits -(x - peak)^2 / 2 of a single pixel, the same in each channel, so that steps can be computed by hand."""

    def __init__(self, peak: float) -> None:
        super().__init__()
        self.peak = peak

    def forward(self, x: Tensor) -> Tensor:
        return -((x - self.peak) ** 2).flatten(1) / 2


def by_hand(start: float, x: float, eps: float, steps: int, peak: float) -> tuple[float, list[float]]:
    """Runs algorithm 1 on one pixel in plain Python; returns the best point and all points."""

    def clip(z: float) -> float:
        return min(max(z, x - eps, 0.0), x + eps, 1.0)

    def f(z: float) -> float:
        return -((z - peak) ** 2) / 2

    shares = [0, 22]
    while shares[-1] < 100:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 3, 6))
    at = [int(np.ceil(share * steps / 100)) for share in shares if share <= 100]
    size, before, now, best = 2 * eps, start, start, start
    rises, size_then, best_then, last, value = 0, size, f(start), 0, f(start)
    path = [start]
    for step in range(steps):
        if step in at and step > last:
            stalls = rises < 0.75 * (step - last) or (size == size_then and f(best) <= best_then)
            size_then, best_then, last, rises = size, f(best), step, 0
            if stalls:
                size, now, value = size / 2, best, f(best)
        z = clip(now + size * np.sign(peak - now))
        weight = 1.0 if step == 0 else 0.75
        moved = clip(now + weight * (z - now) + (1 - weight) * (now - before))
        before, now = now, moved
        rises += f(now) > value
        value = f(now)
        best = now if f(now) > f(best) else best
        path.append(now)
    return best, path


@pytest.mark.parametrize(("peak", "steps"), list(itertools.product((0.43, 0.5021, 0.61, 0.9), (1, 5, 20, 50))))
def test_apgd_on_a_bowl(peak: float, steps: int) -> None:
    """Fails if momentum, halving, the return to the best point or a checkpoint differs from algorithm 1.

    The peak cannot be reached by full steps, only by smaller and smaller ones.
    """
    eps, x = 0.125, torch.full((1, 3, 1, 1), 0.5, dtype=torch.float64)
    start = torch.full_like(x, 0.40625)
    model = Bowl(peak).double()
    calls = record_calls(model)
    settings = AscentSettings(lambda logits, _: logits.sum(dim=1), Budget(eps, steps, 0), None)
    best, succeeded = auto_ascend(model, x, torch.zeros(1), start, settings)
    expected, path = by_hand(0.40625, 0.5, eps, steps, peak)
    torch.testing.assert_close(torch.stack([call.x[0, 0, 0, 0] for call in calls]), torch.tensor(path).double())
    torch.testing.assert_close(best, torch.full_like(x, expected))
    assert not succeeded.any()
    if steps == 50:
        assert abs(expected - min(peak, 0.625)) < 0.005


def test_a_success_survives_a_checkpoint() -> None:
    """Fails if a stalled image goes back to its best point before the last point is checked for success.

    The loss falls at the first step, which is a checkpoint, but that point is misclassified.
    """
    x, y = torch.full((1, 3, 2, 2), 0.5), torch.zeros(1, dtype=torch.int64)
    model, losses = LogitsFromList([(1.0, 0.0), (0.0, 1.0)]), iter([1.0, 0.0])
    calls = record_calls(model)

    def objective(logits: Tensor, y: Tensor) -> Tensor:
        return logits[:, 0] - logits[:, 0].detach() + next(losses)

    settings = AscentSettings(objective, Budget(EPS, 1, 0), lambda z, y: margin(z, y) < 0)
    point, succeeded = auto_ascend(model, x, y, x.clone(), settings)
    assert 1 in checkpoint_steps(1) and succeeded.all()
    assert torch.equal(point, calls[1].x) and not torch.equal(point, x)


def test_adapt_halves_only_what_stalls() -> None:
    """Fails if the stall of one image changes the step size of another, or an image that rises goes back."""
    x = torch.full((3, 3, 1, 1), 0.5)
    model = Bowl(0.5)
    run = ApgdRun.begin(model, x, torch.zeros(3), lambda logits, _: logits.sum(dim=1), x, 0.25)
    run.best = x + 0.1
    run.best_loss = torch.tensor([5.0, 5.0, 0.0])  # it rose for the first two
    run.rises = torch.tensor([4.0, 2.0, 4.0])  # of 4 steps: 3 are enough
    run.adapt(4)
    assert run.step_size.flatten().tolist() == [0.25, 0.125, 0.125]
    assert torch.equal(run.current[0], x[0]) and torch.equal(run.current[1:], run.best[1:])
    assert run.rises.tolist() == [0, 0, 0]
    run.rises = torch.tensor([15.0, 14.0, 20.0])  # of 20: 15 are enough
    run.best_loss = run.checkpoint_best_loss + 1
    run.adapt(20)
    assert run.step_size.flatten().tolist() == [0.25, 0.0625, 0.125]
    # The step sizes of the last two were halved at the last checkpoint: an equal best loss is no stall for them.
    run.rises = torch.tensor([3.0, 3.0, 3.0])
    run.best_loss = run.checkpoint_best_loss.clone()
    run.adapt(4)
    assert run.step_size.flatten().tolist() == [0.125, 0.0625, 0.0625]


def test_likeliest_wrong() -> None:
    """Fails if the label itself is a target, or the targets are not the nine likeliest classes, sorted by logit."""
    for classes in (2, 3, 4, 9, 10, 11, 15):
        logits, y = gaussian(8, classes), torch.arange(8) % classes
        all_targets = likeliest_wrong(logits, y).tolist()
        for image_logits, label, targets in zip(logits.tolist(), y.tolist(), all_targets, strict=True):
            wrong = [k for k in sorted(range(classes), key=image_logits.__getitem__, reverse=True) if k != label]
            assert targets == wrong[:9], classes


def test_targeted_losses() -> None:
    """Fails if targeted DLR, which ranks four logits, is used with fewer classes."""
    assert targeted_losses(2) == (targeted_margin,)
    assert targeted_losses(3) == (targeted_margin, targeted_cross_entropy)
    assert targeted_losses(4) == targeted_losses(20) == (targeted_dlr, targeted_cross_entropy)
