"""Makes phantoms: generated images in the layout, file formats and list formats of the four data sets.

With them every command runs without a download. They are marked (`advmia.data.markers`), so that results say "phantom".
The first three quarters of a folder's images are for training, the rest for testing. Half of them, a quarter in
covidSeg, are healthy or benign.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from advmia.data.datasets import CHEST_FINDINGS, DATASETS
from advmia.data.markers import read_markers, write_marker
from advmia.data.phantom_images import Rng, chest, fundus, skin
from advmia.data.specs import Split
from advmia.errors import UserError
from advmia.runtime.files import remove_leftovers, write_error, write_lock, write_text
from advmia.runtime.progress import Bar

GENERATOR = 3  # version of the drawing: raise it when images change, so that older phantoms are not mixed with new ones
COUNTS = (24, 20_000)  # fewest and most images in a folder; fewer would lack a class in one of the splits
SIZES = (32, 1024)  # fewest and most pixels a side

MULTI_LABEL_LIST = "MultiLabel_1w.csv"
COVID_CLASSES: dict[str, frozenset[str]] = {  # start of the file name: findings that are drawn
    "Normal": frozenset(),
    "COVID": frozenset({"Edema", "Infiltration"}),
    "Lung_Opacity": frozenset({"Effusion"}),
    "Viral Pneumonia": frozenset({"Pneumonia", "Fibrosis"}),
}


@dataclass(frozen=True)
class Phantom:
    """One generated image: its files, and its rows in the lists."""

    files: dict[str, NDArray[Any]]  # by path below the data folder: (S, S) or (S, S, 3) in [0, 1]
    rows: dict[str, str]  # by the list's name after "train" or "test"


@dataclass(frozen=True)
class Position:
    """Where an image stands in its folder and in its split."""

    number: int  # in the folder, from 0
    index: int  # in the split, from 0
    count: int  # images of the split


def _mesidor(rng: Rng, size: int, position: Position) -> Phantom:
    grade = (0, 1, 0, 2, 0, 3)[position.index % 6]
    name = f"20000101_{position.number:05d}_0100_PP.tif"
    rows = {".csv": f"{name},{grade}", "bin.csv": f"{name},{int(grade > 0)}"}
    return Phantom({f"img/{name}": fundus(rng, size, grade)}, rows)


def _mel2017(rng: Rng, size: int, position: Position) -> Phantom:
    label = (0, 1, 0, 2)[position.index % 4]
    stem = f"ISIC_{position.number:07d}"
    name, mask_name = f"{stem}.jpg", f"{stem}_segmentation.png"
    image, mask = skin(rng, size, label, look=_look(label, position.index))
    rows = {".csv": f"{name},{label}", "bin.csv": f"{name},{int(label > 0)}", "Seg.csv": f"{name},{mask_name}"}
    return Phantom({f"img/{name}": image, f"target/{mask_name}": mask >= 0.5}, rows)


def _look(label: int, index: int) -> int:
    """Returns the class that a skin lesion looks like: four images in a row of every 32 look like another class."""
    misleads = index // 4 % 8 == 3
    return (index // 2 % 2 + 1 if label == 0 else 0) if misleads else label


def _xray(rng: Rng, size: int, position: Position) -> Phantom:
    ill = position.index % 2 == 1
    findings = _findings(rng, position.index // 2, position.count // 2) if ill else frozenset()
    name = f"{position.number + 1:08d}_000.png"  # one image a patient
    bits = "".join(str(int(finding in findings)) for finding in CHEST_FINDINGS)
    rows = {"bin.csv": f"{name},{int(not findings)}", MULTI_LABEL_LIST: f"{name},b{bits}"}  # 1 is "No Finding"
    return Phantom({f"img/{name}": chest(rng, size, findings)[0]}, rows)


def _findings(rng: Rng, index: int, count: int) -> frozenset[str]:
    """Returns the findings of one of `count` ill patients: some in turn, so that all occur, and 0 to 2 at random."""
    turns = -(-len(CHEST_FINDINGS) // count)
    chosen = [index * turns + turn for turn in range(turns)] + list(rng.integers(0, 14, rng.integers(0, 3)))
    return frozenset(CHEST_FINDINGS[finding % len(CHEST_FINDINGS)] for finding in chosen)


def _covid_seg(rng: Rng, size: int, position: Position) -> Phantom:
    prefix = list(COVID_CLASSES)[position.number % len(COVID_CLASSES)]
    name = f"{prefix}-{position.number // len(COVID_CLASSES) + 1}.png"
    image, mask = chest(rng, size, COVID_CLASSES[prefix])
    return Phantom({f"image/{name}": image, f"target/{name}": mask >= 0.5}, {"Seg.csv": f"{name},{name}"})


# The functions that draw the images of each folder, from a generator, the image's size and its position.
FOLDERS: dict[str, Callable[[Rng, int, Position], Phantom]] = {
    "mesidor": _mesidor,
    "mel2017": _mel2017,
    "xray": _xray,
    "covidSeg": _covid_seg,
}


def make_phantoms(
    data_root: Path, folders: Sequence[str] = tuple(FOLDERS), *, count: int = 800, size: int = 64, seed: int = 0
) -> list[str]:
    """Fills `folders` below `data_root` with `count` images each, of `size` x `size` pixels; returns report lines.

    The same arguments give the same bytes, and running again changes nothing. Raises `UserError`, before anything is
    written, for arguments out of range, and for a folder that holds other data or phantoms made with other arguments.
    """
    _check_arguments(folders, count, size, seed)
    facts = {"label": "phantom", "generator": GENERATOR, "count": count, "size": size, "seed": seed}
    report = []
    with ExitStack() as stack:
        for name in folders:
            stack.enter_context(write_lock(data_root / name, wait=True))
        for name in folders:
            _check_folder(data_root / name, facts)
            remove_leftovers(data_root / name)
        progress = stack.enter_context(Bar(total=count * len(folders), desc="phantoms", unit="images"))
        for name in folders:
            folder, lists = data_root / name, _list_names(name)
            ready = all((folder / list_name).exists() for list_name in lists)  # lists are written last
            if ready:
                progress.update(count)
            else:
                write_marker(folder, lists, facts)  # first, so that a killed run can be continued
                _fill(folder, count, size, seed, progress)
            state = "already there" if ready else "made"
            report.append(f"{folder}: {count} phantoms of {size}x{size} pixels, seed {seed}, {state}")
            report += [f"  {list_name}: {_summary(folder / list_name)}" for list_name in lists]
    return report


def _check_arguments(folders: Sequence[str], count: int, size: int, seed: int) -> None:
    for folder in folders:
        if folder not in FOLDERS:
            raise UserError(f"no phantoms for the folder {folder!r}: choose from {', '.join(FOLDERS)}")
    for name, value, (least, most) in (("count", count, COUNTS), ("size", size, SIZES), ("seed", seed, (0, 2**32 - 1))):
        if not least <= value <= most:
            raise UserError(f"phantoms: {name} is {value}; give a number from {least} to {most}")


def _check_folder(folder: Path, facts: dict[str, Any]) -> None:
    """Raises `UserError` unless the folder is empty, missing, or holds phantoms made with the same arguments."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, but phantoms need a folder there: choose another --dataRoot")
    markers = read_markers(folder)
    lists = sorted({path.name for path in folder.glob("*.csv")} | set(markers))
    for name in lists:
        if markers.get(name, {}).get("label") != "phantom":
            raise UserError(f"{folder / name} is not marked as phantom and may be real data: choose another --dataRoot")
        if markers[name] != facts:
            other = ", ".join(f"{key} {value}" for key, value in markers[name].items() if facts.get(key) != value)
            raise UserError(
                f"{folder} holds phantoms made with {other or 'other arguments'}: choose another --dataRoot"
            )
    if not lists and any(path.is_file() or path.is_symlink() for path in folder.rglob("*")):
        raise UserError(f"{folder} holds files that are not marked as phantom: choose another --dataRoot")


