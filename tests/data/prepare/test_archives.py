"""Preparing MedMNIST and MedSegBench archives."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advmia.data.datasets import CHEST_FINDINGS
from advmia.data.markers import data_label, write_marker
from advmia.data.prepare import prepare_dataset
from advmia.data.prepare.published_archives import PUBLISHED, Published
from advmia.errors import UserError
from tests.support.downloads import line_with, make_npz, read_list, snapshot

CHESTMNIST_ORDER = (
    *("atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia", "pneumothorax"),
    *("consolidation", "edema", "emphysema", "fibrosis", "pleural", "hernia"),
)


def one_bit(column: int) -> list[int]:
    return [int(index == column) for index in range(14)]


class TestArchives:
    def test_retinamnist(self, tmp_path: Path) -> None:
        """Fails if grades, pixels or the stand-in's label differ, or the validation part is not in training."""
        labels = {"train": [[0], [4]], "val": [[1]], "test": [[3], [2]]}
        arrays = make_npz(tmp_path / "retinamnist_64.npz", labels, 64)
        lines = prepare_dataset("medmnist", tmp_path / "retinamnist_64.npz", tmp_path / "data")
        folder = tmp_path / "data" / "mesidor"
        # The validation part joins the training part.
        assert [grade for _, grade in read_list(folder / "train.csv")] == ["0", "4", "1"]
        assert read_list(folder / "testbin.csv") == [
            ("retinamnist_64_test_00000.png", "1"),
            ("retinamnist_64_test_00001.png", "1"),
        ]
        assert [label for _, label in read_list(folder / "trainbin.csv")] == ["0", "1", "1"]
        for row in (1, 0):
            image = Image.open(folder / "img" / f"retinamnist_64_train_{row:05d}.png")
            assert np.array_equal(np.asarray(image), arrays["train_images"][row])
        assert data_label(folder, "trainbin.csv") == data_label(folder, "test.csv") == "RetinaMNIST 64 altered"
        line_with(lines, "stand-in: these are RetinaMNIST images of 64 pixels")

    def test_dermamnist(self, tmp_path: Path) -> None:
        """Fails if other classes than 0, 1 and 4 count as malignant."""
        labels = {"train": [[n] for n in range(7)], "val": [[4]], "test": [[5]]}
        make_npz(tmp_path / "dermamnist.npz", labels)
        prepare_dataset("medmnist", tmp_path / "dermamnist.npz", tmp_path / "data")
        folder = tmp_path / "data" / "mel2017"
        assert [label for _, label in read_list(folder / "train.csv")] == [*"0123456", "4"]
        assert [label for _, label in read_list(folder / "trainbin.csv")] == [*"1100100", "1"]
        assert not (folder / "trainSeg.csv").exists()

    def test_pneumoniamnist_is_inverted(self, tmp_path: Path) -> None:
        """Fails if the archive's label is taken as it is: in the layout 1 is normal."""
        make_npz(tmp_path / "pneumoniamnist.npz", {"train": [[0], [1]], "val": [[1]], "test": [[0]]}, colour=False)
        prepare_dataset("medmnist", tmp_path / "pneumoniamnist.npz", tmp_path / "data")
        folder = tmp_path / "data" / "xray"
        assert [label for _, label in read_list(folder / "trainbin.csv")] == ["1", "0", "0"]  # 1 = normal
        assert [label for _, label in read_list(folder / "testbin.csv")] == ["1"]
        assert not (folder / "trainMultiLabel_1w.csv").exists()
        assert Image.open(folder / "img" / "pneumoniamnist_28_val_00000.png").mode == "L"

    def test_chestmnist_findings_by_name(self, tmp_path: Path) -> None:
        """Fails if the archive's columns are taken in their own order, which is not ChestX-ray14's."""
        labels = {"train": [one_bit(n) for n in range(14)], "val": [[0] * 14], "test": [[1] * 14]}
        make_npz(tmp_path / "chestmnist.npz", labels, colour=False)
        prepare_dataset("medmnist", tmp_path / "chestmnist.npz", tmp_path / "data")
        folder = tmp_path / "data" / "xray"
        rows = (folder / "trainMultiLabel_1w.csv").read_text().splitlines()
        order = []
        for row in rows[1:15]:
            bits = row.split(",b")[1]
            assert bits.count("1") == 1
            order.append(CHEST_FINDINGS[bits.index("1")].lower().replace("pleural_thickening", "pleural"))
        assert rows[0].split(",") == list(CHEST_FINDINGS)
        assert tuple(order) == CHESTMNIST_ORDER
        assert [label for _, label in read_list(folder / "trainbin.csv")] == ["0"] * 14 + ["1"]  # 1 = no finding
        assert data_label(folder, "testMultiLabel_1w.csv") == "ChestMNIST 28 altered"

    @pytest.mark.parametrize(
        ("name", "colour", "folder", "images", "label"),
        [
            ("covid19radio_128.npz", False, "covidSeg", "image", "MedSegBench COVID-19 Radiography 8 altered"),
            ("isic2018_256.npz", True, "mel2017", "img", "MedSegBench ISIC 2018 8 altered"),
        ],
    )
    def test_medsegbench(self, tmp_path: Path, name: str, colour: bool, folder: str, images: str, label: str) -> None:
        """Fails if masks are not 0 and 255 or belong to other images, or an additional array in the archive matters."""
        rng = np.random.default_rng(1)
        arrays = {}
        for part, rows in (("train", 3), ("val", 1), ("test", 2)):
            arrays[f"{part}_images"] = rng.integers(0, 256, (rows, 8, 8, 3)[: 4 if colour else 3], dtype=np.uint8)
            arrays[f"{part}_label"] = rng.integers(0, 2, (rows, 8, 8), dtype=np.uint8)
        arrays["train_images_C1"] = arrays["train_images"][:1]  # as in some archives; ignored
        np.savez_compressed(tmp_path / name, allow_pickle=False, **arrays)
        prepare_dataset("medsegbench", tmp_path / name, tmp_path / "data")
        layout = tmp_path / "data" / folder
        stem = name.partition("_")[0]
        train = read_list(layout / "trainSeg.csv")
        assert [image for image, _ in train] == [
            *(f"{stem}_8_train_{row:05d}.png" for row in range(3)),
            f"{stem}_8_val_00000.png",
        ]
        mask = np.asarray(Image.open(layout / "target" / train[2][1]))
        assert np.array_equal(mask, arrays["train_label"][2] * 255) and mask.dtype == np.uint8
        image = np.asarray(Image.open(layout / images / train[2][0]))
        assert np.array_equal(image, arrays["train_images"][2])
        assert len(read_list(layout / "testSeg.csv")) == 2
        assert data_label(layout, "testSeg.csv") == label

    def test_the_published_archive_is_known(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Fails if an altered archive passes for the published one, or the published one for an altered one.

        The digests and counts are those of the package medmnist; here, those of a small archive take their place.
        """
        assert PUBLISHED["pneumoniamnist"].md5[28] == "28209eda62fecd6e6a2d98b1501bb15f"
        assert PUBLISHED["chestmnist"].counts == (78_468, 11_219, 22_433)
        path = tmp_path / "retinamnist.npz"
        arrays = make_npz(path, {"train": [[0], [1]], "val": [[1]], "test": [[0]]})
        md5 = hashlib.md5(path.read_bytes()).hexdigest()
        monkeypatch.setitem(PUBLISHED, "retinamnist", Published((2, 1, 1), {28: md5}))
        lines = prepare_dataset("medmnist", path, tmp_path / "published")
        assert data_label(tmp_path / "published/mesidor", "test.csv") == "RetinaMNIST 28"
        assert not [line for line in lines if line.startswith("warning")]
        arrays["train_images"][0, 0, 0, 0] ^= 1
        np.savez_compressed(path, **arrays)
        lines = prepare_dataset("medmnist", path, tmp_path / "altered")
        line_with(lines, "warning: retinamnist.npz is not the published archive (MD5 ", "instead of " + md5)
        assert data_label(tmp_path / "altered/mesidor", "test.csv") == "RetinaMNIST 28 altered"
        monkeypatch.setitem(PUBLISHED, "retinamnist", Published((3, 1, 1), {28: md5}))
        line_with(prepare_dataset("medmnist", path, tmp_path / "altered"), "2 training images instead of 3")
        # What was prepared before altered archives were marked gets its marker now.
        write_marker(tmp_path / "altered/mesidor", ["test.csv"], {"label": "RetinaMNIST 28"})
        prepare_dataset("medmnist", path, tmp_path / "altered")
        assert data_label(tmp_path / "altered/mesidor", "test.csv") == "RetinaMNIST 28 altered"

    def test_another_size_does_not_mix(self, tmp_path: Path) -> None:
        """Fails if images of two sizes of an archive get into one folder."""
        labels = {"train": [[0], [1]], "val": [[1]], "test": [[0]]}
        make_npz(tmp_path / "retinamnist.npz", labels)
        make_npz(tmp_path / "retinamnist_64.npz", labels, 64)
        prepare_dataset("medmnist", tmp_path / "retinamnist.npz", tmp_path / "data")
        before = snapshot(tmp_path / "data")
        with pytest.raises(UserError, match=r"train\.csv exists with other rows"):
            prepare_dataset("medmnist", tmp_path / "retinamnist_64.npz", tmp_path / "data")
        assert snapshot(tmp_path / "data") == before


def test_an_archive_damaged_in_the_middle_leaves_no_lists(tmp_path: Path) -> None:
    """Fails if damage that only the checksum shows ends in a traceback, or lists are written."""
    path = tmp_path / "retinamnist.npz"
    arrays = make_npz(path, {"train": [[0]] * 40, "val": [[1]], "test": [[0]]})
    np.savez(path, **arrays)  # not compressed: the damage is found by the checksum only
    data = bytearray(path.read_bytes())
    offset = data.index(arrays["train_images"][39].tobytes())
    data[offset] ^= 255
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"array train_images, item \d+: damaged .*CRC"):
        prepare_dataset("medmnist", path, tmp_path / "data")
    assert not list((tmp_path / "data").rglob("*.csv"))
