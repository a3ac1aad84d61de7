"""The step that a training tries on a GPU before its first epoch."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
import torch

from advmia.errors import UserError
from advmia.runtime.precision import FP32
from advmia.tasks import SINGLE_LABEL
from advmia.training.loop import Position, Training, train_one_epoch
from advmia.training.methods import METHODS
from advmia.training.recomputation import Recomputation
from advmia.training.trial import check_memory, lacks_memory
from tests.gpu.test_devices import training_of
from tests.support.networks import Snapshot, image_data, network, same_tensors
from tests.support.pretended_gpu import DEVICE, PretendedGpu


def training(method: str = "trades", size: int = 8) -> Training:
    """Returns a training with AWP and EMA of a network with dropout, always the same."""
    torch.manual_seed(0)
    return training_of(method, image_data(6, size=size), FP32, extras=True)


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
    needed = peak_of_a_trial(pretended, training("nat", 32))
    one = training("nat", 32)
    before = Snapshot.of(one.model)
    pretended.memory.total = pretended.memory.live + int(
        0.5 * needed
    )  # a forward pass fails; in a backward pass, the pretended GPU would end the process
    with pytest.raises(UserError) as caught:
        check_memory(one, 32, "nat with a network")
    message = "nat with a network: the GPU's memory is too small for a step with --bs 3: --bs 1 fits"
    assert str(caught.value) == message
    before.assert_same(one.model)
    pretended.memory.total = pretended.memory.live + int(1.1 * needed)
    check_memory(training("nat", 32), 32, "nat with a network")


def of_res18(*, recomputed: bool) -> Training:
    """Returns a training of a new res18, whose attack has no graph yet, on images of 128 pixels."""
    model = network("res18-normalized").to(DEVICE)
    optimizer = SINGLE_LABEL.optimizer(model.parameters(), 0.1, 0.0)
    one = replace(training_of("trades", image_data(8, size=128), extras=False), model=model, optimizer=optimizer)
    return replace(one, recomputation=Recomputation(model) if recomputed else None)


def peak_of_a_trial(gpu: PretendedGpu, one: Training) -> int:
    gpu.clear()
    live = gpu.memory.live
    assert not lacks_memory(one)
    return gpu.memory.peak - live


@pytest.mark.slow
def test_recomputed_activations_fit(shapes: PretendedGpu) -> None:
    """Fails if recomputation frees too little of what an update of res18 keeps, or nothing says that it helps."""
    whole = peak_of_a_trial(shapes, of_res18(recomputed=False))
    gc.collect()
    assert peak_of_a_trial(shapes, of_res18(recomputed=True)) < 0.65 * whole
    gc.collect()
    one, recomputing = of_res18(recomputed=False), of_res18(recomputed=True)
    shapes.memory.total = shapes.memory.live + int(0.7 * whole)
    with pytest.raises(UserError, match=r"--bs 1 fits; with --checkpointActivations, --bs 3 does"):
        check_memory(one, 128, "trades")
    del one  # with the copy that its attack ran on
    gc.collect()
    check_memory(recomputing, 128, "trades")
