"""Patients that the user knows: a table of file names and patients, for the split by patient and the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from advmia.data.prepare.records import Collection, Division, Record, Rule, hash_split
from advmia.data.prepare.sources import Row, file_key, read_rows, skipped
from advmia.data.specs import DatasetSpec
from advmia.errors import UserError

_HEADERS = {"file", "image", "name", "filename", "file name", "patient", "patient id", "patient_id"}


def with_patients(collection: Collection, path: Path) -> Collection:
    """Returns the collection with the patients of a table `file,patient`, and with the split by patient.

    Files are found by their names, with or without extension and folders. Images that are connected already, such as
    duplicates, stay connected: then their patients count as one. Raises `UserError` for a table that cannot be read,
    for a file with two patients, and for one that names no image of the download.
    """
    if not path.is_file():
        raise UserError(f"expected --patients to be a table with the columns file,patient, got {path}: no such file")
    rows, remarks = read_rows(path)
    patients, unknown = _read_patients(path, rows, collection.records)
    if not patients:
        raise UserError(
            f"{path} names no image of the download (e.g. {unknown[0] if unknown else 'no row'}): expected file names"
            f" such as {collection.records[0].name}"
        )
    groups = _connected([(record.name, record.group, patients.get(record.name, "")) for record in collection.records])
    records = [replace(record, group=groups.get(record.name, "")) for record in collection.records]
    notes = [f"patients: {len(set(patients.values()))} of {len(patients)} images, from {path.name}", *remarks]
    notes += skipped([record.name for record in records if record.name not in patients], f"images not in {path.name}")
    notes += skipped(unknown, f"rows of {path.name} whose image is not in the download")
    rules = collection.rules
    if collection.test_fraction:
        rules = {**rules, "patient": _patient_rule(collection)}
    return replace(collection, records=records, rules=rules, groups="patients", notes=[*collection.notes, *notes])


def _patient_rule(collection: Collection) -> Rule:
    """Returns the download's own split by patient, or one like it."""
    if "patient" in collection.rules:
        return collection.rules["patient"]
    published = collection.rules["published"]

    def divide(spec: DatasetSpec, records: list[Record]) -> Division:
        train, test = published.divide(spec, records)  # it may leave images out
        return hash_split([*train, *test], collection.test_fraction, by_group=True)

    return Rule(
        divide,
        f"derived: patients are ranked by the hash of their ID in --patients until {collection.test_fraction:.0%} of"
        " the images are test; the published lists are not made by patient",
    )


def _read_patients(path: Path, rows: Sequence[Row], records: Sequence[Record]) -> tuple[dict[str, str], list[str]]:
    """Returns the patients by record name, and the names that are of no record."""
    by_key = {file_key(Path(record.name).stem): record for record in records}
    by_key |= {file_key(Path(record.official_name).stem): record for record in records}
    patients: dict[str, str] = {}
    unknown = []
    for number, cells in rows:
        texts = [cell.strip() for cell in cells]
        if number == rows[0][0] and {text.casefold() for text in texts} & _HEADERS:
            continue
        if len(texts) != 2 or not all(texts):
            raise UserError(f"{path} row {number}: expected `file,patient`, got `{','.join(texts)[:80]}`")
        name = texts[0].replace("\\", "/").rpartition("/")[2]
        record = by_key.get(file_key(name)) or by_key.get(file_key(Path(name).stem))
        if record is None:
            unknown.append(name)
        elif patients.setdefault(record.name, texts[1]) != texts[1]:
            raise UserError(
                f"{path} row {number}: {name} is of patient {texts[1]} here and of {patients[record.name]} in another"
                " row; keep one of them"
            )
    return patients, unknown


def _connected(memberships: Sequence[tuple[str, str, str]]) -> dict[str, str]:
    """Returns one group for each image (name, group of the download, patient) that has one, joined where they overlap.

    A group has the name of its first patient, or of its first group of the download without a patient.
    """
    parent: dict[tuple[str, str], tuple[str, str]] = {}

    def root(node: tuple[str, str]) -> tuple[str, str]:
        while parent.setdefault(node, node) != node:
            node = parent[node]
        return node

    for _, group, patient in memberships:
        if group and patient:
            parent[root(("group", group))] = root(("patient", patient))
    return {
        name: root(("patient", patient) if patient else ("group", group))[1]
        for name, group, patient in memberships
        if group or patient
    }
