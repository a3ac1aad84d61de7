"""Opening image files: pages, orientation tags and depths."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advmia.data.decode import LARGEST_PAGE, NOT_TURNED, decoded

PIXELS = np.arange(5 * 8 * 3, dtype=np.uint8).reshape(5, 8, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_orientation_is_not_applied(orientation: int, suffix: str, tmp_path: Path) -> None:
    """Fails if a TIFF is turned as its tag says, and another format is not: masks fit the pixels as stored."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS).save(tmp_path / f"image.{suffix}", exif=exif)
    with decoded(tmp_path / f"image.{suffix}") as (image, remarks):
        assert np.array_equal(np.asarray(image), PIXELS)
    assert remarks == ((NOT_TURNED,) if orientation > 1 else ())


def test_the_largest_page(tmp_path: Path) -> None:
    """Fails if a thumbnail before the image is taken for the image, or nothing is said."""
    image = Image.fromarray(PIXELS)
    image.resize((2, 2)).save(tmp_path / "pages.tif", save_all=True, append_images=[image, image.resize((4, 4))])
    with decoded(tmp_path / "pages.tif") as (largest, remarks):
        assert np.array_equal(np.asarray(largest), PIXELS)
    assert remarks == (LARGEST_PAGE,)


def test_colours_of_16_bits_are_refused(tmp_path: Path) -> None:
    """Fails if the upper half of each number is taken: an image of 12 bits would come out almost black."""
    rows = b"".join(
        b"\0" + row.tobytes() for row in (PIXELS.astype(np.uint16) * 16).astype(">u2")
    )  # filter 0 before each row
    chunks = {b"IHDR": struct.pack(">2I5B", 8, 5, 16, 2, 0, 0, 0), b"IDAT": zlib.compress(rows), b"IEND": b""}
    png = b"\x89PNG\r\n\x1a\n"
    for kind, data in chunks.items():
        png += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    (tmp_path / "image.png").write_bytes(png)
    with Image.open(tmp_path / "image.png") as image:
        assert np.array_equal(np.asarray(image), PIXELS // 16)  # what Pillow makes of it
    with pytest.raises(ValueError, match="16 bits a channel"), decoded(tmp_path / "image.png"):
        pass
