"""Reads MedMNIST and MedSegBench: NumPy archives that can replace data sets whose download needs a registration."""

from __future__ import annotations

import functools
import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from advmia.data.datasets import CHEST_FINDINGS
from advmia.data.prepare.contents import Pixels
from advmia.data.prepare.published_archives import difference_from_published
from advmia.data.prepare.records import Collection, Division, Record, Rule
from advmia.data.specs import DatasetSpec
from advmia.errors import UserError

PARTS = ("train", "val", "test")
ALTERED = " altered"  # ends the label of images that are not the published archive's

# The columns of ChestMNIST's labels, by the names of ChestX-ray14's findings.
CHESTMNIST_FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
DERMAMNIST_MALIGNANT = (0, 1, 4)  # actinic keratosis and intraepithelial carcinoma, basal cell carcinoma, melanoma


@dataclass(frozen=True)
class Archive:
    """A known archive, and the layout that it fills."""

    title: str
    folder: str  # of the layout
    meanings: dict[str, str]  # what the labels mean, by spec name
    entries: Callable[[list[int]], dict[str, str]] | None = None  # list entries of a label; None: labels are masks
    width: int = 1  # values in each label
    classes: int = 2  # each value is 0 to classes - 1


def _retina(label: list[int]) -> dict[str, str]:
    return {"mesidorMulti": str(label[0]), "mesidorBin": str(int(label[0] >= 1))}


def _derma(label: list[int]) -> dict[str, str]:
    return {"melMulti": str(label[0]), "melBin": str(int(label[0] in DERMAMNIST_MALIGNANT))}


def _pneumonia(label: list[int]) -> dict[str, str]:
    return {"xrayBin": str(1 - label[0])}


def _chest(label: list[int]) -> dict[str, str]:
    present = {finding for finding, value in zip(CHESTMNIST_FINDINGS, label, strict=True) if value}
    bits = "".join(str(int(finding in present)) for finding in CHEST_FINDINGS)
    return {"xrayBin": str(int(not present)), "xray_multilabel": f"b{bits}"}


MEDMNIST = {
    "retinamnist": Archive(
        "RetinaMNIST",
        "mesidor",
        {"mesidorMulti": "five grades of retinopathy, 0 = none", "mesidorBin": "1 = grade 1 or worse, 0 = none"},
        _retina,
        classes=5,
    ),
    "dermamnist": Archive(
        "DermaMNIST",
        "mel2017",
        {
            "melMulti": "0 = actinic keratosis or intraepithelial carcinoma, 1 = basal cell carcinoma, 2 = benign"
            " keratosis, 3 = dermatofibroma, 4 = melanoma, 5 = nevus, 6 = vascular",
            "melBin": "1 = classes 0, 1, 4 (malignant or precancerous), 0 = others; ISIC 2017 asks another question",
        },
        _derma,
        classes=7,
    ),
    "chestmnist": Archive(
        "ChestMNIST",
        "xray",
        {"xrayBin": "1 = no finding, 0 = any finding", "xray_multilabel": "a bit for each finding"},
        _chest,
        width=len(CHESTMNIST_FINDINGS),
    ),
    "pneumoniamnist": Archive(
        "PneumoniaMNIST", "xray", {"xrayBin": "1 = normal, 0 = pneumonia (the archive has it inverted)"}, _pneumonia
    ),
}
MEDSEGBENCH = {
    "covid19radio": Archive("MedSegBench COVID-19 Radiography", "covidSeg", {"xray": "lung masks"}),
    "isic2018": Archive("MedSegBench ISIC 2018", "mel2017", {"mel": "lesion masks"}),
}


class NpzArray:
    """One array of an .npz file, whose items are read only when needed, because large archives do not fit in memory.

    Reads numbers only, never pickled objects. `array[index]` is fast when the indices ascend.
    """

    def __init__(self, path: Path, key: str) -> None:
        """Reads the array's header. Raises `UserError` for an array that is missing, damaged or not of numbers."""
        self.where = f"{path}, array {key}"
        try:
            self._stream, actual_size = _open_member(path, key)
            version = np.lib.format.read_magic(self._stream)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            self.shape, fortran_order, self.dtype = header(self._stream)
            self._start = self._stream.tell()
        except UserError:
            raise
        except Exception as error:  # damaged archives raise a dozen kinds of exceptions
            reason = " ".join(str(error).split())  # NumPy's messages may have several lines
            raise UserError(f"{self.where}: not a readable NumPy array ({reason}); download it again") from error
        if fortran_order or self.dtype.kind not in "buif":
            raise UserError(
                f"{self.where}: expected numbers in C order, got dtype {self.dtype}; download the archive again"
            )
        size = self._start + self.dtype.itemsize * math.prod(self.shape)
        if actual_size != size:  # checked before reading: memory for a wrong shape must not be allocated
            raise UserError(
                f"{self.where}: {self.dtype} of shape {self.shape} are {size} bytes, but it has {actual_size};"
                " download the archive again"
            )

    def __len__(self) -> int:
        return self.shape[0] if self.shape else 0

    def __getitem__(self, index: int) -> np.ndarray:
        size = self.dtype.itemsize * math.prod(self.shape[1:])
        try:
            self._stream.seek(self._start + index * size)
            return np.frombuffer(self._stream.read(size), self.dtype).reshape(self.shape[1:])
        except Exception as error:  # damaged archives raise many kinds of exceptions, as in __init__
            raise UserError(f"{self.where}, item {index}: damaged ({error}); download the archive again") from error


