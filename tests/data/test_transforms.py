"""The image transforms, against torchvision and Pillow: equal to the bit, except segmentation images."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize, ToTensor
from torchvision.transforms import functional as tv

from advmia.data.datasets import DATASETS
from advmia.data.specs import Augmentation
from advmia.data.transforms import augment, load_image, load_mask, to_pixels

THREE = Augmentation(rotation=20, horizontal_flip=0.5, vertical_flip=0.5)
MODES = ("RGB", "L", "RGBA", "P", "LA", "1", "CMYK")
# (resize, size) of every data set and of some --imgSize
SIZES = {(spec.resize, spec.size) for spec in DATASETS.values()} | {
    (spec.resize, spec.size)
    for spec in (DATASETS[name].at_size(size) for name in ("melBin", "mesidorBin") for size in (8, 33, 64, 65))
}


def some_image(mode: str, width: int = 90, height: int = 61, seed: int = 0) -> Image.Image:
    """Returns smooth colours with noise added, in any of Pillow's 8-bit modes."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((width, height))
    image = Image.fromarray(np.asarray(coarse) // 2 + rng.integers(0, 128, (height, width, 3), dtype=np.uint8))
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(rng.integers(0, 256, (height, width), dtype=np.uint8)))
    return image.convert(mode)


def save(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


def official_pixels(path: Path, resize: int, size: int) -> Tensor:
    """Returns the pixels by torchvision, (3, size, size) float32."""
    with Image.open(path) as image:
        return Compose([Resize((resize, resize)), CenterCrop(size), ToTensor()])(image.convert("RGB"))


def check_official(path: Path, resize: int, size: int) -> None:
    loaded = load_image(path, resize, size)
    assert loaded.dtype == np.uint8 and loaded.shape == (size, size, 3)
    assert torch.equal(to_pixels(torch.from_numpy(loaded.copy())[None])[0], official_pixels(path, resize, size))


# ---------------------------------------------------------------- images


@pytest.mark.parametrize(("resize", "size"), sorted(SIZES))
@pytest.mark.parametrize("mode", MODES)
def test_images_are_torchvisions(mode: str, resize: int, size: int, tmp_path: Path) -> None:
    """Fails if the resize filter, the crop's offset, the conversion to RGB or the division differs in one bit."""
    suffix = "tif" if mode == "CMYK" else "png"
    check_official(save(some_image(mode), tmp_path / f"image.{suffix}"), resize, size)


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (256, 256), (224, 224), (299, 299)], ids=str)
def test_any_shape(size: tuple[int, int], tmp_path: Path) -> None:
    """Fails if the aspect ratio is kept, or an image of the right size is treated differently."""
    path = save(some_image("RGB", *size), tmp_path / "image.png")
    check_official(path, 256, 224)
    check_official(path, 299, 299)


def test_real_images(official: Path) -> None:
    """Fails if a real file's mode or format is decoded otherwise (JPEG; 8-bit PNG with and without alpha)."""
    skin = sorted((official / "isic2017").glob("*_Data/*.jpg"))[::12]
    chests = sorted((official / "chestxray14").rglob("*.png"))
    with_alpha = [path for path in chests if Image.open(path).mode == "RGBA"][:3]
    large = sorted((official / "isic2017_fullsize").glob("*.jpg"))[:1]
    assert len(skin) > 3 and len(with_alpha) == 3 and large
    for path in (*skin, *large, *with_alpha, *chests[::200]):
        check_official(path, 256, 224)
    for path in (skin[0], with_alpha[0]):
        check_official(path, 299, 299)
        check_official(path, 37, 32)


def test_segmentation_images_are_within_one_grey_level(official: Path) -> None:
    """Fails if resizing uint8 differs by more than one grey level from the published code, which resizes floats."""
    worst = 0.0
    for path in sorted((official / "isic2017").glob("*_Data/*.jpg"))[::12]:
        with Image.open(path) as image:
            pixels = tv.to_tensor(image.convert("RGB"))
        expected = tv.resize(pixels, [256, 256], InterpolationMode.BILINEAR, antialias=True) * 255
        ours = torch.from_numpy(load_image(path, 256, 256).copy()).permute(2, 0, 1)
        worst = max(worst, float((ours - expected).abs().max()))
    assert 0 < worst <= 1


