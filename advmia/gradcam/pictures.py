"""Pictures of Grad-CAM maps: a map laid over its image, and a contact sheet of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from advmia.runtime.files import atomic_write

OPACITY = 0.4  # of the map's colours over the image's
SHEET_ROWS = 16  # the most images on a contact sheet: more would not be legible


def overlay(x: Tensor, cam: Tensor) -> np.ndarray:
    """Lays a map (H, W) in [0, 1], blue (0) to red (1), over an image (3, H, W) in [0, 1]; uint8 (H, W, 3)."""
    from matplotlib import colormaps  # takes a second to import

    image = x.permute(1, 2, 0).cpu().numpy()
    colours = colormaps["turbo"](cam.cpu().numpy())[:, :, :3]
    return (255 * ((1 - OPACITY) * image + OPACITY * colours)).clip(0, 255).round().astype(np.uint8)


def save_jpeg(pixels: np.ndarray, path: Path) -> None:
    """Writes pixels, uint8 (H, W, 3), as a JPEG, atomically."""
    with atomic_write(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="JPEG", quality=95)


@dataclass(frozen=True)
class SheetPicture:
    """One picture of the contact sheet, with what the network predicts for it."""

    pixels: np.ndarray  # uint8 (H, W, 3)
    predicted: int  # class
    confidence: float  # probability of the predicted class


def save_sheet(
    pictures: Sequence[Sequence[SheetPicture]], names: Sequence[str], views: Sequence[str], title: str, path: Path
) -> None:
    """Writes a PNG with a row of pictures for each of the first `SHEET_ROWS` images, and a column for each view.

    Args:
        pictures: for each image, its picture in each view.
        names: the images' names, shown on the left.
        views: the views' names, shown above.
        title: shown at the top.
        path: the PNG; written atomically.
    """
    from matplotlib.figure import Figure  # takes a second to import; without pyplot no window is ever opened

    pictures, names = pictures[:SHEET_ROWS], names[:SHEET_ROWS]
    size = (1.2 + 1.8 * len(views), 0.9 + 2.1 * len(pictures))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(pictures), len(views), squeeze=False)
    for index, (pictures_of_image, name) in enumerate(zip(pictures, names, strict=True)):
        for panel, picture, view in zip(panels[index], pictures_of_image, views, strict=True):
            panel.imshow(picture.pixels)
            panel.set(xticks=[], yticks=[], xlabel=f"class {picture.predicted} ({picture.confidence:.2f})")
            if index == 0:
                panel.set_title(view, fontsize=10)
        panels[index][0].set_ylabel(name, fontsize=9, parse_math=False)
    figure.suptitle(title, fontsize=11)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
