"""What is drawn on a contact sheet: outlines lie where the masks end, and odd texts do no harm."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from advmia.data.transforms import load_image, load_mask
from advmia.pictures.layout import (
    AttackedPicture,
    Column,
    Picture,
    SheetRow,
    SheetText,
    draw_outline,
    save_sheet,
)
from advmia.pictures.meaning import Caption, Outline

SIDE, DPI = 400, 100  # of the drawn picture: its pixels, and pixels per inch
RIM = 10  # pixels around it


def drawn_outline(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns where the true outline of a mask (H, W) is drawn on a grey image (H, W, 3), in its pixels (n, 2)."""
    height, width = mask.shape
    whole = SIDE + 2 * RIM
    figure = Figure(figsize=(whole / DPI, whole / DPI), dpi=DPI)
    axes = figure.add_axes(
        (RIM / whole, RIM / whole, SIDE / whole, SIDE / whole), xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5)
    )
    axes.imshow(image, aspect="auto")
    axes.axis("off")
    draw_outline(axes, Outline("true", mask))
    file = io.BytesIO()
    figure.savefig(file, format="png")
    with Image.open(file) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    places = np.argwhere(pixels[..., :2].min(axis=2) - pixels[..., 2] > 40)  # yellow; the images are grey
    return (places + 0.5 - RIM) / SIDE * (height, width) - 0.5


def check_outline(image: np.ndarray, drawn_mask: np.ndarray, mask: np.ndarray) -> None:
    """Fails unless the outline of `drawn_mask` lies along the edges of `mask`, and along all of them."""
    padded = np.pad(mask.astype(int), 1)
    down, across = (np.argwhere(np.diff(padded, axis=axis)).astype(float) for axis in (0, 1))
    edges = torch.tensor(np.concatenate([down - (0.5, 1), across - (1, 0.5)]))  # the middle of each edge
    drawn = torch.tensor(drawn_outline(image, drawn_mask))
    distances = torch.cdist(drawn, edges)
    assert float(distances.min(dim=1).values.max()) < 0.9, "a part of the outline lies elsewhere"
    assert float(distances.min(dim=0).values.max()) < 0.9, "a part of the border has no outline"


def test_outlines_lie_where_masks_end() -> None:
    """Fails if an outline is shifted, mirrored or open at the image's border, or the second class has none."""
    mask = np.zeros((24, 24), dtype=int)
    mask[3:9, 5:20], mask[14:24, 0:6] = 1, 2  # the second lies in a corner
    image = np.zeros((24, 24, 3))
    check_outline(image, mask, mask)
    with pytest.raises(AssertionError, match="elsewhere"):
        check_outline(image, np.roll(mask, 1, axis=1), mask)


def test_outlines_of_lungs(official: Path) -> None:
    """Fails if the outline of a radiologist's mask does not lie on the lung as the network gets the radiograph.

    Lungs are dark: just within the outline the radiograph is darker than just without.
    """
    folder = official / "covid_lungs" / "COVID-19_Radiography_Dataset" / "COVID"
    if not folder.is_dir():
        pytest.skip(f"no radiographs at {folder}")
    differences = []
    for path in sorted((folder / "images").iterdir())[:6]:
        image, mask = load_image(path, 64, 64), load_mask(folder / "masks" / path.name, 64)
        check_outline(image, mask, mask)
        places = drawn_outline(image, mask).round().astype(int).clip(0, 63)
        band = np.zeros((64, 64), dtype=bool)
        for row, column in places:
            band[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3] = True
        differences.append(image[band & (mask == 0)].mean() - image[band & (mask == 1)].mean())
    assert np.mean(differences) > 5 and min(differences) > -5, differences


def test_odd_texts(tmp_path: Path) -> None:
    """Fails if a name with formulas, markup, other alphabets or 300 characters ends the drawing, or a picture whose
    caption needs more lines overlaps the next, which shows in the height of the sheet."""
    heights = []
    for name in ("a", "$\\frac{$ <script> & \u80ba " + "x" * 300):
        picture = Picture(np.zeros((4, 4, 3)), Caption(" ".join([name] * 9), is_marked=True))
        row = SheetRow("first", name, name, picture, [AttackedPicture(picture, np.zeros((4, 4, 3)))])
        save_sheet([row], SheetText(name, [Column(name, 0.1)], [name]), tmp_path / "sheet.png")
        with Image.open(tmp_path / "sheet.png") as sheet:
            heights.append(sheet.height)
    assert heights[1] > 2 * heights[0]
