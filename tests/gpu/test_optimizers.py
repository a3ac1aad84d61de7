"""The optimizers are fused on a GPU, and a training that is saved on one device continues on another."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from advmia.tasks import SEGMENTATION, SINGLE_LABEL, Task
from tests.support.networks import CPU, SmallNet, gaussian
from tests.support.pretended_gpu import DEVICE, PretendedGpu

LR, FIRST, LATER = 0.1, 3, 2  # updates before and after the state is saved


def trained(task: Task, devices: tuple[torch.device, torch.device]) -> tuple[dict[str, Tensor], Optimizer]:
    """Returns the weights after updates on one device and further ones, from a saved state, on the other."""
    torch.manual_seed(0)
    model: nn.Module = SmallNet(3)
    weights, state = model.state_dict(), dict[str, Any]()
    number = 0
    for device, updates in zip(devices, (FIRST, LATER), strict=True):
        model = SmallNet(3)
        model.load_state_dict(weights)
        model.to(device)
        optimizer = task.optimizer(model.parameters(), LR, 1e-3)
        if state:
            optimizer.load_state_dict(state)
        for _ in range(updates):
            number += 1
            for place, parameter in enumerate(model.parameters()):
                parameter.grad = gaussian(*parameter.shape, seed=100 * number + place).to(device)
            optimizer.step()
        weights = {name: value.cpu() for name, value in model.state_dict().items()}
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        state = torch.load(file, map_location="cpu", weights_only=True)
    return weights, optimizer


@pytest.mark.parametrize("task", [SINGLE_LABEL, SEGMENTATION], ids=lambda task: task.name)
def test_a_state_continues_on_another_device(task: Task, pretended: PretendedGpu) -> None:
    """Fails if a loaded state switches fused kernels on or off, or loses a moment or the number of steps."""
    expected, on_cpu = trained(task, (CPU, CPU))
    assert on_cpu.param_groups[0]["fused"] is None
    for devices in ((DEVICE, DEVICE), (CPU, DEVICE), (DEVICE, CPU)):
        weights, optimizer = trained(task, devices)
        assert optimizer.param_groups[0]["fused"] is (True if devices[1] == DEVICE else None)
        for name, value in expected.items():
            torch.testing.assert_close(weights[name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_launches_of_an_update(pretended: PretendedGpu) -> None:
    """Fails if an update launches an operator for each parameter, or several for all."""
    for task, most in ((SINGLE_LABEL, 1), (SEGMENTATION, 2)):  # Adam also counts its steps
        model = SmallNet(3).to(DEVICE)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer = task.optimizer(model.parameters(), LR, 1e-3)
        optimizer.step()
        pretended.clear()
        optimizer.step()
        assert len(pretended.launches) == most and not pretended.waits
