"""Adversarial images as a file would hold them: rounded to 8 bits for each channel."""

from __future__ import annotations

import torch
from torch import Tensor

from advmia.budgets import GREY_LEVELS

_ROUNDING = 1e-3  # grey levels: float32 states a whole grey level less exactly than that


def round_to_8_bits(x_adv: Tensor, x: Tensor, grey_eps: float | None) -> Tensor:
    """Returns x_adv (B, C, H, W) with each pixel at the nearest whole grey level that is within eps of x.

    The result is to the bit what an image of 8 bits, as PNG holds it, is read as. `grey_eps`: in grey levels; None for
    attacks that are not bounded. Where no whole grey level is within eps of x, which itself is between two, the nearest
    one is taken.
    """
    # Divides by a tensor, as `advmia.data.transforms.to_pixels`.
    levels = torch.full((), GREY_LEVELS, dtype=torch.float32, device=x.device)
    rounded = (x_adv * levels).round()
    if grey_eps is not None:
        low, high = ((x * levels - grey_eps - _ROUNDING).ceil(), (x * levels + grey_eps + _ROUNDING).floor())
        rounded = torch.where(low <= high, torch.maximum(torch.minimum(rounded, high), low), rounded)
    return rounded.clamp_(0, GREY_LEVELS).div_(levels)
