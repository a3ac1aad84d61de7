"""From an image file to the network's pixels: the deterministic part (kept in the cache), then random augmentation."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from advmia.budgets import GREY_LEVELS
from advmia.data.specs import Augmentation

FOREGROUND = 128  # a mask pixel at or above this grey level is foreground
_FIXED_POINT = 16  # bits after the point in Pillow's nearest-neighbour affine transform


def load_image(path: Path, resize: int, size: int) -> np.ndarray:
    """An image file as uint8 (size, size, 3): RGB, bilinear resize to `resize` squared, centre crop to `size`.

    All official images whose published transform resizes "to 256" are square, so resizing the shorter side is the same.
    EXIF rotation is not applied: masks would no longer fit. Raises OSError or ValueError for what is no 8-bit image.
    """
    with Image.open(path) as image:
        _check_depth(image)
        resized = image.convert("RGB").resize((resize, resize), Image.Resampling.BILINEAR)
    # round() to even, as torchvision's CenterCrop
    offset = round((resize - size) / 2)
    return np.asarray(resized.crop((offset, offset, offset + size, offset + size)))


def load_mask(path: Path, size: int) -> np.ndarray:
    """A mask file as uint8 (size, size) of 0 and 1, nearest-neighbour resized. Raises as `load_image`."""
    with Image.open(path) as image:
        _check_depth(image)
        resized = image.convert("L").resize((size, size), Image.Resampling.NEAREST)
    return (np.asarray(resized) >= FOREGROUND).astype(np.uint8)


def _check_depth(image: Image.Image) -> None:
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"{image.mode} pixels; expected 8 bits a channel")


def to_pixels(images: Tensor) -> Tensor:
    """uint8 (B, H, W, C) to float32 (B, C, H, W) in [0, 1], in channels-last memory."""
    # A plain number would make CUDA multiply by its reciprocal: the last bit of half the grey levels would differ.
    levels = torch.full((), GREY_LEVELS, dtype=torch.float32, device=images.device)
    return images.permute(0, 3, 1, 2).to(torch.float32).div_(levels)


def augment(images: Tensor, augmentation: Augmentation, draws: Tensor) -> Tensor:
    """Rotates and flips each image by its own draw.

    Args:
        images: uint8 (B, S, S, C).
        augmentation: what may happen.
        draws: (B, 3) float64 on the CPU, uniform in [0, 1): angle, horizontal flip, vertical flip.

    Returns: uint8 (B, S, S, C) on the device of `images`. Each output pixel is one input pixel or black: the pixels are
    those of Pillow's `rotate` (nearest, no expansion) followed by its flips, to the bit.
    """
    batch, side = len(images), images.shape[1]
    if augmentation.rotation == 0 and augmentation.vertical_flip == 0:
        flipped = (draws[:, 1] < augmentation.horizontal_flip).to(images.device)
        return torch.where(flipped[:, None, None, None], images.flip(2), images)
    source = _source_pixels(side, augmentation, draws, images.device)  # (B, S*S), S*S stands for black
    black = images.new_zeros(batch, 1, images.shape[3])
    pixels = torch.cat([images.reshape(batch, side * side, -1), black], dim=1)  # (B, S*S + 1, C)
    offsets = torch.arange(batch, device=images.device)[:, None] * (side * side + 1)
    return pixels.flatten(0, 1)[(source + offsets).flatten()].reshape(images.shape)


def _source_pixels(side: int, augmentation: Augmentation, draws: Tensor, device: torch.device) -> Tensor:
    """For each output pixel of each sample, the flat index of the input pixel that it shows; side**2 for none.

    Rotation about the centre in 16.16 fixed point, the arithmetic of Pillow's affine transform: a float grid differs
    from it in 0.2 % of the pixels. A flip mirrors the output coordinate.
    """
    angles = (2 * draws[:, 0] - 1) * augmentation.rotation
    steps = torch.tensor([_rotation_steps(float(angle), side) for angle in angles], dtype=torch.int64).to(device)
    ax, bx, cx, ay, by, cy = (steps[:, column, None, None] for column in range(6))  # (B, 1, 1) each
    position = torch.arange(side, device=device)
    flips = torch.stack([draws[:, 1] < augmentation.horizontal_flip, draws[:, 2] < augmentation.vertical_flip])
    across, upside = flips.to(device)
    column = _mirrored(position, across)[:, None, :]  # (B, 1, S)
    row = _mirrored(position, upside)[:, :, None]  # (B, S, 1)
    x = (cx + ax * column + bx * row) >> _FIXED_POINT
    y = (cy + ay * column + by * row) >> _FIXED_POINT
    inside = (x >= 0) & (x < side) & (y >= 0) & (y < side)
    return torch.where(inside, y * side + x, side * side).flatten(1)


def _mirrored(position: Tensor, flip: Tensor) -> Tensor:
    """(S,) positions, reversed for the samples (B,) that flip; (B, S)."""
    return torch.where(flip[:, None], position.flip(0), position)


def _rotation_steps(degrees: float, side: int) -> tuple[int, ...]:
    """Fixed-point (dx/dcolumn, dx/drow, x at the first pixel's centre) and the same for y, of Pillow's `rotate`."""
    angle = -math.radians(degrees % 360.0)
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
    centre = side / 2
    x0 = cos * -centre + sin * -centre + centre
    y0 = -sin * -centre + cos * -centre + centre
    steps = (cos, sin, x0 + cos * 0.5 + sin * 0.5, -sin, cos, y0 - sin * 0.5 + cos * 0.5)
    return tuple(math.floor(step * (1 << _FIXED_POINT) + 0.5) for step in steps)
