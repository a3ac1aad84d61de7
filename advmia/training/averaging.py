"""The exponential moving average (EMA) of a network's weights during its training."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from advmia.errors import UserError


class WeightAverage:
    """A network whose weights are the exponential moving average of those of a network in training.

    After each update of that network, average = d * average + (1 - d) * weights, where d is `decay`, but at most
    (1 + t) / (10 + t) after t earlier updates: so the random initial weights are soon forgotten (as in TensorFlow's
    ExponentialMovingAverage, and in the code of HAT's authors). Running statistics are averaged in the same way, since
    they belong to the weights; integer buffers are copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Begins with a copy of `model`. `decay`: 0.995 is usual. Raises `UserError` unless it is between 0 and 1."""
        if not 0 < decay < 1:
            raise UserError(f"the decay of the average of the weights (EMA) is {decay:g}: expected one such as 0.995")
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self._decay, self._updates = decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Takes in the weights that `model` has after an update."""
        weight = 1 - min(self._decay, (1 + self._updates) / (10 + self._updates))
        averages, values = _tensors(self.model), _tensors(model)
        floats = [place for place, value in enumerate(values) if value.is_floating_point()]
        # One call for all of them, since there are hundreds of small tensors; in float32 also under bf16.
        torch._foreach_lerp_([averages[place] for place in floats], [values[place] for place in floats], weight)
        for average, value in zip(averages, values, strict=True):
            if not value.is_floating_point():
                average.copy_(value)
        self._updates += 1

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.model.state_dict(), "updates": self._updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.model.load_state_dict(state_dict["weights"])
        self._updates = state_dict["updates"]


def _tensors(model: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in (*model.parameters(), *model.buffers())]
