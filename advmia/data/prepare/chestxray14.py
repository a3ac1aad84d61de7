"""Reads NIH ChestX-ray14: radiographs (PNG) with 14 findings; many patients have several images."""

from __future__ import annotations

import re
from pathlib import Path

from advmia.data.datasets import CHEST_FINDINGS
from advmia.data.prepare.contents import Original
from advmia.data.prepare.records import Collection, Division, Record, Rule, hash_split, sample
from advmia.data.prepare.sources import (
    columns,
    file_key,
    index,
    packed_files,
    plain_name,
    read_rows,
    require,
    skipped,
    walk,
)
from advmia.data.specs import DatasetSpec
from advmia.data.tables import read_table
from advmia.errors import UserError

TEST_FRACTION = 22_424 / 112_120  # in the published binary lists
MULTI_LABEL_TRAIN, MULTI_LABEL_TEST = 8_000, 2_000  # rows of the published multi-label lists
NO_FINDING = "No Finding"
OFFICIAL_LISTS = {  # some copies of the download have the training part in two lists
    "train_val_list.txt": "train",
    "train_list.txt": "train",
    "val_list.txt": "train",
    "test_list.txt": "test",
}
BOTH_PARTS = "both"  # the part of an image that a training list and the test list name
OFFICIAL_ROWS = {"xrayBin": (86_524, 25_596)}
_NAME = r"\d{8}_\d{3}\.png"
_NO_PATIENT = ("", "nan", "none", "null", "n/a", "na", "-", "?")  # what programs write into an empty cell


def _sized(spec: DatasetSpec, division: Division) -> Division:
    """Cuts the multi-label lists to the published size, so that a run takes as long as on the published ones."""
    if spec.task != "multi-label":
        return division
    return sample(division[0], MULTI_LABEL_TRAIN), sample(division[1], MULTI_LABEL_TEST)


def _by_image(spec: DatasetSpec, records: list[Record]) -> Division:
    return _sized(spec, hash_split(records, TEST_FRACTION))


def _by_patient(spec: DatasetSpec, records: list[Record]) -> Division:
    return _sized(spec, hash_split(records, TEST_FRACTION, by_group=True))


def _official(spec: DatasetSpec, records: list[Record]) -> Division:
    odd = next((record.name for record in records if record.part == BOTH_PARTS), None)
    if odd:
        raise UserError(f"{odd} is in both a training list and test_list.txt; expected it in one of them")
    train, test = [r for r in records if r.part == "train"], [r for r in records if r.part == "test"]
    for side, lists in ((train, "train_val_list.txt (or train_list.txt and val_list.txt)"), (test, "test_list.txt")):
        if not side:
            raise UserError(
                f"--split official needs train_val_list.txt and test_list.txt below --source, and no image of {lists}"
                " was found: download the lists too, or take another --split"
            )
    return _sized(spec, (train, test))


_MULTI_LABEL_SIZE = (
    f"; the multi-label lists are {MULTI_LABEL_TRAIN} and {MULTI_LABEL_TEST} of these, or all where there are fewer"
)

RULES = {
    "published": Rule(
        _by_image,
        "derived: every fifth image by the hash of its name is test; the published lists are random by image too, so"
        " that patients are on both sides, but cannot be derived exactly: --meta takes them" + _MULTI_LABEL_SIZE,
    ),
    "official": Rule(
        _official,
        "derived: the NIH's train_val_list.txt and test_list.txt, made patient by patient; the published lists are"
        " random by image" + _MULTI_LABEL_SIZE,
        rows=OFFICIAL_ROWS,
    ),
    "patient": Rule(
        _by_patient,
        "derived: patients are ranked by the hash of their ID until a fifth of the images is test; the published lists"
        " are random by image" + _MULTI_LABEL_SIZE,
    ),
}


