"""Declares the data sets of the survey: where their files lie, and how an image becomes a network's input."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Literal

TaskName = Literal["single-label", "multi-label", "segmentation"]
Split = Literal["train", "test"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# The bits of ChestX-ray14's multi-label lists, in the published order.
CHEST_FINDINGS = (
    "Cardiomegaly",
    "Emphysema",
    "Effusion",
    "Hernia",
    "Infiltration",
    "Mass",
    "Nodule",
    "Atelectasis",
    "Pneumothorax",
    "Pleural_Thickening",
    "Pneumonia",
    "Fibrosis",
    "Edema",
    "Consolidation",
)


def parse_normalization(text: str) -> tuple[tuple[float, ...], tuple[float, ...]] | tuple[None, None]:
    """Returns mean and standard deviation of `imagenet`, `none` (both None) or `MEAN/STD`, 3 numbers or 1 each.

    Raises `ValueError` for any other text.
    """
    if text == "none":
        return None, None
    if text == "imagenet":
        return IMAGENET_MEAN, IMAGENET_STD
    mean, std = (tuple(float(number) for number in part.split(",")) for part in text.split("/"))
    if len(mean) not in (1, 3) or len(std) not in (1, 3) or not all(map(isfinite, mean)) or not min(std) > 0:
        raise ValueError(text)
    return mean * (3 // len(mean)), std * (3 // len(std))


@dataclass(frozen=True)
class Augmentation:
    """The random changes of training images, drawn anew for each sample and epoch."""

    rotation: float = 0.0  # degrees: uniform in [-rotation, rotation]; nearest pixel, black corners
    horizontal_flip: float = 0.0  # probability
    vertical_flip: float = 0.0  # probability


@dataclass(frozen=True)
class DatasetSpec:
    """One data set for one task."""

    name: str  # as --dataset takes it, and in the names of checkpoints
    task: TaskName
    folder: str  # below the data root
    train_list: str  # CSV in `folder`
    test_list: str
    download: str  # the official download, as `python -m advmia prepare --dataset` takes it
    size: int  # pixels a side of the square image that the network gets
    resize: int  # pixels a side of the square that the image is resized to, before its centre is cropped to `size`
    image_folder: str = "img"  # in `folder`
    mask_folder: str | None = None  # in `folder`; segmentation only
    foreground: tuple[int, ...] = ()  # mask values that are foreground; (): decided for each file, see `masks`
    classes: int | None = None  # None: counted in the training list
    positive: int = 1  # of two classes, the one that means disease
    findings: tuple[str, ...] = ()  # multi-label only: the header of the lists
    augmentation: Augmentation = Augmentation()
    mean: tuple[float, ...] | None = None  # normalisation, applied inside the network
    std: tuple[float, ...] | None = None
    published_rows: tuple[int, int] | None = None  # in the survey's training and test lists
    aliases: tuple[str, ...] = ()  # other names in published commands; letter case never matters

    def list_path(self, root: Path, split: Split) -> Path:
        """Returns the path of the CSV list of `split` below the data root `root`."""
        return root / self.folder / (self.train_list if split == "train" else self.test_list)

    def at_size(self, size: int) -> DatasetSpec:
        """Returns the data set with images of `size` pixels a side; the crop keeps its share of the image."""
        return replace(self, size=size, resize=round(size * self.resize / self.size))


_FLIPS_AND_ROTATION = Augmentation(rotation=20.0, horizontal_flip=0.5, vertical_flip=0.5)
_HORIZONTAL_FLIP = Augmentation(horizontal_flip=0.5)

_SPECS = (
    DatasetSpec(
        name="mesidorBin",
        task="single-label",
        folder="mesidor",
        train_list="trainbin.csv",
        test_list="testbin.csv",
        download="mesidor",
        size=299,
        resize=299,
        classes=2,
        augmentation=_FLIPS_AND_ROTATION,
        published_rows=(960, 240),
    ),
    DatasetSpec(
        name="mesidorMulti",
        task="single-label",
        folder="mesidor",
        train_list="train.csv",
        test_list="test.csv",
        download="mesidor",
        size=299,
        resize=299,
        augmentation=_FLIPS_AND_ROTATION,
        published_rows=(960, 240),
        aliases=("mesidorMul",),
    ),
    DatasetSpec(
        name="melBin",
        task="single-label",
        folder="mel2017",
        train_list="trainbin.csv",
        test_list="testbin.csv",
        download="isic2017",
        size=224,
        resize=256,
        classes=2,
        augmentation=_FLIPS_AND_ROTATION,
        published_rows=(2_000, 750),
        aliases=("melanomaBin",),
    ),
    DatasetSpec(
        name="melMulti",
        task="single-label",
        folder="mel2017",
        train_list="train.csv",
        test_list="test.csv",
        download="isic2017",
        size=224,
        resize=256,
        augmentation=_FLIPS_AND_ROTATION,
        published_rows=(2_000, 750),
        aliases=("melMul", "melanomaMul"),
    ),
    DatasetSpec(
        name="xrayBin",
        task="single-label",
        folder="xray",
        train_list="trainbin.csv",
        test_list="testbin.csv",
        download="chestxray14",
        size=224,
        resize=256,
        classes=2,
        positive=0,  # any finding; 1 is No Finding
        augmentation=_HORIZONTAL_FLIP,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        published_rows=(89_696, 22_424),
    ),
    DatasetSpec(
        name="xray_multilabel",
        task="multi-label",
        folder="xray",
        train_list="trainMultiLabel_1w.csv",
        test_list="testMultiLabel_1w.csv",
        download="chestxray14",
        size=224,
        resize=256,
        classes=len(CHEST_FINDINGS),
        findings=CHEST_FINDINGS,
        augmentation=_HORIZONTAL_FLIP,
        published_rows=(8_000, 2_000),
    ),
    DatasetSpec(
        name="mel",
        task="segmentation",
        folder="mel2017",
        train_list="trainSeg.csv",
        test_list="testSeg.csv",
        download="isic2017",
        size=256,
        resize=256,
        mask_folder="target",
        classes=2,
        published_rows=(2_000, 750),
    ),
    DatasetSpec(
        name="xray",
        task="segmentation",
        folder="covidSeg",
        train_list="trainSeg.csv",
        test_list="testSeg.csv",
        download="covid19radiography",
        size=256,
        resize=256,
        image_folder="image",
        mask_folder="target",
        classes=2,
        published_rows=(2_000, 750),
    ),
)

DATASETS: dict[str, DatasetSpec] = {spec.name: spec for spec in _SPECS}
