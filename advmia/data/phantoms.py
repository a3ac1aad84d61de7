"""Generated stand-ins ("phantoms") in the layout, file formats and list formats of the four data sets.

They let every command run without a download, and are marked as phantoms (`advmia.data.markers`), so that results
say so. The first three quarters of a folder's images train, the rest test; half of the images are healthy (benign).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from advmia.data.markers import read_markers, write_marker
from advmia.data.phantom_images import Rng, chest, fundus, skin
from advmia.data.specs import CHEST_FINDINGS, DATASETS, Split
from advmia.errors import UserError
from advmia.runtime.files import write_error, write_text

GENERATOR = 1  # raise it when the drawing changes: older phantoms are then told apart
COUNTS = (24, 20_000)  # images a folder: 24 is the least that shows every class in both splits
SIZES = (32, 1024)  # pixels

MULTI_LABEL_LIST = "MultiLabel_1w.csv"
COVID_CLASSES: dict[str, frozenset[str]] = {  # file name prefix: what is drawn
    "Normal": frozenset(),
    "COVID": frozenset({"Edema", "Infiltration"}),
    "Lung_Opacity": frozenset({"Effusion"}),
    "Viral Pneumonia": frozenset({"Pneumonia", "Fibrosis"}),
}


@dataclass(frozen=True)
class Phantom:
    """One image with its files and its rows in the lists."""

    files: dict[str, NDArray[Any]]  # path below the data folder: (S, S) or (S, S, 3) in [0, 1]
    rows: dict[str, str]  # end of the list's name, after "train" or "test": row


def _mesidor(rng: Rng, size: int, number: int, index: int, of: int) -> Phantom:
    grade = (0, 1, 0, 2, 0, 3)[index % 6]
    name = f"20000101_{number:05d}_0100_PP.tif"
    rows = {".csv": f"{name},{grade}", "bin.csv": f"{name},{int(grade > 0)}"}
    return Phantom({f"img/{name}": fundus(rng, size, grade)}, rows)


def _mel2017(rng: Rng, size: int, number: int, index: int, of: int) -> Phantom:
    label = (0, 1, 0, 2)[index % 4]
    name, mask_name = f"ISIC_{number:07d}.jpg", f"ISIC_{number:07d}_segmentation.png"
    image, mask = skin(rng, size, label)
    rows = {".csv": f"{name},{label}", "bin.csv": f"{name},{int(label > 0)}", "Seg.csv": f"{name},{mask_name}"}
    return Phantom({f"img/{name}": image, f"target/{mask_name}": mask >= 0.5}, rows)


def _xray(rng: Rng, size: int, number: int, index: int, of: int) -> Phantom:
    findings = _findings(rng, index // 2, of // 2) if index % 2 else frozenset()
    name = f"{number + 1:08d}_000.png"  # one image a patient
    bits = "".join(str(int(finding in findings)) for finding in CHEST_FINDINGS)
    rows = {"bin.csv": f"{name},{int(not findings)}", MULTI_LABEL_LIST: f"{name},b{bits}"}  # 1 is "No Finding"
    return Phantom({f"img/{name}": chest(rng, size, findings)[0]}, rows)


def _findings(rng: Rng, index: int, of: int) -> frozenset[str]:
    """Findings of the `index`th of `of` ill patients: taken in turns, so that all occur, and up to two at random."""
    turns = -(-len(CHEST_FINDINGS) // of)
    chosen = [index * turns + turn for turn in range(turns)] + list(rng.integers(0, 14, rng.integers(0, 3)))
    return frozenset(CHEST_FINDINGS[finding % len(CHEST_FINDINGS)] for finding in chosen)


def _covid_seg(rng: Rng, size: int, number: int, index: int, of: int) -> Phantom:
    prefix = list(COVID_CLASSES)[number % len(COVID_CLASSES)]
    name = f"{prefix}-{number // len(COVID_CLASSES) + 1}.png"
    image, mask = chest(rng, size, COVID_CLASSES[prefix])
    return Phantom({f"image/{name}": image, f"target/{name}": mask >= 0.5}, {"Seg.csv": f"{name},{name}"})


# Drawing takes a generator, the size, the image's number in the folder, and its index among the `of` of its split.
FOLDERS: dict[str, Callable[[Rng, int, int, int, int], Phantom]] = {
    "mesidor": _mesidor,
    "mel2017": _mel2017,
    "xray": _xray,
    "covidSeg": _covid_seg,
}


def make_phantoms(
    data_root: Path, folders: Sequence[str] = tuple(FOLDERS), *, count: int = 800, size: int = 64, seed: int = 0
) -> list[str]:
    """Fills `folders` below `data_root` with `count` images each, of `size` x `size` pixels; returns report lines.

    The same arguments give the same bytes, and running again changes nothing. Whatever is not a phantom, or was made
    with other arguments, is left alone: `UserError`.
    """
    _check_arguments(folders, count, size, seed)
    facts = {"label": "phantom", "generator": GENERATOR, "count": count, "size": size, "seed": seed}
    for name in folders:
        _check_folder(data_root / name, facts)
    report = []
    with tqdm(total=count * len(folders), desc="phantoms", unit="image", disable=None) as progress:
        for name in folders:
            folder, lists = data_root / name, _list_names(name)
            ready = all((folder / list_name).exists() for list_name in lists)  # lists are written last
            if ready:
                progress.update(count)
            else:
                write_marker(folder, lists, facts)  # first, so that a killed run can be taken up
                _fill(folder, count, size, seed, progress)
            state = "already there" if ready else "made"
            report.append(f"{folder}: {count} phantoms of {size}x{size} pixels, seed {seed}, {state}")
            report += [f"  {list_name}: {_summary(folder / list_name)}" for list_name in lists]
    return report


def _check_arguments(folders: Sequence[str], count: int, size: int, seed: int) -> None:
    for name in folders:
        if name not in FOLDERS:
            raise UserError(f"no phantoms for the folder {name!r}: choose from {', '.join(FOLDERS)}")
    for what, value, (least, most) in (("count", count, COUNTS), ("size", size, SIZES), ("seed", seed, (0, 2**32 - 1))):
        if not least <= value <= most:
            raise UserError(f"phantoms: {what} is {value}; give a number from {least} to {most}")


def _check_folder(folder: Path, facts: dict[str, Any]) -> None:
    """Raises `UserError` unless the folder is free or holds these very phantoms."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, phantoms need a folder there: choose another --dataRoot")
    markers = read_markers(folder)
    lists = sorted({path.name for path in folder.glob("*.csv")} | set(markers))
    for name in lists:
        if markers.get(name, {}).get("label") != "phantom":
            raise UserError(f"{folder / name} is not marked as phantom, it may be real data: choose another --dataRoot")
        if markers[name] != facts:
            made = ", ".join(f"{key} {value}" for key, value in markers[name].items() if facts.get(key) != value)
            raise UserError(f"{folder} holds phantoms made with {made or 'other arguments'}: choose another --dataRoot")
    if not lists and any(path.is_file() or path.is_symlink() for path in folder.rglob("*")):
        raise UserError(f"{folder} holds files that are not marked as phantom: choose another --dataRoot")


