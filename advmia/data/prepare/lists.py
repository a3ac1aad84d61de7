"""Makes the lists of a prepared data set, and describes them: counts, missing classes, leakage."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from advmia.data.datasets import DATASETS
from advmia.data.prepare.records import Collection, Record, Rule
from advmia.data.specs import DatasetSpec, Split


@dataclass(frozen=True)
class ImageList:
    """One list of images that is to be written."""

    spec: DatasetSpec
    split: Split
    rows: list[tuple[Record, str]]  # image and entry: label, bits or mask name
    origin: str  # for the marker: "derived", or the published list's checksum

    @property
    def name(self) -> str:
        """The list's file name."""
        return list_name(self.spec, self.split)

    def text(self) -> str:
        """Returns the list as CSV."""
        header = ",".join(self.spec.findings) + "\n" if self.spec.findings else ""
        return header + "".join(f"{record.name},{entry}\n" for record, entry in self.rows)

    def images(self) -> set[str]:
        """Returns the file names of all images."""
        return {record.name for record, _ in self.rows}

    def counts(self) -> dict[str, int]:
        """Counts rows by label, by finding (and "none"), or, for masks, by the image's kind where it is recorded."""
        entries = [entry for _, entry in self.rows]
        if self.spec.task == "segmentation":
            return dict(sorted(Counter(record.kind for record, _ in self.rows if record.kind).items()))
        if self.spec.task == "multi-label":
            columns = zip(*(bits[1:] for bits in entries), strict=True)
            positives = {name: column.count("1") for name, column in zip(self.spec.findings, columns, strict=True)}
            return positives | {"none": sum("1" not in bits for bits in entries)}
        return dict(sorted(Counter(entries).items()))


def list_name(spec: DatasetSpec, split: Split) -> str:
    """Returns the file name of a data set's list."""
    return spec.train_list if split == "train" else spec.test_list


def derived_lists(collection: Collection, rule: Rule) -> list[ImageList]:
    """Returns the lists that a rule makes from the download, without empty ones."""
    lists = []
    for spec in (DATASETS[name] for name in collection.meanings):
        members = [record for record in collection.records if spec.name in record.entries]
        train, test = rule.divide(spec, members)
        lists.append(ImageList(spec, "train", [(record, record.entries[spec.name]) for record in train], "derived"))
        lists.append(ImageList(spec, "test", [(record, record.entries[spec.name]) for record in test], "derived"))
    return [image_list for image_list in lists if image_list.rows]


def describe_lists(collection: Collection, lists: list[ImageList], split: str) -> list[str]:
    """Returns report lines: the rows and classes of every list, and the leakage from training to test lists."""
    lines = []
    explained: set[str] = set()
    for image_list in lists:
        name = image_list.spec.name
        counts = ", ".join(f"{label}: {count}" for label, count in image_list.counts().items())
        meaning = f" ({collection.meanings[name]})" if name not in explained else ""
        explained.add(name)
        lines.append(f"{image_list.name}: {len(image_list.rows)} rows" + (f"; {counts}" if counts else "") + meaning)
    training = [image_list for image_list in lists if image_list.split == "train"]
    tests = [image_list for image_list in lists if image_list.split == "test"]
    for test in tests:
        for train in training:
            if train.spec is test.spec:
                lines += [*_odd_classes(train, test), *_leakage(collection, train, test, split)]
            else:
                lines += _leakage_between_tasks(train, test)
    for name in collection.meanings:
        sides = {image_list.split for image_list in lists if image_list.spec.name == name}
        if not sides and lists[0].origin == "derived":
            lines.append(f"warning: no image is in the lists of {name}, which are not written")
        if len(sides) == 1:
            absent = "test" if "train" in sides else "train"
            lines.append(f"warning: no image is in the {absent} list of {name}, which is not written")
    if not any(record.group for record in collection.records):
        lines.append("leakage: patients unknown, so a patient's images on both sides would not be noticed")
    return lines


def _odd_classes(train: ImageList, test: ImageList) -> list[str]:
    """Returns warnings for classes without training images, as in a partial download, and for lists of one class."""
    if train.spec.task != "single-label":
        return []
    highest = max(int(label) for image_list in (train, test) for label in image_list.counts())
    missing = [str(label) for label in range(highest + 1) if str(label) not in train.counts()]
    lines = [f"warning: {train.name} has no image of class {', '.join(missing)}"] if missing else []
    for image_list in (train, test):
        if len(image_list.counts()) == 1 and len(image_list.rows) > 1:
            lines.append(
                f"warning: all {len(image_list.rows)} images of {image_list.name} are of class"
                f" {next(iter(image_list.counts()))}: any network would be right on all of them"
            )
    return lines


def _leakage(collection: Collection, train: ImageList, test: ImageList, split: str) -> list[str]:
    """Returns report lines about images and groups that are in both lists of one task."""
    lines = []
    shared = sorted(train.images() & test.images())
    if shared:
        lines.append(f"leakage: {len(shared)} images of {test.name} are in {train.name} too (e.g. {shared[0]})")
    test_groups = {record.group for record, _ in test.rows if record.group}
    in_both = test_groups & {record.group for record, _ in train.rows}
    if collection.groups and test_groups:
        keeps_apart = in_both and split != "patient" and "patient" in collection.rules
        better = "; --split patient keeps them apart" if keeps_apart else ""
        lines.append(
            f"leakage: {len(in_both)} of {len(test_groups)} {collection.groups} of {test.name} are in {train.name}"
            f" too{better}"
        )
    return lines


def _leakage_between_tasks(train: ImageList, test: ImageList) -> list[str]:
    """Returns a report line if a test list shares images with the training list of another task, or no line."""
    shared = len(train.images() & test.images())
    if not shared:
        return []
    return [
        f"leakage between tasks: {shared} images of {test.name} are in {train.name}: a model trained on that list has"
        " seen them"
    ]
