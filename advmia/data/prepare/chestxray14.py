"""Reads NIH ChestX-ray14: radiographs (PNG) with 14 findings; many patients have several images."""

from __future__ import annotations

from pathlib import Path

from advmia.data.prepare.contents import Original
from advmia.data.prepare.records import (
    Collection,
    Division,
    Record,
    Rule,
    columns,
    hash_split,
    index,
    plain_name,
    read_csv,
    require,
    sample,
    skipped,
    walk,
)
from advmia.data.specs import CHEST_FINDINGS, DatasetSpec
from advmia.errors import UserError

TEST_FRACTION = 22_424 / 112_120  # in the published binary lists
MULTI_LABEL_TRAIN, MULTI_LABEL_TEST = 8_000, 2_000  # rows of the published multi-label lists
NO_FINDING = "No Finding"
OFFICIAL_LISTS = {"train_val_list.txt": "train", "test_list.txt": "test"}


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
    if not any(record.part for record in records):
        raise UserError(
            f"--split official needs {' and '.join(OFFICIAL_LISTS)} below --source, and none of their images was found:"
            " download them too, or take another --split"
        )
    return _sized(spec, ([r for r in records if r.part == "train"], [r for r in records if r.part == "test"]))


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
    images = index(files, r"\d{8}_\d{3}\.png")
    tables = index(files, r"Data_Entry_2017(_v2020)?\.csv")
    require(images, "images 00000001_000.png and on", source, files)
    require(tables, "Data_Entry_2017.csv or Data_Entry_2017_v2020.csv", source, files)
    table = tables[max(tables)]  # the newest
    parts = _parts(files)
    records, absent, labelled = [], [], set()
    for where, (image, labels, patient) in columns(
        table, read_csv(table), ("Image Index", "Finding Labels", "Patient ID")
    ):
        name = plain_name(image, where)
        findings = _findings(labels, where)
        labelled.add(name)
        if name in images:
            entries = {"xrayBin": str(int(not findings)), "xray_multilabel": _bits(findings)}
            records.append(Record(name, Original(images[name]), entries, part=parts.get(name, ""), group=patient))
        else:
            absent.append(name)
    require(records, f"images that {table.name} names", source, files)
    notes = [f"labels are read from {table.name}"] if len(tables) > 1 else []
    notes += skipped(absent, "labelled images that are not in the download")
    notes += skipped(sorted(set(images) - labelled), f"images without a row in {table.name}")
    return Collection(
        folder="xray",
        records=records,
        rules=RULES,
        meanings={"xrayBin": '1 = "No Finding", 0 = any finding', "xray_multilabel": "a bit for each finding"},
        notes=notes,
        groups="patients",
    )


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
    return "b" + "".join(str(int(finding in findings)) for finding in CHEST_FINDINGS)


def _parts(files: list[Path]) -> dict[str, str]:
    """Returns "train" or "test" by image name, from the official lists; {} if they are not in the download."""
    parts: dict[str, str] = {}
    for path in index(files, "|".join(OFFICIAL_LISTS)).values():
        part = OFFICIAL_LISTS[path.name.lower()]
        for name in path.read_text(encoding="utf-8", errors="replace").split():
            if parts.setdefault(name, part) != part:
                raise UserError(
                    f"{name} is in both {' and '.join(OFFICIAL_LISTS)} ({path.parent}); expected one of them"
                )
    return parts