def collect(source: Path) -> Collection:
    """Reads the images below `source`, in twelve folders or one, and their labels from Data_Entry_2017."""
    files = walk(source)
    images = index(files, _NAME)
    tables = index(files, r"Data_Entry_2017(_v2020)?\.csv")
    require(images, "images 00000001_000.png and on", source, files)
    require(tables, "Data_Entry_2017.csv or Data_Entry_2017_v2020.csv", source, files)
    table = tables[max(tables)]  # the newest
    parts, notes = _parts(files)
    rows, remarks = read_rows(table)
    notes += remarks
    records, absent, labelled, unknown = [], [], set(), 0
    for where, (image, labels, patient) in columns(table, rows, ("Image Index", "Finding Labels", "Patient ID")):
        name = plain_name(image, where)
        key = file_key(name)
        findings = _findings(labels, where)
        labelled.add(key)
        if key not in images:
            absent.append(name)
            continue
        entries = {"xrayBin": str(int(not findings)), "xray_multilabel": _bits(findings)}
        is_unknown = patient.casefold() in _NO_PATIENT
        unknown += is_unknown
        group = _patient_number(key[:8] if is_unknown else patient)
        records.append(Record(key, Original(images[key]), entries, part=parts.get(key, ""), group=group))
    require(records, f"images that {table.name} names", source, files)
    if unknown:
        notes.append(f"patients: {unknown} rows have no Patient ID; the first eight digits of the image's name are it")
    notes += [f"labels are read from {table.name}"] if len(tables) > 1 else []
    notes += skipped(absent, "labelled images that are not in the download")
    notes += skipped(sorted(set(images) - labelled), f"images without a row in {table.name}")
    return Collection(
        folder="xray",
        records=records,
        rules=RULES,
        meanings={"xrayBin": '1 = "No Finding", 0 = any finding', "xray_multilabel": "a bit for each finding"},
        notes=notes,
        groups="patients",
        packed=tuple(path.name for path in packed_files(files)) if absent else (),
        test_fraction=TEST_FRACTION,
    )


def _patient_number(text: str) -> str:
    """Returns a patient's ID as the official table writes it: spreadsheets turn 1 into 1.0, names begin with zeros."""
    match = re.fullmatch(r"0*(\d+)(\.0*)?", text)
    return match[1] if match else text


def _findings(labels: str, where: str) -> set[str]:
    """Returns the findings of a row, none for "No Finding". Raises `UserError` for an unknown finding."""
    findings = {label.strip() for label in labels.split("|")}
    if findings == {NO_FINDING}:
        return set()
    unknown = sorted(findings - set(CHEST_FINDINGS))
    if unknown:
        raise UserError(
            f"{where}: expected {NO_FINDING!r} alone or findings of {', '.join(CHEST_FINDINGS)} joined by |,"
            f" got {labels!r} ({unknown[0]!r} does not belong); correct the row"
        )
    return findings


def _bits(findings: set[str]) -> str:
    return "b" + "".join("1" if finding in findings else "0" for finding in CHEST_FINDINGS)


def _parts(files: list[Path]) -> tuple[dict[str, str], list[str]]:
    """Returns "train", "test" or `BOTH_PARTS` by image name, from the official lists, and remarks for the report.

    The lists are needed for one of the splits only. So what is wrong with them must not stop the others.
    """
    parts: dict[str, str] = {}
    notes = []
    for name, path in index(files, "|".join(map(re.escape, OFFICIAL_LISTS))).items():
        try:
            rows = read_table(path).rows
        except (OSError, UserError) as error:
            notes.append(f"{path.name} is not read ({error})")
            continue
        odd_lines = 0
        found: list[str] = []
        for _, cells in rows:
            text = " ".join(cells).strip()
            names = re.findall(_NAME, text, re.IGNORECASE)
            odd_lines += text.split() != names
            found += map(file_key, names)
        if odd_lines:
            notes.append(f"{path.name}: {odd_lines} lines hold more than images' names, or none; only names are read")
        for image in found:
            if parts.setdefault(image, OFFICIAL_LISTS[name]) != OFFICIAL_LISTS[name]:
                parts[image] = BOTH_PARTS
    return parts, notes
