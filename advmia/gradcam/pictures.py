"""Pictures of Grad-CAM maps: a map laid over its image, and a contact sheet of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from advmia.runtime.files import atomic_write

STRENGTH = 0.4  # of the map's colours over the image's
SHEET_ROWS = 16  # images on a contact sheet: more would not be legible


def overlay(x: Tensor, cam: Tensor) -> np.ndarray:
    """The map (H, W) in [0, 1], blue (0) to red (1), over the image (3, H, W) in [0, 1]; uint8 (H, W, 3)."""
    from matplotlib import colormaps  # here, because it takes a second to import

    image = x.permute(1, 2, 0).cpu().numpy()
    colours = colormaps["turbo"](cam.cpu().numpy())[:, :, :3]
    return (255 * ((1 - STRENGTH) * image + STRENGTH * colours)).clip(0, 255).round().astype(np.uint8)


def save_jpeg(pixels: np.ndarray, path: Path) -> None:
    """uint8 (H, W, 3), whole or not at all."""
    with atomic_write(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="JPEG", quality=95)


@dataclass(frozen=True)
class Cell:
    """One picture of the sheet."""

    pixels: np.ndarray  # uint8 (H, W, 3)
    predicted: int
    confidence: float  # in the predicted class


def save_sheet(
    rows: Sequence[Sequence[Cell]], names: Sequence[str], columns: Sequence[str], title: str, path: Path
) -> None:
    """A PNG of at most 16 rows, one an image, named on the left; the columns' names above, what is predicted below."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows, names = rows[:SHEET_ROWS], names[:SHEET_ROWS]
    size = (1.2 + 1.8 * len(columns), 0.9 + 2.1 * len(rows))
    figure, panels = plt.subplots(len(rows), len(columns), figsize=size, squeeze=False, layout="constrained")
    for line, (cells, name) in enumerate(zip(rows, names, strict=True)):
        for panel, cell, column in zip(panels[line], cells, columns, strict=True):
            panel.imshow(cell.pixels)
            panel.set(xticks=[], yticks=[], xlabel=f"class {cell.predicted} ({cell.confidence:.2f})")
            if line == 0:
                panel.set_title(column, fontsize=10)
        panels[line][0].set_ylabel(name, fontsize=9, parse_math=False)
    figure.suptitle(title, fontsize=11)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    plt.close(figure)
