"""Masks in the forms that tools write, against the shape that was drawn; lists whose masks contradict each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advmia.data.mask_report import describe_masks
from advmia.data.masks import MaskEncoding, check_encodings, read_mask
from advmia.errors import UserError

SHAPE = np.zeros((24, 30), dtype=bool)
SHAPE[5:17, 8:21] = True
SHAPE[9:12, 12:14] = False


def grey(background: int, foreground: int, dtype: type = np.uint8) -> Image.Image:
    return Image.fromarray(np.where(SHAPE, foreground, background).astype(dtype))


def coloured(background: tuple[int, ...], foreground: tuple[int, ...]) -> Image.Image:
    return Image.fromarray(np.where(SHAPE[..., None], foreground, background).astype(np.uint8))


def palette(background: int, foreground: int, colours: dict[int, tuple[int, int, int]]) -> Image.Image:
    indexed = Image.new("P", SHAPE.shape[::-1])
    indexed.putdata(np.where(SHAPE, foreground, background).ravel().tolist())
    table = [0] * 768
    for index, colour in colours.items():
        table[3 * index : 3 * index + 3] = colour
    indexed.putpalette(table)
    return indexed


def soft_edges() -> Image.Image:
    shifted = np.roll(SHAPE.repeat(3, 0).repeat(3, 1), 1, axis=0)  # an edge pixel is covered by a third or two thirds
    soft = Image.fromarray(np.where(shifted, 255, 0).astype(np.uint8)).resize((30, 24), Image.Resampling.BOX)
    assert set(np.unique(np.asarray(soft))) == {0, 85, 170, 255}
    return soft


FORMS: dict[str, tuple[Callable[[], Image.Image], str]] = {
    "0 and 255": (lambda: grey(0, 255), "grey 255"),
    "0 and 1": (lambda: grey(0, 1), "grey 1"),
    "0 and 127": (lambda: grey(0, 127), "grey 127"),
    "two values without 0": (lambda: grey(100, 200), "grey 200"),
    "one bit": (lambda: grey(0, 255).convert("1"), "grey 1"),
    "16 bits, 0 and 1": (lambda: grey(0, 1, np.uint16), "grey 1"),
    "16 bits, 0 and 65535": (lambda: grey(0, 65535, np.uint16), "grey 65535"),
    "white": (lambda: coloured((0, 0, 0), (255, 255, 255)), "grey 255"),
    "red": (lambda: coloured((0, 0, 0), (255, 0, 0)), "colour 255"),
    "blue": (lambda: coloured((0, 0, 0), (0, 0, 255)), "colour 255"),
    "red, opaque": (lambda: coloured((0, 0, 0, 255), (255, 0, 0, 255)), "colour 255"),
    "alpha of black": (lambda: coloured((0, 0, 0, 0), (0, 0, 0, 255)), "alpha 255"),
    "alpha of white": (lambda: coloured((255, 255, 255, 0), (255, 255, 255, 255)), "alpha 255"),
    "black where opaque": (lambda: coloured((255, 255, 255, 0), (0, 0, 0, 255)), "alpha 255"),
    "grey and alpha": (lambda: coloured((0, 0, 0, 0), (255, 255, 255, 255)), "alpha 255"),
    "palette of VOC": (lambda: palette(0, 1, {1: (128, 0, 0), 2: (0, 128, 0)}), "palette 1"),
    "palette in reverse": (lambda: palette(1, 0, {0: (255, 255, 255), 1: (0, 0, 0)}), "palette 1"),
    "palette of black only": (lambda: palette(0, 1, {}), "palette 1"),
    "palette without black": (lambda: palette(0, 1, {0: (90, 90, 90), 1: (200, 0, 0)}), "palette 1"),
    "soft edges": (soft_edges, "grey 255"),
    "soft edges in a palette": (lambda: soft_edges().convert("RGB").quantize(16), "grey 255"),
    "soft edges of grey 0 and 180": (lambda: soft_edges().point(lambda value: value * 180 // 255), "grey 255"),
    "yellow on purple": (lambda: coloured((68, 1, 84), (253, 231, 37)), "colour 255"),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(form: str, tmp_path: Path) -> None:
    """Fails if a form is read as all background, all foreground or inverted, or is described as another one."""
    image, expected = FORMS[form]
    image().save(tmp_path / "mask.png")
    mask, encoding = read_mask(tmp_path / "mask.png")
    assert mask.dtype == np.uint8 and np.array_equal(mask.astype(bool), SHAPE)
    assert str(encoding) == expected and MaskEncoding.parse(expected) == encoding


@pytest.mark.parametrize("quality", [60, 95])
def test_jpeg(quality: int, tmp_path: Path) -> None:
    """Fails if the noise that JPEG leaves around edges is foreground, or is taken for further values."""
    shape = np.roll(np.kron(SHAPE, np.ones((8, 8))).astype(bool), 3, axis=(0, 1))  # edges within the blocks of JPEG
    image = Image.fromarray(np.where(shape, 255, 0).astype(np.uint8))
    image.save(tmp_path / "mask.jpg", quality=quality)
    assert len(np.unique(np.asarray(Image.open(tmp_path / "mask.jpg")))) > 8
    mask, encoding = read_mask(tmp_path / "mask.jpg")
    assert np.array_equal(mask.astype(bool), shape) and str(encoding) == "grey 255"
    Image.open(tmp_path / "mask.jpg").save(tmp_path / "mask.png")  # the noise stays in a file without loss
    assert np.array_equal(read_mask(tmp_path / "mask.png")[0], mask)
    image.point(lambda value: value // 2).save(tmp_path / "half.jpg", quality=quality)  # the noise goes beyond 127
    mask, encoding = read_mask(tmp_path / "half.jpg")
    assert np.array_equal(mask.astype(bool), shape) and str(encoding) == "grey 255"


def test_floats(tmp_path: Path) -> None:
    """Fails if a float mask of 0 and 1 is refused, or is read by whole numbers."""
    grey(0, 1, np.float32).save(tmp_path / "mask.tif")
    assert np.array_equal(read_mask(tmp_path / "mask.tif")[0].astype(bool), SHAPE)


@pytest.mark.parametrize("values", [(0, 85, 170, 255), (0, 1, 2), (0, 1, 255), (0, 128, 255)], ids=str)
def test_more_than_two_values(values: tuple[int, ...], tmp_path: Path) -> None:
    """Fails if a map of several structures is cut somewhere, or --foreground does not choose among them."""
    levels = np.zeros((24, 30), dtype=np.uint8)
    for index, value in enumerate(values[1:]):
        levels[6 * index + 2 : 6 * index + 7, 3:20] = value
    path = tmp_path / "mask.png"
    Image.fromarray(levels).save(path)
    with pytest.raises(ValueError, match=rf"areas of {len(values)} values \(0, .*\), expected two: --foreground"):
        read_mask(path)
    mask, _ = read_mask(path, values[1:2])
    assert np.array_equal(mask, (levels == values[1]).astype(np.uint8))
    mask, _ = read_mask(path, values[2:])
    assert np.array_equal(mask, np.isin(levels, values[2:]).astype(np.uint8))


@pytest.mark.parametrize(
    ("background", "foreground"), [((255, 255, 255), (255, 0, 0)), ((0, 0, 255), (255, 0, 0))], ids=str
)
@pytest.mark.parametrize("alpha", [(), (255,), (200,)], ids=str)
def test_colours_that_are_equally_bright(
    background: tuple[int, ...], foreground: tuple[int, ...], alpha: tuple[int, ...], tmp_path: Path
) -> None:
    """Fails if a mask of two colours, neither of them black, is read as all foreground."""
    path = tmp_path / "mask.png"
    coloured(background + alpha, foreground + alpha).save(path)
    with pytest.raises(ValueError, match=r"has the colours .*#ff0000.*, expected one colour on black: convert it"):
        read_mask(path)


def test_colours_of_several_structures(tmp_path: Path) -> None:
    """Fails if structures of other colours are joined to one foreground: the same picture with a palette is refused."""
    pixels = np.asarray(coloured((0, 0, 0), (128, 0, 0))).copy()
    pixels[0:4, 0:4] = (0, 128, 0)
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match="has the colours #000000, #008000, #800000, expected one"):
        read_mask(tmp_path / "mask.png")


@pytest.mark.parametrize("value", [0, 1, 255])
def test_one_value(value: int, tmp_path: Path) -> None:
    """Fails if a mask without foreground, or with nothing else, ends the run: the report names it."""
    Image.new("L", (9, 9), value).save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png")[0].mean() == (value > 0)


@pytest.mark.parametrize(
    "values", [(1,), (1, 255), (1, 255, 65535), (127,), (0, 255), (0, 127)], ids=lambda values: f"{values} agree"
)
def test_encodings_that_agree(values: tuple[int, ...]) -> None:
    """Fails if 0/1 masks among 0/255 ones, or masks without foreground, make a list unreadable."""
    check_encodings({f"grey {value}": (3, f"{value}.png") for value in values}, "list.csv")


@pytest.mark.parametrize("values", [(127, 255), (1, 2), (85, 170, 255)], ids=str)
def test_encodings_that_contradict(values: tuple[int, ...]) -> None:
    """Fails if masks of several structures, each in a file of its own, are joined to one foreground."""
    encodings = {f"grey {value}": (3, f"{value}.png") for value in values}
    with pytest.raises(UserError, match=r"^list\.csv: the foreground of \d+\.png has the value .* --foreground$"):
        check_encodings(encodings, "list.csv")


def report(masks: list[np.ndarray]) -> list[str]:
    names = [f"{index}.png" for index in range(len(masks))]
    return describe_masks(np.stack(masks).astype(np.uint8), names, {"grey 255": (len(masks), "0.png")})


def disc(radius: float, row: float = 16, column: float = 16) -> np.ndarray:
    rows, columns = np.ogrid[:32, :32]
    return (rows - row) ** 2 + (columns - column) ** 2 < radius**2


def test_report_of_masks() -> None:
    """Fails if the share of foreground is wrong, or masks that are empty, full or unlike the others are not named."""
    discs = [disc(radius) for radius in np.linspace(5, 8, 12)]
    shares = [float(mask.mean()) for mask in discs]
    (line,) = report(discs)
    assert f"12 masks, foreground grey 255 in 12; it is {min(shares):.1%} to {max(shares):.1%}" in line
    assert line.endswith(f"median {np.median(shares):.1%}")
    _, empty, full, odd = report([*discs, np.zeros((32, 32)), np.ones((32, 32))])
    assert empty == "1 masks are all background (12.png)" and full == "1 masks are all foreground (13.png)"
    assert "warning: 1 masks have another amount" in odd and odd.endswith("(13.png)")
    (_, odd) = report([*discs, ~disc(10)])
    assert odd.endswith("(12.png)")
    (_, inverted) = report([~mask for mask in discs])
    assert "are they inverted?" in inverted


def test_report_of_real_masks(official: Path) -> None:
    """Fails if many masks of real lesions are called odd, or one of an inverted mask is not."""
    paths = sorted((official / "isic2017").glob("*Training_Part1_GroundTruth/*.png"))
    masks = [np.asarray(Image.fromarray(read_mask(path)[0]).resize((64, 64), 0)) for path in paths]
    lines = report(masks)
    odd = [line for line in lines if line.startswith("warning")]
    assert len(paths) > 40 and not [line for line in odd if "inverted" in line]
    assert not odd or int(odd[0].split()[1]) <= len(paths) // 20, odd
