"""How many images batch norm needs in training."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def smallest_batch(model: nn.Module, size: int) -> int:
    """Returns the smallest batch that a network can train on with images of `size` pixels a side: 1 or 2.

    Batch norm takes the variance over a batch and its maps. Where the maps have shrunk to one pixel, a single image has
    none, and torch refuses it. Runs the network once, in eval mode, on a black image.
    """
    pixels: list[int] = []

    def record(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        pixels.append(inputs[0][0, 0].numel())

    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    hooks = [module.register_forward_pre_hook(record) for module in norms]
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.no_grad():
            model(next(model.parameters()).new_zeros(1, 3, size, size))
    finally:
        for module, mode in modes.items():
            module.training = mode
        for hook in hooks:
            hook.remove()
    return 2 if 1 in pixels else 1
