"""Describes the masks of a list: their encodings and foreground, and the masks that are unlike the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from advmia.data.cache import Remarks

_NAMED = 3  # masks that a line names
_MOSTLY = 0.5  # of the border's pixels: a mask with more foreground there covers the border
_FENCES = 3.0  # interquartile ranges outside the quartiles: Tukey's limit for values that are far out
_ENOUGH = 8  # masks, for quartiles to mean something


def describe_masks(masks: np.ndarray, names: Sequence[str], encodings: Remarks) -> list[str]:
    """Returns lines about masks: always one with their encodings and their foreground, and others where masks are odd.

    Args:
        masks: uint8 (N, S, S) of classes; 0 is background.
        names: of their files.
        encodings: the remarks of `cached_masks`.
    """
    shares = np.array([(mask > 0).mean() for mask in masks])
    borders = np.array([_border(mask > 0).mean() for mask in masks])
    counts = ", ".join(f"{text} in {count}" for text, (count, _) in sorted(encodings.items()))
    lines = [
        f"{len(masks)} masks, foreground {counts}; it is {shares.min():.1%} to {shares.max():.1%} of an image, median"
        f" {np.median(shares):.1%}"
    ]
    for value, text in ((0, "all background"), (1, "all foreground")):
        alike = np.flatnonzero(shares == value)
        if len(alike):
            lines.append(f"{len(alike)} masks are {text} ({_listed(names, alike)})")
    usually_covered = np.median(borders) > _MOSTLY
    if usually_covered:
        lines.append("warning: most masks are foreground at the border of the image: are they inverted?")
    sizes = np.log(np.maximum(shares, 1 / masks[0].size))  # amounts differ by factors: lesions cover 1 % to 90 %
    low, high = np.percentile(sizes, [25, 75])
    reach = _FENCES * (high - low)
    is_odd = ((sizes < low - reach) | (sizes > high + reach)) & (len(masks) >= _ENOUGH)
    is_odd |= (borders > _MOSTLY) & (not usually_covered)
    odd = np.flatnonzero(is_odd & (shares > 0))
    if len(odd):
        lines.append(
            f"warning: {len(odd)} masks have another amount of foreground, or of it at the border, than the others; do"
            f" they belong to their images? ({_listed(names, odd)})"
        )
    return lines


def _border(mask: np.ndarray) -> np.ndarray:
    """Returns the pixels at the four sides."""
    return np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])


def _listed(names: Sequence[str], indices: np.ndarray) -> str:
    more = ", ..." if len(indices) > _NAMED else ""
    return ", ".join(names[index] for index in indices[:_NAMED]) + more
