"""The cache: it returns the pixels that decoding gives, decodes once, and notices changed and damaged files."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advmia.data import cache
from advmia.data.cache import CACHE_FOLDER, cached_images, cached_masks
from advmia.data.datasets import DATASETS
from advmia.data.decode import NOT_TURNED
from advmia.data.fingerprints import digest_of
from advmia.data.readers import read_samples
from advmia.data.transforms import load_image, load_mask
from advmia.errors import UserError
from tests.data.cache.data_root import (
    COUNT,
    SPEC,
    cache_files,
    direct,
    get,
    image_path,
    samples_of,
    write_image,
    write_list,
)

# ---------------------------------------------------------------- its pixels


@pytest.mark.parametrize("workers", [1, 3, 16])
def test_pixels_are_those_of_decoding(workers: int, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if rows are mixed up by the threads or the chunks, or a byte or the checksum differs."""
    monkeypatch.setattr(cache, "_FILES_AT_A_TIME", 2)
    for _ in range(2):  # as built, and as read again
        array = get(root, workers)
        assert array.pixels.dtype == np.uint8 and np.array_equal(array.pixels, direct(root))
        assert array.crc32 == zlib.crc32(direct(root).tobytes())
        assert not array.pixels.flags.writeable
    assert np.array_equal(np.load(cache_files(root)[".npy"]), direct(root))


def test_masks(root: Path) -> None:
    """Fails if masks come from the image folder or another row."""
    masks = cached_masks(root, samples_of(root), workers=1).pixels
    folder = root / SPEC.folder / str(SPEC.mask_folder)
    expected = np.stack([load_mask(folder / f"{number}.png", SPEC.size) for number in range(COUNT)])
    assert masks.shape == (COUNT, 16, 16) and np.array_equal(masks, expected) and set(np.unique(masks)) == {0, 1}


def test_real_images(official: Path, tmp_path: Path) -> None:
    """Fails if a real data set's cache differs from decoding each file."""
    spec = DATASETS["xrayBin"].at_size(32)
    folder = tmp_path / spec.folder
    folder.mkdir()
    (folder / spec.image_folder).symlink_to(official / "chestxray14" / "images_001" / "images")
    names = sorted(path.name for path in (folder / spec.image_folder).iterdir())[:300]
    spec.list_path(tmp_path, "test").write_text("".join(f"{name},0\n" for name in names))
    pixels = cached_images(tmp_path, read_samples(spec, tmp_path, "test"), workers=2).pixels
    expected = [load_image(folder / spec.image_folder / name, spec.resize, spec.size) for name in names]
    assert np.array_equal(pixels, np.stack(expected))


