"""On a GPU the loss of an update is read when the next one has been launched: nothing but the moment differs."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from dataclasses import replace

import pytest

from advmia.errors import UserError
from advmia.runtime.signals import Stopped, request_stop
from advmia.training.loop import Position, Saver, Training, train_one_epoch
from advmia.training.perturbation import WeightPerturbation
from tests.gpu.test_devices import training_of
from tests.support.networks import image_data
from tests.support.pretended_gpu import PretendedGpu
from tests.training.test_training import Stub

STEPS = 4


def training_with(value: Callable[[int], float], *, perturbed: bool = False) -> tuple[Training, Stub]:
    """Returns a training of four steps in which the loss of each pass is a function of the pass's number."""
    method = Stub(value)
    training = replace(training_of("nat", image_data(11, size=8), extras=False), method=method)
    return replace(training, perturbation=WeightPerturbation(0.01) if perturbed else None), method


def saving(position: Position, interval: float) -> tuple[Saver, list[tuple[int, float]]]:
    """Returns a saver that records steps and loss of the position, and its list."""
    saved: list[tuple[int, float]] = []
    return Saver(lambda: saved.append((position.steps, position.loss)), interval), saved


@pytest.mark.parametrize("faulty", range(STEPS))
def test_the_step_of_a_loss_that_is_not_finite(faulty: int, pretended: PretendedGpu) -> None:
    """Fails if the error names another step, comes later than one step after it, or that step is saved."""
    for interval in (math.inf, 0.0):
        training, method = training_with(lambda step: math.nan if step == faulty else 1.0)
        position = Position()
        saver, saved = saving(position, interval)
        with pytest.raises(UserError, match=f"nan in epoch 1, step {faulty + 1} of {STEPS}"):
            train_one_epoch(training, position, saver=saver)
        assert len(method.x) == min(faulty + (2 if interval else 1), STEPS)
        assert saved == ([] if interval else [(step, 3.0 * step) for step in range(1, faulty + 1)])


def test_a_loss_at_either_weights(pretended: PretendedGpu) -> None:
    """Fails if a loss that is not finite before or after the weights are perturbed is not found, or is counted."""
    for faulty in (2, 3):
        losses = [math.inf if number == faulty else 1.0 for number in range(2 * STEPS)]
        training, _ = training_with(losses.__getitem__, perturbed=True)
        with pytest.raises(UserError, match=f"inf in epoch 1, step 2 of {STEPS}"):
            train_one_epoch(training, Position())
    training, _ = training_with(float, perturbed=True)
    assert train_one_epoch(training, Position()) == pytest.approx((3 * (1 + 3 + 5) + 2 * 7) / 11)


def test_the_last_loss_is_read_in_its_epoch(pretended: PretendedGpu) -> None:
    """Fails if the mean of an epoch leaves out its last step, or has one of the epoch before."""
    training, _ = training_with(float)
    means = [train_one_epoch(training, Position(number)) for number in (1, 2)]
    assert means == pytest.approx([(3 * (0 + 1 + 2) + 2 * 3) / 11, (3 * (4 + 5 + 6) + 2 * 7) / 11])


def test_a_stop(pretended: PretendedGpu) -> None:
    """Fails if the position that a stop saves lacks the loss of its last step, or holds one that is not finite."""
    for last in (1.0, math.nan):

        def value(step: int, last: float = last) -> float:
            if step == 1:
                request_stop(signal.SIGTERM)
            return last if step == 1 else 1.0

        training, method = training_with(value)
        position = Position()
        with pytest.raises(UserError if math.isnan(last) else Stopped) as caught:
            train_one_epoch(training, position)
        assert len(method.x) == position.steps == 2
        assert position.loss == (3.0 if math.isnan(last) else 6.0)
        assert "step 2" in str(caught.value) or not math.isnan(last)
