"""Reads Messidor: fundus photographs (TIFF) and twelve spreadsheets with grades of diabetic retinopathy."""

from __future__ import annotations

import io
from pathlib import Path

from advmia.data.prepare.contents import Original
from advmia.data.prepare.records import (
    Collection,
    Record,
    Rule,
    columns,
    hash_split,
    index,
    plain_name,
    require,
    skipped,
    walk,
)
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
    images = index(files, r".*\.tiff?")
    sheets = index(files, r"annotation.*base.*\.xls")
    require(images, "the TIFF images of Base11 to Base34", source, files)
    require(sheets, "the spreadsheets Annotation_Base11.xls to Annotation_Base34.xls", source, files)
    grades = _grades(list(sheets.values()))
    records = [_record(images[name], grade) for name, grade in sorted(grades.items()) if name in images]
    ungraded = [path.name for name, path in images.items() if name not in grades]
    absent = [name for name in grades if name not in images]
    require(records, "images that the annotation sheets name", source, files)
    notes = skipped(ungraded, "images without a row in an annotation sheet")
    notes += skipped(absent, "annotated images that are not in the download")
    return Collection(
        folder="mesidor",
        records=records,
        rules=RULES,
        meanings={"mesidorMulti": "grade of retinopathy, 0 = none", "mesidorBin": "1 = grade 1 or worse, 0 = none"},
        notes=notes + _errata_note(records),
        groups="duplicate pairs",
    )


def _grades(sheets: list[Path]) -> dict[str, str]:
    """Reads the grades from the sheets, by lower-case image name. Raises `UserError` for contradicting rows."""
    grades: dict[str, str] = {}
    for path in sheets:
        for where, (image, grade) in columns(path, _read_xls(path), ("Image name", "Retinopathy grade")):
            name = plain_name(image, where).lower()
            grade = _parse_grade(grade, where)
            if grades.setdefault(name, grade) != grade:
                raise UserError(
                    f"{where}: {image} has grade {grade} here and {grades[name]} in another row; keep one of them"
                )
    return grades


def _parse_grade(text: str, where: str) -> str:
    """Returns a grade as a digit; spreadsheets may hold it as a float, "2.0"."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if value not in (0, 1, 2, 3):
        raise UserError(f"{where}: expected a retinopathy grade of 0 to 3, got {text!r}; correct the row")
    return str(int(value))


def _read_xls(path: Path) -> list[list[str]]:
    """Reads the cells of the first sheet as text. Raises `UserError` for a damaged file or a missing package."""
    try:
        import xlrd  # here, so that only this download needs it; pandas deprecates its own use of xlrd for .xls
    except ImportError as error:
        raise UserError(f"cannot read {path}: the package xlrd is missing ({error}); pip install xlrd") from error
    try:
        with xlrd.open_workbook(path, logfile=io.StringIO()) as book:  # its remarks about odd files are dropped
            sheet = book.sheet_by_index(0)
            return [[str(value) for value in sheet.row_values(row)] for row in range(sheet.nrows)]
    except Exception as error:  # xlrd raises a dozen kinds of exceptions for damaged files
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not a readable .xls spreadsheet ({reason}): download it again") from error


def _record(path: Path, grade: str) -> Record:
    corrected = {}
    if path.stem in ERRATA and grade in ERRATA[path.stem]:
        old, new = ERRATA[path.stem]
        corrected = _entries(new if grade == old else old)
    return Record(path.name, Original(path), _entries(grade), group=_PAIR_OF.get(path.stem, ""), corrected=corrected)


def _entries(grade: str) -> dict[str, str]:
    return {"mesidorMulti": grade, "mesidorBin": str(int(grade != "0"))}


def _errata_note(records: list[Record]) -> list[str]:
    graded_twice = [record for record in records if record.corrected]
    if not graded_twice:
        return []
    new = sum(record.entries["mesidorMulti"] == ERRATA[Path(record.name).stem][1] for record in graded_twice)
    return [
        f"errata: of {len(graded_twice)} images whose grade was corrected after the first distribution, the download"
        f" has the corrected grade for {new} and the first for {len(graded_twice) - new}"
    ]
