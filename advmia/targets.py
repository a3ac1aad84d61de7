"""What networks take and what they are to predict: checks of a user's tensors, and the task that targets belong to."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from advmia.errors import UserError

TaskName = Literal["single-label", "multi-label", "segmentation"]


def check_pixels(x: Tensor) -> None:
    """Raises `UserError` unless x is images (N, C, H, W) of floating-point numbers in [0, 1]."""
    if x.dim() != 4 or not x.is_floating_point():
        raise UserError(f"images of shape {tuple(x.shape)} and type {x.dtype}: expected floats (N, C, H, W) in [0, 1]")
    low, high = (float(value) for value in torch.aminmax(x.detach())) if x.numel() else (0.0, 0.0)
    if not (low >= 0 and high <= 1):
        raise UserError(
            f"pixels from {low:.3g} to {high:.3g}: expected 0 to 1; put the normalisation inside the network, with"
            " advmia.wrap(network, mean, std)"
        )


def task_of_targets(y: Tensor) -> TaskName:
    """Returns the task of targets: labels (N,) of whole numbers, findings (N, L) of 0 and 1, or masks (N, H, W).

    Raises `UserError` for any other shape or type.
    """
    is_whole = not y.is_floating_point() and y.dtype != torch.bool
    if y.dim() == 1 and is_whole:
        return "single-label"
    if y.dim() == 2 and bool(((y == 0) | (y == 1)).all()):
        return "multi-label"
    if y.dim() == 3 and is_whole:
        return "segmentation"
    raise UserError(
        f"targets of shape {tuple(y.shape)} and type {y.dtype}: expected whole numbers (N,) for classes, 0 and 1 (N, L)"
        " for findings, or whole numbers (N, H, W) for masks"
    )
