"""Pictures of maps: colours, and the contact sheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from PIL import Image

from advmia.gradcam import pictures
from advmia.gradcam.pictures import SheetPicture, enlarged, overlay, save_jpeg, save_sheet, shortened


def test_overlay_shows_image_and_map() -> None:
    """Fails if colours run the wrong way (red is 1, blue is 0) or the image does not show through."""
    x = torch.full((3, 4, 4), 0.5)
    cold, hot = overlay(x, torch.zeros(4, 4))[0, 0].astype(int), overlay(x, torch.ones(4, 4))[0, 0].astype(int)
    assert hot[0] > hot[2] and cold[2] > cold[0]
    bright = overlay(torch.ones(3, 4, 4), torch.zeros(4, 4))[0, 0].astype(int)
    assert (bright > cold).all()


def test_a_sheet_shows_a_limited_number_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if images beyond `SHEET_ROWS` make the sheet longer, or a name with `$` is taken for a formula."""
    monkeypatch.setattr(pictures, "SHEET_ROWS", 2)
    picture = SheetPicture(np.zeros((4, 4, 3), dtype=np.uint8), "class 0", 0.5)
    heights = []
    for count in (1, 2, 4):
        path = tmp_path / f"{count}.png"
        save_sheet([[picture]] * count, [("a$_b.png", "class 0")] * count, ["clean"], "title", path)
        with Image.open(path) as sheet:
            assert sheet.format == "PNG"
            heights.append(sheet.height)
    assert heights[0] < heights[1] == heights[2]


def test_small_images_are_enlarged(tmp_path: Path) -> None:
    """Fails if the JPEG of a small image is too small to see, its pixels are mixed, or a large image changes."""
    pixels = np.random.default_rng(0).integers(0, 256, (48, 60, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize((300, 240), Image.Resampling.NEAREST))
    assert np.array_equal(enlarged(pixels), expected)
    save_jpeg(pixels, tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as picture:
        assert picture.size == (300, 240)
    assert enlarged(np.zeros((224, 300, 3), dtype=np.uint8)).shape == (224, 300, 3)


def test_what_a_sheet_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a text of the sheet is cut off or runs into another, a wrong prediction has no frame, an empty map is
    not explained, or there is no colour bar."""
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: drawn.append(figure) or path.write_bytes(b"x"))
    pixels = np.zeros((48, 48, 3), dtype=np.uint8)
    row = [
        SheetPicture(pixels, "class 0", 0.9),
        SheetPicture(pixels, "class 1", 0.99, False),
        SheetPicture(pixels, "class 1", 0.7, False, True),
    ]
    names = [
        ("ISIC_0012086_" + "long_" * 20 + "a.jpg", "class 0"),
        ("ISIC_0012086_" + "long_" * 20 + "b.jpg", "class 1"),
        ("c.png", "class 0"),
    ]
    title = "melBin[DermaMNIST 224 subset 100 of 2750]: Grad-CAM of the true class; below, the class predicted"
    views = ["clean", "pgd eps 8/255", "apgd-margin eps 0.125/255"]
    for columns in (1, 3):
        save_sheet([row[:columns]] * 3, names, views[:columns], title, tmp_path / "a.png")
        figure = drawn.pop()
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        (title_text,) = figure.texts
        texts = [title_text] + [
            text for panel in figure.axes for text in (panel.title, panel.xaxis.label, panel.yaxis.label)
        ]
        boxes = [text.get_window_extent(canvas.get_renderer()) for text in texts if text.get_text()]
        assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
        assert all(figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1 for box in boxes)
        assert not any(a.overlaps(b) for number, a in enumerate(boxes) for b in boxes[:number])
        assert " ".join(title_text.get_text().split()) == title
        panels, bar = figure.axes[:-1], figure.axes[-1]
        assert [text.get_text() for text in bar.get_yticklabels()] == ["0: no support", "1: most"]
    assert [panel.xaxis.label.get_text() for panel in panels[:3]] == [
        "class 0 (0.90)",
        "wrong: class 1 (0.99)",
        "wrong: class 1 (0.70)\nempty map: nothing\nsupports the class",
    ]
    red = to_rgba("#cc0000")
    assert [panel.spines["left"].get_edgecolor() == red for panel in panels[:3]] == [False, True, True]
    shown = [panel.yaxis.label.get_text().split("\n")[0] for panel in panels[::3]]
    assert shown[0].startswith("ISIC_00") and shown[0].endswith("a.jpg") and shown[1].endswith("b.jpg")


def test_shortened_names() -> None:
    """Fails if a name that fits is changed, or one that does not loses its beginning or its end."""
    assert shortened("a" * 9, 9) == "a" * 9 and shortened("0123456789abc", 9) == "012...abc"