def _list_names(name: str) -> list[str]:
    """The folder's lists, in the order of the declared data sets."""
    specs = [spec for spec in DATASETS.values() if spec.folder == name]
    return [list_name for spec in specs for list_name in (spec.train_list, spec.test_list)]


def _fill(folder: Path, count: int, size: int, seed: int, progress: tqdm) -> None:
    """Draws all images of a folder, then writes its lists."""
    draw, place = FOLDERS[folder.name], list(FOLDERS).index(folder.name)
    rows: dict[str, list[str]] = {name: [] for name in _list_names(folder.name)}
    for split_rows in (name for name in rows if name.endswith(MULTI_LABEL_LIST)):
        rows[split_rows].append(",".join(CHEST_FINDINGS))  # its header
    train = count - count // 4
    for number in range(count):
        split: Split = "train" if number < train else "test"
        index, of = (number, train) if split == "train" else (number - train, count - train)
        phantom = draw(np.random.default_rng([seed, place, number]), size, number, index, of)
        for path, image in phantom.files.items():
            _save(folder / path, image)
        for ending, row in phantom.rows.items():
            rows[split + ending].append(row)
        progress.update()
    for name, lines in rows.items():
        write_text(folder / name, "\n".join(lines) + "\n")


def _save(path: Path, image: NDArray[Any]) -> None:
    """Writes an image or mask, values in [0, 1], in the format that the file name asks for."""
    picture = Image.fromarray(np.round(np.asarray(image, dtype=np.float64) * 255).astype(np.uint8))
    # JPEG at this quality keeps the weave, which is fainter than what usual settings drop.
    options: dict[str, Any] = {"quality": 95, "subsampling": 0} if path.suffix == ".jpg" else {}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, **options)
    except OSError as error:
        raise write_error(path, error) from error


def _summary(path: Path) -> str:
    """What a list holds: images per class, images per finding, or pairs."""
    rows = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()]
    if path.name.endswith(MULTI_LABEL_LIST):
        bits = np.array([list(row[1][1:]) for row in rows[1:]]) == "1"
        return f"{len(bits)} images; " + ", ".join(
            f"{n} {name}" for name, n in zip(CHEST_FINDINGS, bits.sum(0), strict=True)
        )
    if path.name.endswith("Seg.csv"):
        return f"{len(rows)} images with masks"
    counts = Counter(row[1] for row in rows)
    return f"{len(rows)} images; " + ", ".join(f"{counts[label]} of class {label}" for label in sorted(counts))
