"""Functions that make tiny downloads in the official layouts, and that read the files which `prepare` writes."""

from __future__ import annotations

import csv
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

GRADES = {f"2006041{n}_58736_0200_PP": float(n % 4) for n in range(10)}  # ten Messidor images and their grades
COVID_NAMES = ("COVID-1", "COVID-688", "COVID-690", "Normal-687", "Normal-688", "Viral Pneumonia-2", "Lung_Opacity-10")
CHEST_COLUMNS = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,OriginalImage[Width,Height]"


def save_image(path: Path, seed: int = 0, mode: str = "RGB", size: tuple[int, int] = (6, 4)) -> None:
    """Writes an image of noise; `size` is (width, height). Mode "RGB" has three channels, "L" one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path)


def write_xls(path: Path, rows: list[list[str | float]]) -> None:
    """Writes a BIFF 2 workbook, the simplest that xlrd reads: https://www.openoffice.org/sc/excelfileformat.pdf."""
    data = struct.pack("<HHHH", 0x0009, 4, 2, 0x0010)  # BOF, a sheet
    for y, row in enumerate(rows):
        for x, cell in enumerate(row):
            position = struct.pack("<HH3x", y, x)
            if isinstance(cell, str):
                body = position + struct.pack("<B", len(cell)) + cell.encode("latin-1")
                data += struct.pack("<HH", 0x0004, len(body)) + body  # LABEL
            else:
                body = position + struct.pack("<d", cell)
                data += struct.pack("<HH", 0x0003, len(body)) + body  # NUMBER
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data + struct.pack("<HH", 0x000A, 0))  # EOF


def make_isic(source: Path) -> Path:
    """Makes a download of two training, two test and one validation image, with all oddities of the real one."""
    rows = {"Training": [(1, "0.0", "0.0"), (2, "1.0", "0.0")], "Test_v2": [(4, "0.0", "1.0"), (3, "0.0", "0.0")]}
    rows["Validation"] = [(5, "1.0", "0.0")]
    for part, labels in rows.items():
        text = "image_id,melanoma,seborrheic_keratosis\n"
        for number, melanoma, keratosis in labels:
            name = f"ISIC_{number:07d}"
            text += f"{name},{melanoma},{keratosis}\n"
            save_image(source / f"ISIC-2017_{part}_Data" / f"{name}.jpg", number)
            save_image(source / f"ISIC-2017_{part}_Data" / f"{name}_superpixels.png", number)
            suffix = "_segmentation.png" if number != 4 else "_Segmentation.PNG"
            if number != 3:  # an image without a mask
                save_image(source / f"ISIC-2017_{part}_Part1_GroundTruth" / f"{name}{suffix}", number, "L")
        (source / f"ISIC-2017_{part}_Part3_GroundTruth.csv").write_text(text)
    (source / "ISIC-2017_Training_Data" / "ISIC-2017_Training_Data_metadata.csv").write_text("image_id,age\n")
    save_image(source / "ISIC-2017_Training_Data" / "ISIC_0000099.jpg", 99)  # no label
    return source


def make_chest(source: Path, rows: list[tuple[str, str, int]]) -> Path:
    """Makes a download from rows (image, labels, patient), with the official columns.

    As in the official file, the brackets and commas of the header are not quoted.
    """
    text = CHEST_COLUMNS + "\n"
    for seed, (name, labels, patient) in enumerate(rows):
        save_image(source / f"images_{seed % 2 + 1:03d}" / "images" / name, seed, "L")
        text += f"{name},{labels},0,{patient},57,2682,2749\n"
    (source / "Data_Entry_2017.csv").write_text(text)
    return source


def make_mesidor(source: Path, grades: Mapping[str, str | float]) -> Path:
    """Makes a download of two folders with their sheets, the second spelt otherwise, and ten empty sheets."""
    bases: list[list[list[str | float]]] = [
        [["Image name", "Ophthalmologic department", "Retinopathy grade", "Risk of macular edema "]],
        [["Image name ", "Ophthalmologic department", " Retinopathy grade ", "Risk of macular edema"]],
    ]
    for number, (stem, grade) in enumerate(grades.items()):
        base = number % 2
        bases[base].append([f"{stem}.tif", "CHU de Lille", grade, 0.0])
        save_image(source / f"Base1{base + 1}" / "deeper" / f"{stem}.tif", number)
    write_xls(source / "Annotation_Base11.xls", bases[0])
    write_xls(source / "notes" / "Annotation Base12.xls", bases[1])
    for base in (13, 14, 21, 22, 23, 24, 31, 32, 33, 34):
        write_xls(source / f"Annotation_Base{base}.xls", bases[0][:1])
    return source


def make_covid(source: Path, names: list[str]) -> Path:
    """Makes a download whose root folder is nested twice; masks are smaller than images and have three channels."""
    for seed, name in enumerate(names):
        folder = source / "COVID-19_Radiography_Dataset" / "COVID-19_Radiography_Dataset" / name.rpartition("-")[0]
        save_image(folder / "images" / f"{name}.png", seed, "L", (6, 6))
        (folder / "masks").mkdir(exist_ok=True)
        mask = np.array([[0, 127, 128], [255, 0, 0], [0, 200, 100]], np.uint8)
        Image.fromarray(np.stack([mask] * 3, axis=-1)).save(folder / "masks" / f"{name}.png")
    return source


def make_npz(path: Path, labels: dict[str, list[list[int]]], size: int = 28, colour: bool = True) -> dict[str, Any]:
    """Writes a MedMNIST archive with random images and the given rows of labels, by part; returns its arrays."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for part, rows in labels.items():
        shape = (len(rows), size, size, 3) if colour else (len(rows), size, size)
        arrays[f"{part}_images"] = rng.integers(0, 256, shape, dtype=np.uint8)
        arrays[f"{part}_labels"] = np.array(rows, dtype=np.uint8)
    np.savez_compressed(path, **arrays)
    return arrays


def read_list(path: Path) -> list[tuple[str, str]]:
    """Returns those rows of a list that have two columns."""
    with path.open(newline="") as file:
        return [(row[0], row[1]) for row in csv.reader(file) if len(row) == 2]


def snapshot(root: Path) -> dict[str, tuple[int, bytes]]:
    """Returns the modification time and the bytes of every file below `root`."""
    return {str(p.relative_to(root)): (p.stat().st_mtime_ns, p.read_bytes()) for p in root.rglob("*") if p.is_file()}


def line_with(lines: list[str], *parts: str) -> str:
    """Returns the report line that contains all parts. Fails unless there is exactly one."""
    matching = [line for line in lines if all(part in line for part in parts)]
    assert len(matching) == 1, (parts, lines)
    return matching[0]


def write_lists(folder: Path, **lists: str) -> None:
    """Writes lists into `folder`, as the survey publishes them: the text of each by its file name without .csv."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in lists.items():
        (folder / f"{name}.csv").write_text(text)
