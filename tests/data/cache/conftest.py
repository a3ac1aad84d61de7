"""Fixtures of the cache's tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advmia.data import cache
from advmia.data.transforms import load_image
from tests.data.cache.data_root import COUNT, SPEC, write_image, write_list


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Returns a data root with one small segmentation list."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "data" / SPEC.folder
    for name, shape in ((SPEC.image_folder, (20, 30, 3)), (str(SPEC.mask_folder), (20, 30))):
        (folder / name).mkdir(parents=True)
        for number in range(COUNT):
            write_image(folder / name / f"{number}.png", rng, shape)
    write_list(tmp_path / "data", range(COUNT))
    return tmp_path / "data"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Returns a list that gets the names of the images that are decoded, in any order."""
    names: list[str] = []

    def load(path: Path, resize: int, size: int, **options: Any) -> np.ndarray:
        names.append(path.name)
        return load_image(path, resize, size, **options)

    monkeypatch.setattr(cache, "load_image", load)
    return names
