"""The step that a training tries on a GPU before its first epoch."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from advmia.errors import UserError
from advmia.runtime.precision import FP32
from advmia.training.loop import Position, Training, train_one_epoch
from advmia.training.methods import METHODS
from advmia.training.recomputation import Recomputation
from advmia.training.trial import check_memory, lacks_memory
from tests.gpu.test_devices import training_of
from tests.support.networks import Snapshot, image_data, network, same_tensors
from tests.support.pretended_gpu import DEVICE, PretendedGpu


def training(method: str = "trades") -> Training:
    """Returns a training with AWP and EMA of a network with dropout, always the same."""
    torch.manual_seed(0)
    return training_of(method, image_data(6, size=8), FP32, extras=True)


@pytest.mark.parametrize("method", METHODS)
def test_the_trial_changes_nothing(method: str, pretended: PretendedGpu) -> None:
    """Fails if a weight, statistic, average or random number differs after an epoch that was preceded by a trial."""
    states = []
    for is_tried in (False, True):
        one = training(method)
        before, generator = Snapshot.of(one.model), torch.get_rng_state()
        if is_tried:
            pretended.clear()
            assert not lacks_memory(one) and len(pretended.launches) > 100
            before.assert_same(one.model)
            assert torch.equal(torch.get_rng_state(), generator) and not one.optimizer.state
        train_one_epoch(one, Position())
        found = one.model.state_dict() | {
            f"average {name}": value for name, value in one.validated_model.state_dict().items()
        }
        states.append({name: value.cpu().clone() for name, value in found.items()})
    assert same_tensors(*states)


def test_a_step_that_does_not_fit(pretended: PretendedGpu) -> None:
    """Fails if it is not found, leaves gradients or changed statistics, or names a --bs that is no smaller."""
    one = training()
    needed = peak_of_a_step(pretended, one)
    one.optimizer.zero_grad()
    before = Snapshot.of(one.model)
    check_memory(one, 8, "trades with a network")
    pretended.memory.total = pretended.memory.live + int(0.5 * needed)  # so that a forward pass fails
    with pytest.raises(UserError) as caught:
        check_memory(one, 8, "trades with a network")
    assert (
        str(caught.value) == "trades with a network: the GPU's memory is too small for a step with --bs 3: --bs 1 fits"
    )
    before.assert_same(one.model)
    pretended.memory.total = pretended.memory.live + int(1.1 * needed)
    check_memory(one, 8, "trades with a network")


def peak_of_a_step(gpu: PretendedGpu, one: Training) -> int:
    """Returns the most bytes that a step needs beside what is there before it."""
    gpu.clear()
    live = gpu.memory.live
    train_one_epoch(copy.copy(one), Position(one.epochs))
    return gpu.memory.peak - live


@pytest.mark.slow
def test_recomputed_activations_fit(shapes: PretendedGpu) -> None:
    """Fails if recomputation frees too little of what an update of res18 keeps, or nothing says that it helps."""
    model = network("res18-normalized").to(DEVICE)
    one = replace(training_of("trades", image_data(8, size=128), extras=False), model=model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    one = replace(one, optimizer=optimizer)
    shapes.clear()
    live = shapes.memory.live
    assert not lacks_memory(one)
    whole = shapes.memory.peak - live
    recomputing = replace(one, recomputation=Recomputation(model))
    shapes.clear()
    assert not lacks_memory(recomputing) and shapes.memory.peak - live < 0.65 * whole
    shapes.memory.total = live + int(0.7 * whole)
    with pytest.raises(UserError, match=r"--bs 1 fits; with --checkpointActivations, --bs 3 does"):
        check_memory(one, 128, "trades")
    check_memory(recomputing, 128, "trades")
