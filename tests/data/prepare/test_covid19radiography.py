"""Preparing the COVID-19 Radiography Database: selection and masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advmia.data.prepare import prepare_dataset
from advmia.errors import UserError
from tests.support.downloads import COVID_NAMES, line_with, make_covid, read_list


class TestCovid:
    def test_selection_masks_and_names(self, tmp_path: Path) -> None:
        """Fails if other images are selected, or masks are not resized, binary and of one channel."""
        source = make_covid(tmp_path / "source", list(COVID_NAMES))
        lines = prepare_dataset("covid19radiography", source, tmp_path / "data")
        folder = tmp_path / "data" / "covidSeg"
        train, test = read_list(folder / "trainSeg.csv"), read_list(folder / "testSeg.csv")
        assert (len(train), len(test)) == (4, 1)
        selected = {f"{name}.png" for name in COVID_NAMES} - {"COVID-690.png", "Normal-688.png"}
        assert {name for name, _ in train + test} == selected
        assert all(image == mask for image, mask in train + test)
        mask = Image.open(folder / "target" / "Viral Pneumonia-2.png")
        expected = np.array([[0, 0, 255], [255, 0, 0], [0, 255, 0]], np.uint8).repeat(2, 0).repeat(2, 1)
        assert mask.mode == "L" and np.array_equal(np.asarray(mask), expected)
        original = next(source.rglob("images/COVID-1.png"))
        assert (folder / "image" / "COVID-1.png").read_bytes() == original.read_bytes()
        line_with(lines, "left out 2 images of the download")
        line_with(lines, "copied 5 files, converted 5")
        kinds = [line.partition("; ")[2].split(" (")[0] for line in lines if "Seg.csv: " in line]
        counts = [dict(part.split(": ") for part in kind.split(", ")) for kind in kinds]
        total = {kind: sum(int(side.get(kind, 0)) for side in counts) for side in counts for kind in side}
        assert total == {"COVID": 2, "Normal": 1, "Viral Pneumonia": 1, "Lung_Opacity": 1}

    def test_images_without_mask_are_reported(self, tmp_path: Path) -> None:
        """Fails if an image without a mask is listed, or left out without a report."""
        source = make_covid(tmp_path / "source", list(COVID_NAMES))
        next(source.rglob("masks/COVID-1.png")).unlink()
        lines = prepare_dataset("covid19radiography", source, tmp_path / "data")
        line_with(lines, "skipped 1: images without a mask (e.g. COVID-1.png)")
        assert not (tmp_path / "data/covidSeg/image/COVID-1.png").exists()

    def test_numbers_that_begin_with_19(self, tmp_path: Path) -> None:
        """Fails if COVID-191 is taken for image 1 of a class named COVID-19, or COVID-19-2 is not image 2."""
        others = ["Normal-19", "Viral Pneumonia-2", "Lung_Opacity-190"]
        names = ["COVID-1", "COVID-19", "COVID-190", "COVID-191", "COVID-1900", "COVID-0005", "COVID-19-2", *others]
        source = make_covid(tmp_path / "source", names)
        prepare_dataset("covid19radiography", source, tmp_path / "data")
        spelt = {path.stem: path.read_bytes() for path in source.rglob("images/*.png")}
        kept = {path.stem: path.read_bytes() for path in (tmp_path / "data/covidSeg/image").iterdir()}
        official = {"COVID-0005": "COVID-5", "COVID-19-2": "COVID-2"}
        del spelt["COVID-1900"]  # not in the published selection
        assert kept == {official.get(name, name): content for name, content in spelt.items()}

    @pytest.mark.parametrize(("value", "form"), [(1, "grey 255 in 4, grey 1 in 1"), (127, "")])
    def test_masks_of_two_forms(self, tmp_path: Path, value: int, form: str) -> None:
        """Fails if masks whose values contradict each other become one kind of 0 and 255, or forms are not said."""
        source = make_covid(tmp_path / "source", list(COVID_NAMES))
        for path in source.rglob("masks/*.png"):
            Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).save(path)
        Image.fromarray(np.array([[0, value], [value, 0]], np.uint8)).save(next(source.rglob("masks/Normal-687.png")))
        if not form:
            with pytest.raises(UserError, match=r"of Normal-687\.png has the value 127, .* 255: .* to 0 and 255$"):
                prepare_dataset("covid19radiography", source, tmp_path / "data")
            assert not list((tmp_path / "data").rglob("*.*"))
            return
        lines = prepare_dataset("covid19radiography", source, tmp_path / "data")
        assert sorted(line_with(lines, "masks of the download: ").split("foreground ")[1].split(", ")) == sorted(
            form.split(", ")
        )
        lines = prepare_dataset("covid19radiography", source, tmp_path / "data")
        assert not [line for line in lines if line.startswith("masks of the download")]  # all are in place