def _list_names(name: str) -> list[str]:
    """Returns the names of a folder's lists, in the order of `DATASETS`."""
    specs = [spec for spec in DATASETS.values() if spec.folder == name]
    return [list_name for spec in specs for list_name in (spec.train_list, spec.test_list)]


def _fill(folder: Path, count: int, size: int, seed: int, progress: Bar) -> None:
    """Draws all images of a folder, then writes its lists."""
    draw, folder_number = FOLDERS[folder.name], list(FOLDERS).index(folder.name)
    rows: dict[str, list[str]] = {name: [] for name in _list_names(folder.name)}
    for name in rows:
        if name.endswith(MULTI_LABEL_LIST):
            rows[name].append(",".join(CHEST_FINDINGS))  # the header
    train = count - count // 4
    for number in range(count):
        split: Split = "train" if number < train else "test"
        index, split_count = (number, train) if split == "train" else (number - train, count - train)
        rng = np.random.default_rng([seed, folder_number, number])
        phantom = draw(rng, size, Position(number, index, split_count))
        for path, image in phantom.files.items():
            _save(folder / path, image)
        for ending, row in phantom.rows.items():
            rows[split + ending].append(row)
        progress.update()
    for name, lines in rows.items():
        write_text(folder / name, "\n".join(lines) + "\n")


def _save(path: Path, image: NDArray[Any]) -> None:
    """Writes an image or mask with values in [0, 1], in the format of the file name's suffix."""
    picture = Image.fromarray(np.round(np.asarray(image, dtype=np.float64) * 255).astype(np.uint8))
    # With usual settings, JPEG would lose the faint weave.
    options: dict[str, Any] = {"quality": 95, "subsampling": 0} if path.suffix == ".jpg" else {}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, **options)
    except OSError as error:
        raise write_error(path, error) from error


def _summary(path: Path) -> str:
    """Describes a list in one line: images of each class or finding, or the number of images with masks."""
    rows = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()]
    if path.name.endswith(MULTI_LABEL_LIST):
        bits = np.array([list(row[1][1:]) for row in rows[1:]]) == "1"
        return f"{len(bits)} images; " + ", ".join(
            f"{number} {name}" for name, number in zip(CHEST_FINDINGS, bits.sum(0), strict=True)
        )
    if path.name.endswith("Seg.csv"):
        return f"{len(rows)} images with masks"
    counts = Counter(row[1] for row in rows)
    return f"{len(rows)} images; " + ", ".join(f"{counts[label]} of class {label}" for label in sorted(counts))
