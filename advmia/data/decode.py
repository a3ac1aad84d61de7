"""Opens image files the same way for images and masks: which page is taken, and what happens to an orientation tag."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

_ORIENTATION = 0x0112  # tag of EXIF and TIFF
# Pillow turns a TIFF as its tag says, but no JPEG. For each tag, what turns the image back.
_TURN_BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
LARGEST_PAGE = "several pages, of which the largest is taken"
NOT_TURNED = "an orientation tag, which is not applied, since masks would no longer fit"


@contextmanager
def decoded(path: Path) -> Iterator[tuple[Image.Image, tuple[str, ...]]]:
    """Yields the decoded image and remarks about it: `LARGEST_PAGE` and `NOT_TURNED`, where they hold.

    Of several pages, the largest is taken: scanners and microscopes put a thumbnail beside the image. Orientation tags
    are not applied. Raises OSError, ValueError or SyntaxError for a damaged file, and ValueError for colours of 16 bits
    a channel, of which Pillow keeps the upper 8: images of 10 or 12 bits would be almost black.
    """
    with Image.open(path) as image:
        remarks = []
        if getattr(image, "n_frames", 1) > 1:
            image.seek(_largest_page(image))
            remarks.append(LARGEST_PAGE)
        if any(";16" in str(tile[3]) for tile in image.tile) and image.mode in ("RGB", "RGBA", "CMYK"):
            raise ValueError(f"{image.mode} pixels of 16 bits a channel; expected 8 bits a channel")
        orientation = image.getexif().get(_ORIENTATION, 1)
        image.load()
        if orientation not in _TURN_BACK:
            yield image, tuple(remarks)
            return
        remarks.append(NOT_TURNED)
        yield (image.transpose(_TURN_BACK[orientation]) if image.format == "TIFF" else image), tuple(remarks)


def _largest_page(image: Image.Image) -> int:
    """Returns the number of the page with the most pixels, the first of equals."""
    areas = []
    for number in range(image.n_frames):  # type: ignore[attr-defined]  # where Pillow counts frames, it can seek
        image.seek(number)
        areas.append(image.width * image.height)
    return areas.index(max(areas))
