"""Turns image files into pixels: first the deterministic transform, whose result is cached; then augmentation."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from advmia.budgets import GREY_LEVELS
from advmia.data.decode import decoded
from advmia.data.masks import read_class_mask, read_mask
from advmia.data.specs import Augmentation, MaskValues
from advmia.runtime.devices import to_device

Note = Callable[[str], object]  # gets a remark about a file

_FIXED_POINT = 16  # bits after the point in Pillow's nearest-neighbour affine transform


def load_image(path: Path, resize: int, size: int, *, note: Note = str) -> np.ndarray:
    """Loads an image as RGB, resizes it to `resize` x `resize` (bilinear) and crops its centre; uint8 (size, size, 3).

    The published transforms resize the shorter side; the official images are square, so this is the same. `note` is
    called with each remark of `decoded`. Raises OSError, ValueError or SyntaxError for a damaged file, and ValueError
    for more than 8 bits a channel.
    """
    with decoded(path) as (image, remarks):
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"{image.mode} pixels; expected 8 bits a channel")
        resized = image.convert("RGB").resize((resize, resize), Image.Resampling.BILINEAR)
    for remark in remarks:
        note(remark)
    # rounds half to even, as torchvision's CenterCrop does
    offset = round((resize - size) / 2)
    return np.asarray(resized.crop((offset, offset, offset + size, offset + size)))


def load_mask(
    path: Path, size: int, *, foreground: tuple[int, ...] = (), values: MaskValues = (), note: Note = str
) -> np.ndarray:
    """Loads a mask, resized to the nearest pixel; uint8 (size, size) of 0 and 1, or of the classes of `values`.

    `note` is called with the mask's encoding as text. Raises as `read_mask` and `read_class_mask` of
    `advmia.data.masks`, which say what `foreground` and `values` are.
    """
    mask, encoding = read_class_mask(path, values) if values else read_mask(path, foreground)
    note(str(encoding))
    return np.asarray(Image.fromarray(mask).resize((size, size), Image.Resampling.NEAREST))


def to_pixels(images: Tensor) -> Tensor:
    """Converts uint8 (B, H, W, C) to float32 (B, C, H, W) in [0, 1], in channels-last memory."""
    # Divides by a tensor: by a Python number, CUDA multiplies with the rounded reciprocal, and half the grey levels
    # differ in the last bit.
    levels = torch.full((), GREY_LEVELS, dtype=torch.float32, device=images.device)
    return images.permute(0, 3, 1, 2).to(torch.float32).div_(levels)


def augment(images: Tensor, augmentation: Augmentation, draws: Tensor) -> Tensor:
    """Rotates and flips each image by its own draw.

    Args:
        images: uint8 (B, S, S, C).
        augmentation: the range of the angle and the probabilities of the flips.
        draws: (B, 3) float64 on the CPU, uniform in [0, 1), for angle, horizontal flip and vertical flip.

    Returns: uint8 (B, S, S, C) on the device of `images`. The pixels equal those of Pillow's `rotate` (nearest, no
    expansion) followed by its flips, to the bit: each is an input pixel or black.
    """
    batch, side = len(images), images.shape[1]
    if augmentation.rotation == 0 and augmentation.vertical_flip == 0:
        flipped = to_device(draws[:, 1] < augmentation.horizontal_flip, images.device)
        return torch.where(flipped[:, None, None, None], images.flip(2), images)
    source = _source_pixels(side, augmentation, draws, images.device)  # (B, S*S); the index S*S means black
    black = images.new_zeros(batch, 1, images.shape[3])
    pixels = torch.cat([images.reshape(batch, side * side, -1), black], dim=1)  # (B, S*S + 1, C)
    offsets = torch.arange(batch, device=images.device)[:, None] * (side * side + 1)
    return pixels.flatten(0, 1)[(source + offsets).flatten()].reshape(images.shape)


def _source_pixels(side: int, augmentation: Augmentation, draws: Tensor, device: torch.device) -> Tensor:
    """Returns, for each output pixel, the flat index of the input pixel that it shows, or side**2 outside the image.

    The rotation about the centre uses 16.16 fixed point, the arithmetic of Pillow's affine transform: with floats,
    0.2 % of the pixels would differ. A flip mirrors the output coordinate. Returns (B, side**2) int64.
    """
    angles = (2 * draws[:, 0] - 1) * augmentation.rotation
    steps = torch.tensor([_rotation_steps(float(angle), side) for angle in angles], dtype=torch.int64)
    steps = to_device(steps, device)
    ax, bx, cx, ay, by, cy = (steps[:, column, None, None] for column in range(6))  # (B, 1, 1) each
    position = torch.arange(side, device=device)
    flips = torch.stack([draws[:, 1] < augmentation.horizontal_flip, draws[:, 2] < augmentation.vertical_flip])
    horizontal, vertical = to_device(flips, device)
    column = _mirrored(position, horizontal)[:, None, :]  # (B, 1, S)
    row = _mirrored(position, vertical)[:, :, None]  # (B, S, 1)
    x = (cx + ax * column + bx * row) >> _FIXED_POINT
    y = (cy + ay * column + by * row) >> _FIXED_POINT
    inside = (x >= 0) & (x < side) & (y >= 0) & (y < side)
    return torch.where(inside, y * side + x, side * side).flatten(1)


def _mirrored(position: Tensor, flip: Tensor) -> Tensor:
    """Repeats positions (S,) for each sample, reversed where `flip` (B,) is true; (B, S)."""
    return torch.where(flip[:, None], position.flip(0), position)


def _rotation_steps(degrees: float, side: int) -> tuple[int, ...]:
    """Returns the coefficients of Pillow's `rotate` in fixed point.

    (dx/dcolumn, dx/drow, x of the first pixel's centre), then the same for y.
    """
    angle = -math.radians(degrees % 360.0)
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
    centre = side / 2
    x0 = cos * -centre + sin * -centre + centre
    y0 = -sin * -centre + cos * -centre + centre
    steps = (cos, sin, x0 + cos * 0.5 + sin * 0.5, -sin, cos, y0 - sin * 0.5 + cos * 0.5)
    return tuple(math.floor(step * (1 << _FIXED_POINT) + 0.5) for step in steps)
