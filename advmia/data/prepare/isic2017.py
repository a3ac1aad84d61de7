"""Reads ISIC 2017: dermoscopy images (JPEG) with a diagnosis and a mask of the lesion, in three parts."""

from __future__ import annotations

import re
from pathlib import Path

from advmia.data.prepare.contents import Original
from advmia.data.prepare.records import Collection, Division, Record, Rule
from advmia.data.prepare.sources import (
    Row,
    check_same,
    columns,
    file_key,
    index,
    kinds_of,
    packed_files,
    plain_name,
    read_rows,
    require,
    skipped,
    walk,
)
from advmia.data.specs import DatasetSpec
from advmia.errors import UserError

# In this order, because the published test list has the test part first, then the validation part.
PARTS = {"Training": "train", "Test": "test", "Validation": "validation"}
TEST_FRACTION = 750 / 2750  # in the published lists
_IGNORED = re.compile(r"_(superpixels\.png|metadata\.csv)$", re.IGNORECASE)
DIAGNOSES = ("nevus or other", "melanoma", "seborrheic keratosis")


def _published(spec: DatasetSpec, records: list[Record]) -> Division:
    return [r for r in records if r.part == "train"], [r for r in records if r.part != "train"]


def _official(spec: DatasetSpec, records: list[Record]) -> Division:
    return [r for r in records if r.part == "train"], [r for r in records if r.part == "test"]


RULES = {
    "published": Rule(
        _published,
        "derived: train is the training part, test is the test part followed by the validation part, as in the"
        " published lists",
    ),
    "official": Rule(
        _official,
        "derived: train is the training part, test is the test part alone; the validation part is left out (the"
        " published lists append it to test)",
        rows=dict.fromkeys(("melMulti", "melBin", "mel"), (2000, 600)),
        unneeded=("the Validation part", "the masks of the Validation part"),
    ),
}


def collect(source: Path) -> Collection:
    """Reads the images below `source` that have a diagnosis; superpixels and metadata are ignored."""
    files = walk(source)
    tables = index(files, rf"ISIC-2017_({'|'.join(PARTS)})(_v2)?_Part3_GroundTruth\.csv")
    images = index(files, r"ISIC_\d{7}\.jpe?g")
    masks = index(files, r"ISIC_\d{7}_segmentation\.png")
    require(tables, "ISIC-2017_Training_Part3_GroundTruth.csv and its like", source, files)
    require(images, "images ISIC_*.jpg", source, files)
    records, absent, missing, notes, used = [], [], [], [], set()
    for title, part in PARTS.items():
        paths = [path for name, path in tables.items() if name.startswith(f"isic-2017_{title.lower()}")]
        diagnoses = []
        for path in paths:
            rows, remarks = read_rows(path)
            diagnoses += _diagnoses(path, rows)
            notes += remarks
        if not diagnoses:
            missing.append(f"the {title} part")
        elif not any(f"{file_key(image)}_segmentation.png" in masks for image, _ in diagnoses):
            missing.append(f"the masks of the {title} part")
        for image, diagnosis in diagnoses:
            keys = [key for key in (f"{file_key(image)}.jpg", f"{file_key(image)}.jpeg") if key in images]
            if not keys:
                absent.append(image)
                continue
            check_same(images[keys[0]], images[keys[-1]])
            used.update(keys)
            mask = masks.get(f"{file_key(image)}_segmentation.png")
            records.append(_record(image, images[keys[0]], mask, diagnosis, part))
    require(records, "images that the label files name", source, files)
    read = {*tables, *images, *masks}
    notes += skipped(absent, "labelled images that are not in the download")
    notes += skipped(sorted(set(images) - used), "images without a row in a Part3_GroundTruth.csv")
    without_mask = [record.name for record in records if record.mask is None]
    notes += skipped(without_mask, "images without a mask, in the Seg lists only")
    return Collection(
        folder="mel2017",
        records=records,
        rules=RULES,
        meanings={
            "melMulti": ", ".join(f"{label} = {name}" for label, name in enumerate(DIAGNOSES)),
            "melBin": "1 = melanoma or seborrheic keratosis, 0 = nevus or other",
            "mel": "lesion masks",
        },
        notes=notes,
        missing=tuple(missing),
        unread=kinds_of(path for path in files if file_key(path.name) not in read and not _IGNORED.search(path.name)),
        packed=tuple(path.name for path in packed_files(files)) if absent or without_mask else (),
        classes={"melMulti": len(DIAGNOSES)},
        test_fraction=TEST_FRACTION,
    )


def _diagnoses(path: Path, rows: list[Row]) -> list[tuple[str, str]]:
    """Reads (image id, class) from each row of a diagnosis table."""
    diagnoses = []
    for where, (image, melanoma, keratosis) in columns(path, rows, ("image_id", "melanoma", "seborrheic_keratosis")):
        flags = (_flag(melanoma, where), _flag(keratosis, where))
        if flags == (1, 1):
            raise UserError(
                f"{where}: {image} is both melanoma and seborrheic keratosis, expected at most one; correct the row"
            )
        stem = re.sub(r"\.jpe?g$", "", plain_name(image, where), flags=re.IGNORECASE)
        diagnoses.append((stem.upper(), str(flags[0] + 2 * flags[1])))
    return diagnoses


def _flag(text: str, where: str) -> int:
    if not re.fullmatch(r"[01]([.,]0*)?", text):  # spreadsheets may write 1 or 1,0
        raise UserError(f"{where}: expected a label of 0.0 or 1.0, got {text!r}; correct the row")
    return int(text[0])


def _record(image: str, path: Path, mask: Path | None, diagnosis: str, part: str) -> Record:
    """Returns an image's record. Masks are named as in the published lists, whatever the download's letter case."""
    kind = DIAGNOSES[int(diagnosis)]
    entries = {"melMulti": diagnosis, "melBin": str(int(diagnosis != "0"))}
    if mask is not None:
        entries["mel"] = f"{image}_segmentation.png"
    return Record(f"{image}.jpg", Original(path), entries, Original(mask) if mask else None, kind, part)
