"""A small data root for the tests of the cache, and the pixels that its cache must contain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from advmia.data.cache import CACHE_FOLDER, CachedArray, cached_images
from advmia.data.datasets import DATASETS
from advmia.data.readers import SampleList, read_samples
from advmia.data.transforms import load_image

SPEC = DATASETS["mel"].at_size(16)
COUNT = 5


def write_image(path: Path, rng: np.random.Generator, shape: tuple[int, ...] = (20, 30, 3)) -> None:
    Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path, compress_level=0)


def write_list(root: Path, numbers: Any) -> None:
    rows = "".join(f"{number}.png,{number}.png\n" for number in numbers)
    SPEC.list_path(root, "train").write_text(rows)


def samples_of(root: Path) -> SampleList:
    return read_samples(SPEC, root, "train")


def image_path(root: Path, number: int) -> Path:
    return root / SPEC.folder / SPEC.image_folder / f"{number}.png"


def direct(root: Path) -> np.ndarray:
    """Returns the pixels that the cache must contain, decoded without it."""
    return np.stack([load_image(image_path(root, number), SPEC.resize, SPEC.size) for number in range(COUNT)])


def cache_files(root: Path) -> dict[str, Path]:
    """Returns the four files of the only array in the cache, by suffix; of the fingerprints, `.files.npy`."""
    paths = {"".join(path.suffixes): path for path in (root / CACHE_FOLDER).iterdir()}
    assert set(paths) == {".npy", ".json", ".files.npy", ".lock"} and len(list((root / CACHE_FOLDER).iterdir())) == 4
    return paths


def get(root: Path, workers: int = 2) -> CachedArray:
    return cached_images(root, samples_of(root), workers=workers)