def _open_member(path: Path, key: str) -> tuple[IO[bytes], int]:
    """Opens the array's file in the archive; returns it with its size in bytes."""
    if not path.is_file():
        raise UserError(f"expected --source to be an .npz archive, got {path}: no such file")
    with zipfile.ZipFile(path) as archive:  # the open member keeps the file open
        keys = [name.removesuffix(".npy") for name in archive.namelist()]
        if key not in keys:
            raise UserError(f"{path}: expected an array {key}, got {', '.join(keys)}; give the archive as downloaded")
        return archive.open(f"{key}.npy"), archive.getinfo(f"{key}.npy").file_size


def medmnist(source: Path) -> Collection:
    """Reads the MedMNIST archive that the file name names, such as `retinamnist_64.npz` or `chestmnist.npz`."""
    return _collect(source, MEDMNIST, "labels")


def medsegbench(source: Path) -> Collection:
    """Reads the MedSegBench archive that the file name names, such as `covid19radio_256.npz`, `isic2018_128.npz`."""
    return _collect(source, MEDSEGBENCH, "label")


def _collect(source: Path, archives: dict[str, Archive], labels_key: str) -> Collection:
    name = source.name.lower().removesuffix(".npz").partition("_")[0]
    if name not in archives:
        patterns = ", ".join(f"{archive_name}*.npz" for archive_name in archives)
        raise UserError(
            f"expected --source to be one of {patterns}, got {source.name}: the file name tells the data set; rename it"
        )
    archive = archives[name]
    records: list[Record] = []
    for part in PARTS:
        images, labels = NpzArray(source, f"{part}_images"), NpzArray(source, f"{part}_{labels_key}")
        _check_shapes(images, labels, archive)
        size = images.shape[1]
        records += _records(images, labels, archive, f"{name}_{size}_{part}", part)
    counts = tuple(sum(record.part == part for record in records) for part in PARTS)
    difference = difference_from_published(source, name, size, counts)
    label = f"{archive.title} {size}{ALTERED if difference else ''}"
    notes = [f"stand-in: these are {archive.title} images of {size} pixels, and results say so"]
    if difference:
        notes.append(
            f"warning: {source.name} is not the published archive ({difference}): results say [{label}]; fetch it again"
            " from the address in docs/data.md, or keep it if you have altered it yourself"
        )
    return Collection(
        folder=archive.folder,
        records=records,
        rules={"published": Rule(_join_validation, "the archive's own split, its validation part joined to train")},
        meanings=archive.meanings,
        notes=notes,
        label=label,
    )


def _join_validation(spec: DatasetSpec, records: list[Record]) -> Division:
    return [r for r in records if r.part != "test"], [r for r in records if r.part == "test"]


def _check_shapes(images: NpzArray, labels: NpzArray, archive: Archive) -> None:
    shape = images.shape
    square = len(shape) in (3, 4) and shape[1] == shape[2] and shape[3:] in ((), (1,), (3,))
    if images.dtype != np.uint8 or not square or not len(images):
        raise UserError(
            f"{images.where}: expected uint8 images of shape (N, S, S), (N, S, S, 1) or (N, S, S, 3),"
            f" got {images.dtype} {shape}; give the archive as downloaded"
        )
    expected = [(shape[0], archive.width)] if archive.entries else [shape[:3], (*shape[:3], 1)]
    if labels.shape not in expected or (archive.entries and labels.dtype.kind == "f"):
        raise UserError(
            f"{labels.where}: expected {'whole numbers' if archive.entries else 'masks'} of shape {expected[0]},"
            f" got {labels.dtype} {labels.shape}; give the archive as downloaded"
        )


def _records(images: NpzArray, labels: NpzArray, archive: Archive, prefix: str, part: str) -> list[Record]:
    """Returns a record for each image, named after the archive, the part and the index."""
    records = []
    for index in range(len(images)):
        name = f"{prefix}_{index:05d}.png"
        pixels = Pixels(functools.partial(_image, images, index))
        if archive.entries is None:
            mask = Pixels(functools.partial(_mask, labels, index))
            records.append(Record(name, pixels, dict.fromkeys(archive.meanings, name), mask, part=part))
        else:
            label = [int(value) for value in labels[index]]
            if not all(0 <= value < archive.classes for value in label):
                raise UserError(
                    f"{labels.where}, item {index}: expected labels of 0 to {archive.classes - 1}, got {label};"
                    " give the archive as downloaded"
                )
            records.append(Record(name, pixels, archive.entries(label), part=part))
    return records


def _image(images: NpzArray, index: int) -> np.ndarray:
    image = images[index]
    return image[..., 0] if image.shape[2:] == (1,) else image


def _mask(masks: NpzArray, index: int) -> np.ndarray:
    """Returns a mask of 0 and 255, uint8 (S, S); MedSegBench has 0 and 1."""
    mask = masks[index].reshape(masks.shape[1:3])
    return np.where(mask != 0, 255, 0).astype(np.uint8)
