"""What a data set's declaration says: where its files lie, and how an image becomes a network's input."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any, Literal, get_args

from advmia.targets import TaskName

Split = Literal["train", "test"]
# For each class of a mask: its grey levels, its indices in a palette, or its colours such as "#ff0000".
MaskValues = tuple[tuple[int | str, ...], ...]
# What attacks may change: every channel by itself, or all by the same, as suits a radiograph, which has one channel.
Noise = Literal["colour", "grey"]
NOISES: tuple[Noise, ...] = get_args(Noise)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


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
class Source:
    """The file that declares a data set."""

    path: Path
    table: dict[str, Any]  # what it declares, by key
    lines: dict[str, int]  # of its keys, from 1

    def at(self, key: str) -> str:
        """Returns where the key is, for messages: `data/skin/dataset.toml line 3`."""
        return f"{self.path} line {self.lines[key]}" if key in self.lines else str(self.path)


@dataclass(frozen=True)
class DatasetSpec:
    """One data set for one task. `advmia.data.declarations` reads it from a file."""

    name: str  # as --dataset takes it, and in the names of checkpoints
    task: TaskName
    folder: str  # below the data root
    train_list: str  # CSV in `folder`
    test_list: str
    size: int  # pixels a side of the square image that the network gets
    resize: int  # pixels a side of the square that the image is resized to, before its centre is cropped to `size`
    val_list: str | None = None  # on which the best epoch is chosen; None: on the test list, as in the survey
    download: str | None = None  # the official download, as `python -m advmia prepare --dataset` takes it
    image_folder: str = "img"  # in `folder`
    mask_folder: str | None = None  # in `folder`; segmentation only
    foreground: tuple[int, ...] = ()  # mask values that are foreground; (): decided for each file, see `masks`
    mask_values: MaskValues = ()  # for masks of more than two classes
    classes: int | None = None  # None: counted in the training list
    class_names: tuple[str, ...] = ()  # (): classes have numbers only
    positive: int = 1  # of two classes, the one that means disease
    findings: tuple[str, ...] = ()  # multi-label only: the header of the lists
    augmentation: Augmentation = Augmentation()
    mean: tuple[float, ...] | None = None  # normalisation, applied inside the network
    std: tuple[float, ...] | None = None
    patients: str = ""  # a regular expression whose group is the patient, in the name of a file; "": unknown
    noise: Noise = "colour"  # "grey": images are grey, networks get their one channel, and so do attacks
    published_rows: tuple[int, int] | None = None  # in the survey's training and test lists
    aliases: tuple[str, ...] = ()  # other names in published commands; letter case never matters
    source: Source | None = field(default=None, compare=False)  # of a user's data set; None for those of the survey

    def list_path(self, root: Path, split: Split) -> Path:
        """Returns the path of the CSV list of `split` below the data root `root`."""
        return root / self.folder / (self.train_list if split == "train" else self.test_list)

    @property
    def recorded(self) -> dict[str, Any]:
        """What a record states of the data set beside its name; {} for the survey's as they are published."""
        noise = {"noise": self.noise} if self.noise != "colour" else {}
        return noise | ({"declaration": self.source.table} if self.source else {})

    def class_name(self, label: int) -> str:
        """Returns the name of a class, or e.g. `class 1` if it has none."""
        return self.class_names[label] if label < len(self.class_names) else f"class {label}"

    def at_size(self, size: int) -> DatasetSpec:
        """Returns the data set with images of `size` pixels a side; the crop keeps its share of the image."""
        return replace(self, size=size, resize=round(size * self.resize / self.size))
