"""Pictures of Grad-CAM maps: a map laid over its image, and a contact sheet of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from torch import Tensor

from advmia.runtime.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAST_SIDE = 224  # pixels of a JPEG: a smaller one is hard to see
NAME_CHARACTERS, VIEW_CHARACTERS, CHARACTERS_PER_INCH = 26, 18, 11  # that fit beside, above and across pictures
WRONG = "#cc0000"  # colour of wrong predictions
OPACITY = 0.4  # of the map's colours over the image's
SHEET_ROWS = 16  # the most images on a contact sheet: more would not be legible


def overlay(x: Tensor, cam: Tensor) -> np.ndarray:
    """Lays a map (H, W) in [0, 1], blue (0) to red (1), over an image (3, H, W) in [0, 1]; uint8 (H, W, 3)."""
    from matplotlib import colormaps  # takes a second to import

    image = x.permute(1, 2, 0).cpu().numpy()
    colours = colormaps["turbo"](cam.cpu().numpy())[:, :, :3]
    return (255 * ((1 - OPACITY) * image + OPACITY * colours)).clip(0, 255).round().astype(np.uint8)


def save_jpeg(pixels: np.ndarray, path: Path) -> None:
    """Writes pixels, uint8 (H, W, 3), as a JPEG, atomically. A small image is enlarged."""
    picture = enlarged(pixels)
    with atomic_write(path) as temporary:
        Image.fromarray(picture).save(temporary, format="JPEG", quality=95)


def enlarged(pixels: np.ndarray) -> np.ndarray:
    """Repeats the pixels (H, W, 3) of an image so often that both its sides have at least `LEAST_SIDE`."""
    factor = -(-LEAST_SIDE // min(pixels.shape[:2]))
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


@dataclass(frozen=True)
class SheetPicture:
    """One picture of the contact sheet, with what the network predicts for it."""

    pixels: np.ndarray  # uint8 (H, W, 3)
    predicted: str  # name of the class
    confidence: float  # probability of the predicted class
    is_right: bool = True  # whether that is the true class
    is_empty: bool = False  # whether nothing in the image supports the class that the map explains

    @property
    def caption(self) -> str:
        """The text below the picture."""
        lines = [f"{'' if self.is_right else 'wrong: '}{self.predicted} ({self.confidence:.2f})"]
        if self.is_empty:
            lines += ["empty map: nothing", "supports the class"]
        return "\n".join(lines)


def save_sheet(
    pictures: Sequence[Sequence[SheetPicture]],
    names: Sequence[tuple[str, str]],
    views: Sequence[str],
    title: str,
    path: Path,
) -> None:
    """Writes a PNG with a row of pictures for each of the first `SHEET_ROWS` images, and a column for each view.

    Wrong predictions have a red frame and caption. A bar on the right shows what the colours mean.

    Args:
        pictures: for each image, its picture in each view.
        names: the images' file names and true classes, shown on the left.
        views: the views' names, shown above.
        title: shown at the top.
        path: the PNG; written atomically.
    """
    from matplotlib.figure import Figure  # takes a second to import; without pyplot no window is ever opened

    pictures, names = pictures[:SHEET_ROWS], names[:SHEET_ROWS]
    size = (max(1.6 + 1.8 * len(views), 4.8), 1.3 + 2.2 * len(pictures))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(pictures), len(views), squeeze=False)
    for index, (pictures_of_image, (name, label)) in enumerate(zip(pictures, names, strict=True)):
        for panel, picture, view in zip(panels[index], pictures_of_image, views, strict=True):
            _show(panel, picture)
            if index == 0:
                panel.set_title("\n".join(wrap(view, VIEW_CHARACTERS)), fontsize=10)
        text = f"{shortened(name, NAME_CHARACTERS)}\n{label}"
        panels[index][0].set_ylabel(text, fontsize=8, parse_math=False)
    _add_colour_bar(figure, panels)
    lines = wrap(title, round(CHARACTERS_PER_INCH * size[0]), break_long_words=True)
    figure.suptitle("\n".join(lines), fontsize=11, parse_math=False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def shortened(name: str, length: int) -> str:
    """Returns the name, its middle replaced by dots if it has more than `length` characters: its ends tell it apart."""
    half = (length - 3) // 2
    return name if len(name) <= length else f"{name[:half]}...{name[-half:]}"


def _show(panel: Axes, picture: SheetPicture) -> None:
    """Draws a picture and its caption."""
    panel.imshow(picture.pixels)
    panel.set(xticks=[], yticks=[])
    panel.set_xlabel(picture.caption, fontsize=9, color="black" if picture.is_right else WRONG)
    if not picture.is_right:
        for spine in panel.spines.values():
            spine.set(color=WRONG, linewidth=2)


def _add_colour_bar(figure: Figure, panels: np.ndarray) -> None:
    """Draws the colours of a map from 0 to 1. Over an image they are paler."""
    from matplotlib.cm import ScalarMappable

    bar = figure.colorbar(ScalarMappable(cmap="turbo"), ax=panels, fraction=0.05, aspect=30)
    bar.set_ticks([0, 1], labels=["0: no support", "1: most"], fontsize=8)
