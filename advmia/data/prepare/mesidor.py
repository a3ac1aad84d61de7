"""Reads Messidor: fundus photographs (TIFF) and twelve spreadsheets with grades of diabetic retinopathy."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from advmia.data.prepare.contents import Original
from advmia.data.prepare.records import Collection, Record, Rule, hash_split
from advmia.data.prepare.sources import (
    check_same,
    columns,
    file_key,
    kinds_of,
    other_unicode,
    packed_files,
    plain_name,
    require,
    skipped,
    walk,
)
from advmia.data.prepare.spreadsheets import find_tables
from advmia.errors import UserError

TEST_FRACTION = 240 / 1200  # in the published lists

# Errata of ADCIS, the distributor: image -> (first grade, corrected grade). Copies with either grade are in use.
ERRATA = {
    "20051020_63045_0100_PP": ("3", "0"),
    "20051020_64007_0100_PP": ("1", "3"),
    "20051020_63936_0100_PP": ("3", "1"),
    "20060523_48477_0100_PP": ("2", "3"),
}

# Photographs that are in Base33 twice, under two names, as the distributor reports.
DUPLICATES = (
    ("20051202_55582_0400_PP", "20051202_54744_0400_PP"),
    ("20051202_41076_0400_PP", "20051202_40508_0400_PP"),
    ("20051202_48287_0400_PP", "20051202_41238_0400_PP"),
    ("20051202_48586_0400_PP", "20051202_41260_0400_PP"),
    ("20051202_55457_0400_PP", "20051202_54530_0400_PP"),
    ("20051202_55626_0400_PP", "20051205_33025_0400_PP"),
    ("20051202_54783_0400_PP", "20051202_55607_0400_PP"),
    ("20051202_48575_0400_PP", "20051202_41034_0400_PP"),
    ("20051205_32966_0400_PP", "20051205_35099_0400_PP"),
    ("20051202_55484_0400_PP", "20051202_54555_0400_PP"),
    ("20051205_32981_0400_PP", "20051205_35110_0400_PP"),
    ("20051202_55562_0400_PP", "20051202_54611_0400_PP"),
    ("20051202_54547_0400_PP", "20051202_55498_0400_PP"),
)
_PAIR_OF = {image: f"{pair[0]} = {pair[1]}" for pair in DUPLICATES for image in pair}

BASES = tuple(str(10 * site + number) for site in (1, 2, 3) for number in (1, 2, 3, 4))  # the twelve folders
CLASSES = {"mesidorMulti": 4, "mesidorBin": 2}
_IMAGE = re.compile(r"(.+)\.(tiff?|png|jpe?g)", re.IGNORECASE)
_OFFICIAL_STEM = re.compile(r"\d{8}_\d{5}_\d{4}_pp")
_SHEET = re.compile(r"annotation.*base\D*(\d\d).*\.(xlsx?|xlsm|csv|tsv|txt|html?)", re.IGNORECASE)
_COLUMNS = ("Image name", "Retinopathy grade")

RULES = {
    "published": Rule(
        lambda spec, records: hash_split(records, TEST_FRACTION),
        "derived: every fifth image by the hash of its name is test, the same in both pairs of lists; the published"
        " lists (960 / 240, one split for the grades and another for the binary lists) cannot be derived: --meta takes"
        " them",
    ),
    "patient": Rule(
        lambda spec, records: hash_split(records, TEST_FRACTION, by_group=True),
        "derived: as by image (a fifth is test), but both images of a known duplicate pair on one side; Messidor names"
        " no patients, so more cannot be kept apart",
    ),
}


def collect(source: Path) -> Collection:
    """Reads the images below `source`, in twelve folders or one, and their grades from the annotation sheets."""
    files = walk(source)
    images, notes = _images(files)
    sheets = {path: match[1] for path in files if (match := _SHEET.fullmatch(path.name))}
    others = [path for path in files if not _IMAGE.fullmatch(path.name)]
    require(images, "the TIFF images of Base11 to Base34", source, others)
    require(sheets, "the spreadsheets Annotation_Base11.xls to Annotation_Base34.xls", source, others)
    grades, remarks = _grades(list(sheets))
    records = [_record(stem, images[stem], grade) for stem, grade in sorted(grades.items()) if stem in images]
    ungraded = [path.name for stem, path in images.items() if stem not in grades]
    absent = [stem for stem in grades if stem not in images]
    require(records, "images that the annotation sheets name", source, others)
    notes += remarks
    notes += skipped(ungraded, "images without a row in an annotation sheet")
    notes += skipped(absent, "annotated images that are not in the download")
    return Collection(
        folder="mesidor",
        records=records,
        rules=RULES,
        meanings={"mesidorMulti": "grade of retinopathy, 0 = none", "mesidorBin": "1 = grade 1 or worse, 0 = none"},
        notes=notes + _errata_note(records),
        groups="duplicate pairs",
        missing=tuple(f"Annotation_Base{base}.xls" for base in BASES if base not in sheets.values()),
        unread=kinds_of(path for path in others if path not in sheets),
        packed=tuple(path.name for path in packed_files(files)) if absent else (),
        classes=CLASSES,
        test_fraction=TEST_FRACTION,
    )


def _images(files: list[Path]) -> tuple[dict[str, Path], list[str]]:
    """Returns the images by the `file_key` of their names without extension, TIFFs before conversions, and remarks.

    Raises `UserError` for two different files of one name.
    """
    images: dict[str, Path] = {}
    conversions = []
    for path in files:
        match = _IMAGE.fullmatch(path.name)
        if match is None:
            continue
        stem = file_key(match[1])
        first = images.setdefault(stem, path)
        if _format(first) == _format(path):
            check_same(first, path)
            continue
        original, conversion = (first, path) if _is_tiff(first) else (path, first)
        images[stem] = original
        conversions.append(conversion.name)
    notes = skipped(conversions, "images in a second format")
    notes += other_unicode(path.name for path in images.values())
    converted = [path.name for path in images.values() if not _is_tiff(path)]
    if converted:
        notes.append(
            f"{len(converted)} images are no TIFFs but conversions, whose pixels may differ (e.g. {converted[0]})"
        )
    return images, notes


def _format(path: Path) -> str:
    """Returns ".tif", ".png" or ".jpg"."""
    return path.suffix.lower().replace("tiff", "tif").replace("jpeg", "jpg")


def _is_tiff(path: Path) -> bool:
    return _format(path) == ".tif"


def _grades(sheets: list[Path]) -> tuple[dict[str, str], list[str]]:
    """Reads the grades from the sheets, by the image's `file_key` without extension, and remarks for the report.

    Raises `UserError` for contradicting rows.
    """
    grades: dict[str, str] = {}
    notes = []
    for path in sheets:
        tables, remarks = find_tables(path, _COLUMNS)
        notes += remarks
        for where, (image, text) in (row for place, rows in tables for row in columns(place, rows, _COLUMNS)):
            name = plain_name(image, where)
            match = _IMAGE.fullmatch(name)
            stem, grade = file_key(match[1] if match else name), _parse_grade(text, where)
            if grades.setdefault(stem, grade) != grade:
                raise UserError(
                    f"{where}: {image} has grade {grade} here and {grades[stem]} in another row; keep one of them"
                )
    return grades, notes


def _parse_grade(text: str, where: str) -> str:
    """Returns a grade as a digit; spreadsheets may hold it as a float, "2.0"."""
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        value = -1.0
    if value not in (0, 1, 2, 3):
        raise UserError(f"{where}: expected a retinopathy grade of 0 to 3, got {text!r}; correct the row")
    return str(int(value))


def _record(stem: str, path: Path, grade: str) -> Record:
    """Returns an image's record. Its name is the official one, whatever the download's letter case.

    A name that is not official is kept; its `file_key` stands for the official one, so that the split does not depend
    on its letter case.
    """
    kept = unicodedata.normalize("NFC", path.stem)
    if _OFFICIAL_STEM.fullmatch(stem):
        kept = stem = stem.upper()
    corrected = {}
    if stem in ERRATA and grade in ERRATA[stem]:
        old, new = ERRATA[stem]
        corrected = _entries(new if grade == old else old)
    official = f"{stem}.tif"
    name = f"{kept}.tif" if _is_tiff(path) else f"{kept}{path.suffix.lower()}"
    return Record(
        name,
        Original(path),
        _entries(grade),
        group=_PAIR_OF.get(stem, ""),
        corrected=corrected,
        converted_from="" if name == official else official,
    )


def _entries(grade: str) -> dict[str, str]:
    return {"mesidorMulti": grade, "mesidorBin": str(int(grade != "0"))}


def _errata_note(records: list[Record]) -> list[str]:
    graded_twice = [record for record in records if record.corrected]
    if not graded_twice:
        return []
    new = sum(record.entries["mesidorMulti"] == ERRATA[Path(record.official_name).stem][1] for record in graded_twice)
    return [
        f"errata: of {len(graded_twice)} images whose grade was corrected after the first distribution, the download"
        f" has the corrected grade for {new} and the first for {len(graded_twice) - new}"
    ]
