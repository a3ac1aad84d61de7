"""The lists of a prepared data set, and what is told of them: counts, classes that are missing, leakage."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from advmia.data.prepare.records import Collection, Record, Rule
from advmia.data.specs import DATASETS, DatasetSpec, Split


@dataclass(frozen=True)
class ImageList:
    """One list to be written."""

    spec: DatasetSpec
    split: Split
    rows: list[tuple[Record, str]]  # image, entry
    origin: str  # for the marker: how it was made

    @property
    def name(self) -> str:
        return list_name(self.spec, self.split)

    def text(self) -> str:
        header = ",".join(self.spec.findings) + "\n" if self.spec.findings else ""
        return header + "".join(f"{record.name},{entry}\n" for record, entry in self.rows)

    def images(self) -> set[str]:
        return {record.name for record, _ in self.rows}

    def counts(self) -> dict[str, int]:
        """Rows by label; images by finding, and those without one; masks by kind of image, where it is known."""
        entries = [entry for _, entry in self.rows]
        if self.spec.task == "segmentation":
            return dict(sorted(Counter(record.kind for record, _ in self.rows if record.kind).items()))
        if self.spec.task == "multi-label":
            columns = zip(*(bits[1:] for bits in entries), strict=True)
            found = {name: column.count("1") for name, column in zip(self.spec.findings, columns, strict=True)}
            return found | {"none": sum("1" not in bits for bits in entries)}
        return dict(sorted(Counter(entries).items()))


def list_name(spec: DatasetSpec, split: Split) -> str:
    return spec.train_list if split == "train" else spec.test_list


def derived_lists(collection: Collection, rule: Rule) -> list[ImageList]:
    """The lists that a rule makes of the download; without those that would be empty."""
    lists = []
    for spec in (DATASETS[name] for name in collection.meanings):
        members = [record for record in collection.records if spec.name in record.entries]
        train, test = rule.divide(spec, members)
        lists.append(ImageList(spec, "train", [(record, record.entries[spec.name]) for record in train], "derived"))
        lists.append(ImageList(spec, "test", [(record, record.entries[spec.name]) for record in test], "derived"))
    return [made for made in lists if made.rows]


def describe(collection: Collection, lists: list[ImageList], split: str) -> list[str]:
    """Report lines: rows and classes of every list, and what passes between the training and the test lists."""
    lines = []
    told: set[str] = set()
    for made in lists:
        counts = ", ".join(f"{label}: {count}" for label, count in made.counts().items())
        meaning = f" ({collection.meanings[made.spec.name]})" if made.spec.name not in told else ""
        told.add(made.spec.name)
        lines.append(f"{made.name}: {len(made.rows)} rows" + (f"; {counts}" if counts else "") + meaning)
    training = [made for made in lists if made.split == "train"]
    tests = [made for made in lists if made.split == "test"]
    for test in tests:
        for train in training:
            same_task = train.spec is test.spec
            lines += [*_missing_classes(train, test), *_leakage(collection, train, test, split)] if same_task else []
            lines += _leakage_between_tasks(train, test) if not same_task else []
    if not collection.groups:
        lines.append(
            "leakage: the download names no patients, so a patient's images on both sides would not be noticed"
        )
    return lines


def _missing_classes(train: ImageList, test: ImageList) -> list[str]:
    """Classes that a partial download or a tiny split leaves without training images."""
    if train.spec.task != "single-label":
        return []
    highest = max(int(label) for made in (train, test) for label in made.counts())
    missing = [str(label) for label in range(highest + 1) if str(label) not in train.counts()]
    return [f"warning: {train.name} has no image of class {', '.join(missing)}"] if missing else []


def _leakage(collection: Collection, train: ImageList, test: ImageList, split: str) -> list[str]:
    lines = []
    shared = sorted(train.images() & test.images())
    if shared:
        lines.append(f"leakage: {len(shared)} images of {test.name} are in {train.name} too (e.g. {shared[0]})")
    tested = {record.group for record, _ in test.rows if record.group}
    both = tested & {record.group for record, _ in train.rows}
    if collection.groups:
        better = "; --split patient keeps them apart" if both and split != "patient" else ""
        lines.append(
            f"leakage: {len(both)} of {len(tested)} {collection.groups} of {test.name} are in {train.name} too{better}"
        )
    return lines


def _leakage_between_tasks(train: ImageList, test: ImageList) -> list[str]:
    shared = len(train.images() & test.images())
    if not shared:
        return []
    return [f"leakage between tasks: {shared} images of {test.name} are in {train.name}; a model of the one knows them"]
