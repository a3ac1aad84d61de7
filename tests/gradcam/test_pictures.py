"""Pictures of maps: colours, and the contact sheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from advmia.gradcam import pictures
from advmia.gradcam.pictures import SheetPicture, overlay, save_sheet


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
    picture = SheetPicture(np.zeros((4, 4, 3), dtype=np.uint8), 0, 0.5)
    heights = []
    for count in (1, 2, 4):
        path = tmp_path / f"{count}.png"
        save_sheet([[picture]] * count, ["a$_b.png"] * count, ["clean"], "title", path)
        with Image.open(path) as sheet:
            assert sheet.format == "PNG"
            heights.append(sheet.height)
    assert heights[0] < heights[1] == heights[2]