def test_exif_rotation_is_not_applied(tmp_path: Path) -> None:
    """Fails if the camera's orientation is applied: the masks were drawn on the pixels as stored."""
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees
    turned = save(some_image("RGB"), tmp_path / "turned.jpg", exif=exif, quality=95)
    plain = save(some_image("RGB"), tmp_path / "plain.jpg", quality=95)
    assert Image.open(turned).getexif()[0x0112] == 6
    assert np.array_equal(load_image(turned, 64, 64), load_image(plain, 64, 64))
    assert np.array_equal(load_mask(turned, 64), load_mask(plain, 64))


@pytest.mark.parametrize(("mode", "dtype"), [("I;16", np.uint16), ("I", np.int32), ("F", np.float32)])
def test_more_than_8_bits_are_refused(mode: str, dtype: type, tmp_path: Path) -> None:
    """Fails if a 16-bit image comes out clipped to white instead of an error."""
    image = Image.fromarray(np.arange(64 * 64, dtype=dtype).reshape(64, 64))
    path = save(image, tmp_path / "deep.tif")
    assert Image.open(path).mode == mode
    with pytest.raises(ValueError, match=f"{mode} pixels; expected 8 bits a channel"):
        load_image(path, 32, 32)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_damaged_files_raise_what_the_cache_expects(suffix: str, tmp_path: Path) -> None:
    """Fails if a file that is cut short gives pixels, or an exception that would end in a traceback."""
    content = save(some_image("RGB", 40, 30), tmp_path / f"intact.{suffix}").read_bytes()
    damaged = tmp_path / f"damaged.{suffix}"
    for length in (0, 1, 10, len(content) // 2, len(content) * 9 // 10):
        damaged.write_bytes(content[:length])
        with pytest.raises((OSError, ValueError, SyntaxError)):
            load_image(damaged, 16, 16)
    damaged.write_text("<html>404</html>")
    with pytest.raises(OSError, match="cannot identify"):
        load_image(damaged, 16, 16)


# ---------------------------------------------------------------- masks


def test_mask_threshold(tmp_path: Path) -> None:
    """Fails if foreground among many shades does not begin at grey level 128, or is another number than 1."""
    levels = np.array([[0, 1, 127, 128, 129, 254, 255, 64, 32, 200]] * 2, dtype=np.uint8)
    mask = load_mask(save(Image.fromarray(levels).resize((10, 10), 0), tmp_path / "mask.png"), 10)
    assert mask.dtype == np.uint8 and mask.shape == (10, 10)
    assert mask[0].tolist() == [0, 0, 0, 1, 1, 1, 1, 0, 0, 1]


@pytest.mark.parametrize("size", [(256, 256), (299, 299), (640, 425), (100, 37), (512, 512)], ids=str)
def test_masks_take_the_nearest_pixel(size: tuple[int, int], tmp_path: Path) -> None:
    """Fails if levels are blended, or another pixel than the one at the centre is taken; any mask size will do."""
    width, height = size
    levels = np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)
    mask = load_mask(save(Image.fromarray(levels), tmp_path / "mask.png"), 256)
    rows, columns = (((np.arange(256) + 0.5) * side / 256).astype(int) for side in (height, width))
    assert np.array_equal(mask, (levels[rows][:, columns] >= 128).astype(np.uint8))


def test_real_masks_fit_their_images(official: Path) -> None:
    """Fails if image and mask come out shifted or scaled against each other: lesions are darker than the skin."""
    contrasts = []
    for path in sorted((official / "isic2017").glob("*Training_Part1_GroundTruth/*.png")):
        name = path.name.replace("_segmentation.png", ".jpg")
        image = load_image(official / "isic2017" / "ISIC-2017_Training_Data" / name, 256, 256).mean(-1)
        mask = load_mask(path, 256).astype(bool)
        layouts = (mask, mask.T, mask[::-1], mask[:, ::-1], np.roll(mask, 64, axis=1))
        contrasts.append([image[~layout].mean() - image[layout].mean() for layout in layouts])
    fitting, *others = np.mean(contrasts, axis=0)
    assert len(contrasts) > 40 and fitting > 25 and all(fitting > other + 2 for other in others)


