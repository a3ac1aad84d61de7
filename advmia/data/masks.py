"""Reads masks: which pixels are foreground follows from what the file holds, the same for every data set.

Tools write masks in many forms: grey 0 and 255, 0 and 1, 16 bits, a colour on black, the indices of a palette, or an
alpha channel. `read_mask` decides the foreground of one file, and `check_encodings` that the files of a list agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from advmia.data.decode import decoded
from advmia.data.specs import MaskValues
from advmia.errors import UserError

# The values for "foreground" that tools write: they mean the same, so that one list may hold several of them.
_FULL_SCALE = (1, 255, 65535)
_FEW_VALUES = 8  # a file with more values has soft edges or JPEG's noise, and is no map of labels


@dataclass(frozen=True)
class MaskEncoding:
    """How a file marks its foreground."""

    kind: str  # "grey", "colour", "palette" or "alpha"
    value: int  # of the foreground; 0 for a mask without foreground

    def __str__(self) -> str:
        return f"{self.kind} {self.value}"

    @classmethod
    def parse(cls, text: str) -> MaskEncoding:
        """Returns the encoding that `str` wrote."""
        kind, value = text.split()
        return cls(kind, int(value))


def read_mask(path: Path, foreground: tuple[int, ...] = ()) -> tuple[np.ndarray, MaskEncoding]:
    """Reads a mask at its own size.

    The background is black, or transparent where the alpha channel has a part in it. In a palette it is the entry that
    is black, or the entry 0 where none or every one is. All else is foreground; of two values without black, the larger
    one. Soft edges are cut at half of the file's largest value. Colours count by their largest channel.

    Args:
        path: the file, in any format and depth that Pillow reads.
        foreground: the values that are foreground, for files that hold more than two.

    Returns: uint8 (H, W) of 0 and 1, and how the file marks it. Raises OSError, ValueError or SyntaxError for a damaged
    file, ValueError for colours that are equally bright, and, if `foreground` is empty, for areas of more than two
    values.
    """
    with decoded(path) as (image, _):
        values, kind = _values(image)
    if foreground:
        return np.isin(values, foreground).astype(np.uint8), MaskEncoding(kind, max(foreground))
    distinct = _distinct(values)
    if len(distinct) > 2 and _is_label_map(values, distinct):
        more = ", ..." if len(distinct) > _FEW_VALUES else ""
        raise ValueError(
            f"the mask has areas of {len(distinct)} values ({', '.join(map(_number, distinct[:_FEW_VALUES]))}{more}),"
            " expected two: --foreground says which of them are foreground"
        )
    largest = distinct[-1]
    if len(distinct) > 2:  # of soft edges: the largest value may be any shade
        return (values > largest / 2).astype(np.uint8), MaskEncoding(kind, _scale(largest))
    mask = values == largest if len(distinct) == 2 else values > 0
    return mask.astype(np.uint8), MaskEncoding(kind, _whole(largest))


def read_class_mask(path: Path, values: MaskValues) -> tuple[np.ndarray, str]:
    """Reads a mask of several classes at its own size.

    `values`: for each class its grey levels, or indices of a palette, or colours such as "#ff0000".

    Returns: uint8 (H, W) of classes, and the kind of values: "grey", "palette" or "colour". Raises OSError, ValueError
    or SyntaxError for a damaged file, and ValueError for a value of no class.
    """
    with decoded(path) as (image, _):
        if isinstance(values[0][0], str):
            pixels, kind = np.asarray(image.convert("RGB")).astype(np.int32) @ (1 << 16, 1 << 8, 1), "colour"
        elif image.mode in ("P", "PA"):
            pixels, kind = np.asarray(image.convert("P") if image.mode == "PA" else image), "palette"
        else:
            pixels, kind = _values(image)[0], "grey"
    mask, is_known = np.zeros(pixels.shape, np.uint8), np.zeros(pixels.shape, bool)
    for label, its in enumerate(values):
        here = np.isin(pixels, [int(value[1:], 16) if isinstance(value, str) else value for value in its])
        mask[here], is_known = label, is_known | here
    if not is_known.all():
        odd = np.unique(pixels[~is_known])[:_FEW_VALUES]
        names = ", ".join(f"#{value:06x}" if kind == "colour" else _number(value) for value in odd)
        raise ValueError(f"the mask has the {kind} values {names}, which mask_values gives to no class")
    return mask, kind


def check_encodings(
    encodings: Mapping[str, tuple[int, str]],
    where: str,
    remedy: str = "convert the masks to 0 and 255, or name the values with --foreground",
) -> None:
    """Raises `UserError` if the masks of a list mark their foreground by values that contradict each other.

    `encodings`: for each encoding, as text, the number of masks and the name of one. `where`: the list, for the
    message, and `remedy`: what to do. 1, 255 and 65535 all mean "foreground"; any other value must be the only one.
    """
    examples = {MaskEncoding.parse(text).value: name for text, (_, name) in encodings.items()}
    examples.pop(0, None)
    if len(examples) < 2 or set(examples) <= set(_FULL_SCALE):
        return
    odd = next(value for value in sorted(examples) if value not in _FULL_SCALE)
    other = next(value for value in sorted(examples) if value != odd)
    raise UserError(
        f"{where}: the foreground of {examples[odd]} has the value {odd}, that of {examples[other]} the value {other}:"
        f" these may be different structures; {remedy}"
    )


def _values(image: Image.Image) -> tuple[np.ndarray, str]:
    """Returns one number for each pixel (H, W), 0 for background, and the kind of encoding."""
    if image.mode in ("P", "PA"):
        return _palette_values(image)
    if image.mode in ("1", "L") or image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        return values.astype(np.uint8) if values.dtype == bool else values, "grey"
    mode = "RGBA" if image.mode in ("RGBA", "LA", "RGBa", "La") or "transparency" in image.info else "RGB"
    return _colour_values(np.asarray(image.convert(mode)))


def _palette_values(image: Image.Image) -> tuple[np.ndarray, str]:
    """Returns the palette's indices, with 0 for the background; the values of alpha if that tells the pixels apart."""
    pixels = np.asarray(image.convert("RGBA"))
    if np.ptp(pixels[..., 3]):
        return _colour_values(pixels)
    indices = np.asarray(image.convert("P") if image.mode == "PA" else image).astype(np.int16)  # 256 fits too
    if (pixels[..., :1] == pixels[..., :3]).all() and len(_distinct(pixels[..., 0])) > 2:
        return pixels[..., 0], "grey"  # the entries of soft edges have no order
    is_black = (pixels[..., :3] == 0).all(axis=2)
    if not is_black.any() or is_black.all():
        return indices, "palette"
    if indices[is_black].any() and not indices.all():  # black is another entry than 0, which has a colour
        indices = indices + 1
    return np.where(is_black, 0, indices), "palette"