def test_checksum_of_a_large_array(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if the checksum that is computed in pieces is not that of the array."""
    monkeypatch.setattr(cache, "_CHECKSUM_BYTES", 7)
    assert get(root).crc32 == zlib.crc32(direct(root).tobytes())


# ---------------------------------------------------------------- when it is built


def test_decodes_once(root: Path, decoded: list[str]) -> None:
    """Fails if a second run decodes again."""
    get(root)
    assert sorted(decoded) == [f"{number}.png" for number in range(COUNT)]
    decoded.clear()
    get(root)
    assert decoded == []


def test_other_files_are_another_array(root: Path, decoded: list[str]) -> None:
    """Fails if lists share an array although the number, the order or the size of their images differs."""
    get(root)
    for numbers, count in ((range(COUNT), 1), ((4, 3, 2, 1, 0), 2), ((0, 1, 2), 3), ((0, 0, 1), 4)):
        write_list(root, numbers)
        samples = samples_of(root)
        pixels = cached_images(root, samples, workers=1).pixels
        assert np.array_equal(pixels, direct(root)[list(numbers)])
        assert len(list((root / CACHE_FOLDER).glob("*.json"))) == count
    decoded.clear()
    other = read_samples(DATASETS["mel"].at_size(24), root, "train")
    assert cached_images(root, other, workers=1).pixels.shape == (3, 24, 24, 3)
    assert len(decoded) == 3 and len(list((root / CACHE_FOLDER).glob("*.json"))) == 5


def test_limit_is_another_array(root: Path, decoded: list[str]) -> None:
    """Fails if a list and some of its rows share an array."""
    few = samples_of(root).subset(2)
    numbers = [int(Path(name).stem) for name in few.files]
    assert np.array_equal(cached_images(root, few, workers=1).pixels, direct(root)[numbers])
    assert len(decoded) == 2
    assert np.array_equal(get(root).pixels, direct(root))


def test_crop_and_plain_resize_differ(root: Path) -> None:
    """Fails if two transforms to one size share an array: melBin's crop and the segmentation's plain resize."""
    rows = "".join(f"{number}.png,0\n" for number in range(COUNT))
    cropped = DATASETS["melBin"].at_size(16)
    cropped.list_path(root, "train").write_text(rows)
    plain = get(root).pixels
    assert cropped.folder == SPEC.folder and cropped.resize != SPEC.resize
    pixels = cached_images(root, read_samples(cropped, root, "train"), workers=1).pixels
    assert pixels.shape == plain.shape and not np.array_equal(pixels, plain)


def _kept_time(root: Path, change: Callable[[Path], object]) -> None:
    """Applies a change that keeps the size of image 2, and sets its modification time back."""
    path = image_path(root, 2)
    before = path.stat()
    change(path)
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _moved_over(path: Path) -> None:
    """Replaces the file by a new one, as rsync and unzip do."""
    write_image(path.with_name("new.png"), np.random.default_rng(9))
    path.with_name("new.png").replace(path)


def _swapped(path: Path) -> None:
    other = path.with_name("1.png")
    times = other.stat()
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    path.rename(path.with_name("aside.png"))
    other.rename(path)
    path.with_name("aside.png").rename(other)


def _linked_elsewhere(root: Path) -> None:
    """Points a link at another image of the same size and time."""
    path = image_path(root, 2)
    path.rename(path.with_name("first.png"))
    path.symlink_to("first.png")
    get(root)
    write_image(path.with_name("second.png"), np.random.default_rng(9))
    times = path.stat()
    os.utime(path.with_name("second.png"), ns=(times.st_atime_ns, times.st_mtime_ns))
    path.unlink()
    path.symlink_to("second.png")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda root: write_image(image_path(root, 2), np.random.default_rng(9)), id="content"),
        pytest.param(
            lambda root: _kept_time(root, lambda path: write_image(path, np.random.default_rng(9))), id="same time"
        ),
        pytest.param(lambda root: _kept_time(root, _moved_over), id="another file, same time"),
        pytest.param(lambda root: _kept_time(root, _swapped), id="swapped, same time"),
        pytest.param(_linked_elsewhere, id="a link elsewhere, same time"),
        pytest.param(lambda root: write_image(image_path(root, 0), np.random.default_rng(9), (9, 9, 3)), id="size"),
        pytest.param(lambda root: image_path(root, 4).write_bytes(image_path(root, 1).read_bytes()), id="copied over"),
    ],
)
def test_a_changed_image_is_decoded_anew(
    change: Callable[[Path], object], root: Path, decoded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails if the old pixels of an image that has been replaced are still returned, or nothing is said."""
    old = np.array(get(root).pixels)
    capsys.readouterr()
    change(root)
    decoded.clear()
    pixels = get(root).pixels
    assert np.array_equal(pixels, direct(root)) and not np.array_equal(pixels, old)
    assert len(decoded) == COUNT
    assert re.search(rf"[12] of {COUNT} files in .*img have changed \(.*\.png\): all", capsys.readouterr().err)
    get(root)
    assert len(decoded) == COUNT


def test_a_touched_image_is_read_but_not_decoded(root: Path, decoded: list[str]) -> None:
    """Fails if a copy of the data set, with other times and inodes, is decoded again, or is read each time."""
    get(root)
    decoded.clear()
    path = image_path(root, 2)
    path.write_bytes(path.read_bytes())
    read: list[Path] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "digest_of", lambda path: (read.append(path), digest_of(path))[1])
        for _ in range(2):
            assert np.array_equal(get(root).pixels, direct(root))
    assert decoded == [] and read == [path]


def test_remarks(root: Path) -> None:
    """Fails if the remarks about files are lost, or are not those of the array that is read again."""
    write_image(image_path(root, 2), np.random.default_rng(9))
    image = Image.open(image_path(root, 2))
    exif = Image.Exif()
    exif[0x0112] = 3
    image.save(image_path(root, 2), exif=exif)
    for _ in range(2):
        assert get(root).remarks == {NOT_TURNED: (1, "2.png")}
        masks = cached_masks(root, samples_of(root), workers=2)
        assert masks.remarks == {"grey 255": (COUNT, "0.png")}


def _flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def _as_signed(paths: dict[str, Path]) -> None:
    paths[".npy"].write_bytes(paths[".npy"].read_bytes().replace(b"|u1", b"|i1", 1))


