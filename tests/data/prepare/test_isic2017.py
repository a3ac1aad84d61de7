"""Preparing ISIC 2017: real images, and a tiny download with unusual files."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from advmia.data.markers import data_label
from advmia.data.prepare import prepare_dataset
from advmia.errors import UserError
from tests.support.downloads import line_with, make_isic, read_list


class TestIsic2017:
    def test_real_sample(self, official: Path, tmp_path: Path) -> None:
        """Fails if a list, an image or a mask differs from the official download."""
        source = official / "isic2017"
        lines = prepare_dataset("isic2017", source, tmp_path, partial=True)
        folder = tmp_path / "mel2017"
        for part, side in (("Training", "train"), ("Test_v2", "test")):
            with (source / f"ISIC-2017_{part}_Part3_GroundTruth.csv").open() as file:
                rows = list(csv.DictReader(file))
            names = [f"{row['image_id']}.jpg" for row in rows]
            classes = [
                "1" if row["melanoma"] == "1.0" else "2" if row["seborrheic_keratosis"] == "1.0" else "0"
                for row in rows
            ]
            assert read_list(folder / f"{side}.csv") == list(zip(names, classes, strict=True))
            binary = ["0" if label == "0" else "1" for label in classes]
            assert read_list(folder / f"{side}bin.csv") == list(zip(names, binary, strict=True))
            masks = [f"{row['image_id']}_segmentation.png" for row in rows]
            assert read_list(folder / f"{side}Seg.csv") == list(zip(names, masks, strict=True))
            for image, mask in zip(names, masks, strict=True):
                assert (folder / "img" / image).read_bytes() == (source / f"ISIC-2017_{part}_Data" / image).read_bytes()
                real = source / f"ISIC-2017_{part}_Part1_GroundTruth" / mask
                assert (folder / "target" / mask).read_bytes() == real.read_bytes()
        assert (folder / "train.csv").read_text().startswith("ISIC_0001852.jpg,0\nISIC_0001871.jpg,0\n")
        assert "0: 25, 1: 5, 2: 16" in line_with(lines, "train.csv: 46 rows")
        assert "0: 13, 1: 10" in line_with(lines, "testbin.csv: 23 rows")
        assert "melanoma: 2, nevus or other: 13, seborrheic keratosis: 8" in line_with(lines, "testSeg.csv: 23 rows")
        line_with(lines, "partial: the download lacks the Validation part")
        line_with(lines, "copied 138 files, converted 0, found 0 in place, wrote 6 lists")
        assert data_label(folder, "train.csv") == ""

    def test_published_order_and_unusual_files(self, tmp_path: Path) -> None:
        """Fails if the test list is in another order, or a name's letter case gets into the layout."""
        lines = prepare_dataset("isic2017", make_isic(tmp_path / "source"), tmp_path / "data")
        folder = tmp_path / "data" / "mel2017"
        assert read_list(folder / "train.csv") == [("ISIC_0000001.jpg", "0"), ("ISIC_0000002.jpg", "1")]
        # The test part in its own order, then the validation part.
        assert read_list(folder / "test.csv") == [
            ("ISIC_0000004.jpg", "2"),
            ("ISIC_0000003.jpg", "0"),
            ("ISIC_0000005.jpg", "1"),
        ]
        assert read_list(folder / "testSeg.csv") == [
            ("ISIC_0000004.jpg", "ISIC_0000004_segmentation.png"),
            ("ISIC_0000005.jpg", "ISIC_0000005_segmentation.png"),
        ]
        assert sorted(p.name for p in (folder / "img").iterdir()) == [f"ISIC_000000{n}.jpg" for n in range(1, 6)]
        assert sorted(p.name for p in (folder / "target").iterdir()) == [
            f"ISIC_000000{n}_segmentation.png" for n in (1, 2, 4, 5)
        ]
        line_with(lines, "skipped 1", "without a row", "isic_0000099.jpg")
        line_with(lines, "skipped 1", "without a mask", "ISIC_0000003.jpg")

    def test_official_split_leaves_validation_out(self, tmp_path: Path) -> None:
        """Fails if the official split has images of the validation part."""
        lines = prepare_dataset("isic2017", make_isic(tmp_path / "source"), tmp_path / "data", split="official")
        folder = tmp_path / "data" / "mel2017"
        assert [name for name, _ in read_list(folder / "test.csv")] == ["ISIC_0000004.jpg", "ISIC_0000003.jpg"]
        assert not (folder / "img" / "ISIC_0000005.jpg").exists()
        line_with(lines, "left out 1 images")
        line_with(lines, "split official", "validation part is left out")

    @pytest.mark.parametrize("part", ["Training", "Validation"])
    def test_masks_that_vanish(self, tmp_path: Path, part: str) -> None:
        """Fails if a part without masks passes without a word, or what lies there instead is not named."""
        source = make_isic(tmp_path / "source")
        masks = next(source.glob(f"ISIC-2017_{part}_Part1_GroundTruth"))
        count = len([path.rename(path.with_suffix(".bmp")) for path in list(masks.iterdir())])
        message = rf"lacks the masks of the {part} part \(not read: {count} \.bmp \(ISIC_.*\.bmp\)\): complete"
        with pytest.raises(UserError, match=message):
            prepare_dataset("isic2017", source, tmp_path / "data")
        lines = prepare_dataset("isic2017", source, tmp_path / "data", partial=True)
        line_with(lines, f"partial: the download lacks the masks of the {part} part")
        if part == "Validation":
            prepare_dataset("isic2017", source, tmp_path / "official", split="official")  # needs no validation part
        for path in masks.iterdir():
            path.unlink()
        masks.with_suffix(".zip").touch()
        with pytest.raises(UserError, match=rf"and ISIC-2017_{part}_Part1_GroundTruth\.zip in it is not unpacked"):
            prepare_dataset("isic2017", source, tmp_path / "data")