def _colour_values(pixels: np.ndarray) -> tuple[np.ndarray, str]:
    """Returns the largest channel of each pixel of (H, W, 3) or (H, W, 4), 0 where it is transparent.

    If all opaque pixels have one colour, returns alpha instead. Raises `ValueError` for colours of equal brightness.
    """
    colours = pixels[..., :3]
    values, kind = colours.max(axis=2), "grey" if (colours == colours[..., :1]).all() else "colour"
    if pixels.shape[2] == 3 or not np.ptp(pixels[..., 3]):
        if kind == "colour":
            _check_colours(colours)
        return values, kind
    alpha = pixels[..., 3]
    is_opaque = alpha > alpha.max() / 2
    if not np.ptp(colours[is_opaque], axis=0).any():
        return alpha, "alpha"
    _check_colours(colours[is_opaque])
    return np.where(is_opaque, values, 0), kind


def _check_colours(colours: np.ndarray) -> None:
    """Raises `ValueError` for few colours of which two have the same largest channel: nothing orders them."""
    distinct = np.unique(colours.reshape(-1, 3).astype(np.int32) @ (1 << 16, 1 << 8, 1))
    brightness = np.maximum(np.maximum(distinct >> 16, distinct >> 8 & 255), distinct & 255)
    if len(np.unique(brightness)) < len(distinct) <= _FEW_VALUES:
        names = ", ".join(f"#{colour:06x}" for colour in distinct)
        raise ValueError(f"the mask has the colours {names}, expected one colour on black: convert it to 0 and 255")


def _is_label_map(values: np.ndarray, distinct: np.ndarray) -> bool:
    """Returns whether values between background and foreground fill areas, not only soft edges.

    An area is a block of 3x3 equal pixels. Noise of JPEG makes such blocks too, near black, but many values.
    """
    largest = distinct[-1]
    lowest = largest / 4 if len(distinct) > _FEW_VALUES else distinct[0]
    between = (values > lowest) & (values < 0.75 * largest)
    if min(values.shape) < 3:
        return bool(between.any()) and len(distinct) <= _FEW_VALUES
    centres, in_area = values[1:-1, 1:-1], between[1:-1, 1:-1]
    height, width = values.shape
    for row in range(3):
        for column in range(3):
            in_area = in_area & (values[row : height - 2 + row, column : width - 2 + column] == centres)
    return bool(in_area.any())


def _distinct(values: np.ndarray) -> np.ndarray:
    """Returns the distinct values in ascending order. Counts those of 8 bits: sorting a large mask takes seconds."""
    if values.dtype != np.uint8:
        return np.unique(values)
    return np.flatnonzero(np.bincount(values.ravel(), minlength=256))


def _whole(value: Any) -> int:
    """Returns the value as a whole number: floats of 0 and 1 are common, shades near 255 come from JPEG."""
    return 255 if 250 <= value <= 255 else round(float(value))


def _scale(value: Any) -> int:
    """Returns the full scale that a file's largest value belongs to: a thin shape has no pixel of full value."""
    return next((full for full in _FULL_SCALE if value <= full), _whole(value))


def _number(value: Any) -> str:
    return f"{float(value):g}"