def _other_digests(paths: dict[str, Path]) -> None:
    np.save(paths[".files.npy"], np.load(paths[".files.npy"]) ^ [0, 0, 0, 0, 1, 0])


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(lambda p: p[".npy"].unlink(), id="array gone"),
        pytest.param(lambda p: p[".npy"].write_bytes(b""), id="array empty"),
        pytest.param(lambda p: os.truncate(p[".npy"], 40), id="array cut in its header"),
        pytest.param(lambda p: os.truncate(p[".npy"], p[".npy"].stat().st_size - 1), id="array a byte short"),
        pytest.param(lambda p: _flip(p[".npy"], -1), id="last pixel"),
        pytest.param(lambda p: _flip(p[".npy"], 128), id="first pixel"),
        pytest.param(lambda p: _flip(p[".npy"], 0), id="magic number"),
        pytest.param(lambda p: _flip(p[".npy"], 8), id="header's length"),
        pytest.param(lambda p: _flip(p[".npy"], 12), id="header's text"),
        pytest.param(_as_signed, id="header's pixel type"),
        pytest.param(lambda p: p[".npy"].write_bytes(b"PK\x03\x04" + bytes(1000)), id="array an archive"),
        pytest.param(lambda p: p[".json"].unlink(), id="facts gone"),
        pytest.param(lambda p: p[".json"].write_bytes(b""), id="facts empty"),
        pytest.param(lambda p: p[".json"].write_text('{"fingerprint": "ab'), id="facts cut"),
        pytest.param(lambda p: p[".json"].write_bytes(b"\xff\xfe\xfd"), id="facts garbled"),
        pytest.param(lambda p: p[".json"].write_text("[]"), id="facts a list"),
        pytest.param(lambda p: p[".json"].write_text("{}"), id="facts without content"),
        pytest.param(lambda p: p[".json"].write_text("null"), id="facts null"),
        pytest.param(lambda p: p[".files.npy"].unlink(), id="fingerprints gone"),
        pytest.param(lambda p: p[".files.npy"].write_bytes(b"\x93NUMPY"), id="fingerprints cut"),
        pytest.param(_other_digests, id="other fingerprints"),
    ],
)
def test_a_damaged_cache_is_built_again(
    harm: Callable[[dict[str, Path]], object], root: Path, decoded: list[str]
) -> None:
    """Fails if damaged pixels are returned, or damage ends in a traceback instead of a rebuild."""
    get(root)
    decoded.clear()
    harm(cache_files(root))
    array = get(root)
    assert np.array_equal(array.pixels, direct(root)) and array.pixels.dtype == np.uint8
    assert len(decoded) == COUNT
    get(root)
    assert len(decoded) == COUNT


def test_an_array_of_other_files_is_not_used(root: Path) -> None:
    """Fails if an undamaged array of other files is used for this list."""
    get(root)
    paths = cache_files(root)
    other = np.zeros((COUNT, 16, 16, 3), dtype=np.uint8)
    np.save(paths[".npy"], other)
    assert np.array_equal(get(root).pixels, direct(root))


def test_a_disk_that_loses_bytes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if an array that reads back with other bytes is used, or is built again and again."""
    checksum = zlib.crc32
    monkeypatch.setattr(cache, "_checksum", lambda array: checksum(array.tobytes()) ^ 1)
    with pytest.raises(UserError, match="does not read back as it was written"):
        get(root)


# ---------------------------------------------------------------- bad images


def _link_to_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("gone.png"))


def _of_16_bits(path: Path) -> None:
    Image.fromarray(np.zeros((9, 9), dtype=np.uint16)).save(path)


# name of the case, what is done to a file, what the message says
UNREADABLE: list[tuple[str, Callable[[Path], object], str]] = [
    ("cut", lambda path: os.truncate(path, path.stat().st_size // 2), ""),
    ("empty", lambda path: path.write_bytes(b""), "cannot identify"),
    ("web page", lambda path: path.write_text("<html>404</html>"), "cannot identify"),
    ("gone since the list was checked", Path.unlink, "No such file"),
    ("broken link", _link_to_nowhere, "No such file"),
]
CASES = [("image", *case) for case in (*UNREADABLE, ("16 bits", _of_16_bits, "expected 8 bits"))]
CASES += [("mask", *case) for case in UNREADABLE]  # masks of 16 bits are read


@pytest.mark.parametrize(("kind", "name", "harm", "says"), CASES, ids=[f"{kind}, {name}" for kind, name, *_ in CASES])
def test_unreadable_files(kind: str, name: str, harm: Callable[[Path], object], says: str, root: Path) -> None:
    """Fails if the message lacks row or file, or half an array stays in the folder."""
    SPEC.list_path(root, "train").write_text("0.png,0.png\n\n1.png,1.png\n2.png,2.png\n")
    samples = samples_of(root)
    folder = root / SPEC.folder / str(SPEC.image_folder if kind == "image" else SPEC.mask_folder)
    harm(folder / "1.png")
    build = cached_images if kind == "image" else cached_masks
    with pytest.raises(UserError) as caught:
        build(root, samples, workers=2)
    text = str(caught.value)
    assert text.startswith(f"{samples.path} row 3: cannot read {folder / '1.png'} (") and says in text
    assert "take the row out of the list" in text and "\n" not in text
    assert {path.suffix for path in (root / CACHE_FOLDER).glob("*")} <= {".lock"}


def test_an_image_that_is_restored(root: Path, decoded: list[str]) -> None:
    """Fails if a failed build hinders the next one."""
    content = image_path(root, 3).read_bytes()
    os.truncate(image_path(root, 3), 50)
    with pytest.raises(UserError, match=r"row 4: cannot read .*3\.png"):
        get(root)
    image_path(root, 3).write_bytes(content)
    assert np.array_equal(get(root).pixels, direct(root))