# ---------------------------------------------------------------- pixels


def test_to_pixels() -> None:
    """Fails if any of the 256 levels differs from torchvision's ToTensor, or axes or memory are in another order."""
    images = torch.arange(256, dtype=torch.uint8).repeat(3).reshape(1, 16, 16, 3)
    images = torch.cat([images, images.flip(1)])
    before = images.clone()
    pixels = to_pixels(images)
    assert torch.equal(pixels, torch.stack([ToTensor()(image.numpy()) for image in images]))
    assert pixels.dtype == torch.float32 and (pixels.min(), pixels.max()) == (0, 1)
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)


# ---------------------------------------------------------------- augmentation


def some_batch(count: int, side: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 256, (count, side, side, 3), dtype=torch.uint8, generator=generator)


def some_draws(count: int, seed: int = 1) -> Tensor:
    return torch.rand(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def pillow_augment(image: Tensor, augmentation: Augmentation, draw: Tensor) -> Tensor:
    """Applies the three changes in the published code's order with Pillow."""
    turned = Image.fromarray(image.numpy())
    if augmentation.rotation:
        angle = (2 * float(draw[0]) - 1) * augmentation.rotation
        turned = turned.rotate(angle, Image.Resampling.NEAREST, fillcolor=0)
    if draw[1] < augmentation.horizontal_flip:
        turned = turned.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if draw[2] < augmentation.vertical_flip:
        turned = turned.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return torch.from_numpy(np.array(turned))


@pytest.mark.parametrize(
    "augmentation",
    [
        pytest.param(THREE, id="the three"),
        pytest.param(Augmentation(rotation=20), id="rotation"),
        pytest.param(Augmentation(rotation=179), id="wide rotation"),
        pytest.param(Augmentation(vertical_flip=0.5), id="vertical flip"),
        pytest.param(Augmentation(horizontal_flip=0.5), id="horizontal flip"),
        pytest.param(Augmentation(horizontal_flip=0.5, vertical_flip=0.5), id="both flips"),
        pytest.param(Augmentation(horizontal_flip=1, vertical_flip=1, rotation=5), id="always"),
    ],
)
@pytest.mark.parametrize(("side", "count"), [(1, 8), (2, 50), (7, 100), (8, 100), (31, 100), (64, 40)])
def test_augment_is_pillows(augmentation: Augmentation, side: int, count: int) -> None:
    """Fails if one pixel differs from Pillow's rotate and flips, e.g. for a float grid or another order."""
    images, draws = some_batch(count, side), some_draws(count)
    changed = augment(images, augmentation, draws)
    expected = torch.stack(
        [pillow_augment(image, augmentation, draw) for image, draw in zip(images, draws, strict=True)]
    )
    assert changed.dtype == torch.uint8 and torch.equal(changed, expected)


@pytest.mark.parametrize("side", [224, 299])
def test_augment_is_pillows_at_full_size(side: int) -> None:
    """Fails if the fixed-point steps lose precision over a full-size image."""
    images, draws = some_batch(12, side), some_draws(12)
    changed = augment(images, THREE, draws)
    for row, (image, draw) in enumerate(zip(images, draws, strict=True)):
        assert torch.equal(changed[row], pillow_augment(image, THREE, draw)), float(draw[0])


@pytest.mark.parametrize(("draw", "angle"), [(0.0, -20), (0.25, -10), (0.5, 0), (0.75, 10), (1 - 2**-53, 20)])
def test_angle_of_a_draw(draw: float, angle: float) -> None:
    """Fails if the angle is not uniform in +-20 degrees, or turns the other way."""
    image = some_batch(1, 33)
    draws = torch.tensor([[draw, 0.9, 0.9]], dtype=torch.float64)
    expected = Image.fromarray(image[0].numpy()).rotate(angle, Image.Resampling.NEAREST)
    assert np.array_equal(augment(image, THREE, draws)[0].numpy(), np.asarray(expected))


def test_angles_measured_in_the_pixels() -> None:
    """Fails if angles leave +-20 degrees or are not uniform; they are measured from coordinates, without Pillow."""
    side, count, radius = 65, 1000, 30
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    coordinates = torch.stack([rows, columns, torch.ones_like(rows)], dim=-1).to(torch.uint8)
    turned = augment(coordinates.expand(count, -1, -1, -1), Augmentation(rotation=20), some_draws(count))
    centre = (side - 1) / 2
    shown = turned[:, side // 2, side // 2 + radius].double()  # what a pixel to the right of the centre shows
    assert (shown[:, 2] == 1).all()
    angles = torch.rad2deg(torch.atan2(shown[:, 0] - centre, shown[:, 1] - centre))
    resolution = math.degrees(1 / radius)
    assert -20 - resolution < angles.min() < -19 + resolution and 19 - resolution < angles.max() < 20 + resolution
    assert angles.mean().abs() < 1 and abs(angles.std() - 40 / 12**0.5) < 0.5


@pytest.mark.parametrize(("horizontal", "vertical"), [(0.5, 0.5), (0.2, 0.7), (0.5, 0.0), (0.0, 1.0), (0.0, 0.0)])
def test_probability_of_flips(horizontal: float, vertical: float) -> None:
    """Fails if a flip happens with another probability, or the two are not independent."""
    count = 4000
    image = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8)[None, :, :, None].expand(count, 2, 2, 3)
    augmentation = Augmentation(horizontal_flip=horizontal, vertical_flip=vertical)
    corners = Counter(augment(image, augmentation, some_draws(count))[:, 0, 0, 0].tolist())
    for corner, share in {
        1: (1 - horizontal) * (1 - vertical),
        2: horizontal * (1 - vertical),
        3: (1 - horizontal) * vertical,
        4: horizontal * vertical,
    }.items():
        assert abs(corners[corner] / count - share) < 0.03, corners


@pytest.mark.parametrize("augmentation", [THREE, Augmentation(horizontal_flip=0.5), Augmentation()], ids=str)
def test_each_sample_is_changed_by_its_own_draw(augmentation: Augmentation) -> None:
    """Fails if a batch shares a draw, or an image's change depends on its neighbours in the batch."""
    images, draws = some_batch(16, 24), some_draws(16)
    before = images.clone()
    together = augment(images, augmentation, draws)
    alone = torch.cat([augment(images[[row]], augmentation, draws[[row]]) for row in range(16)])
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(together, alone)
    assert torch.equal(augment(images[order], augmentation, draws[order]), together[order])
    assert torch.equal(images, before)


def test_no_augmentation_changes_nothing() -> None:
    """Fails if segmentation images, which are not augmented, are changed."""
    images = some_batch(4, 9)
    assert torch.equal(augment(images, Augmentation(), some_draws(4)), images)


@pytest.mark.gpu
def test_to_pixels_on_a_gpu(gpu: torch.device) -> None:
    """Fails if a GPU multiplies by the rounded 1/255, which changes the last bit of half the grey levels."""
    images = torch.arange(256, dtype=torch.uint8).repeat(3).reshape(1, 16, 16, 3)
    assert torch.equal(to_pixels(images.to(gpu)).cpu(), to_pixels(images))


@pytest.mark.gpu
@pytest.mark.parametrize("augmentation", [THREE, Augmentation(horizontal_flip=0.5)], ids=str)
def test_augment_on_a_gpu(augmentation: Augmentation, gpu: torch.device) -> None:
    """Fails if a GPU gives other pixels than the CPU."""
    images, draws = some_batch(16, 65), some_draws(16)
    changed = augment(images.to(gpu), augmentation, draws)
    assert changed.is_cuda and torch.equal(changed.cpu(), augment(images, augmentation, draws))
