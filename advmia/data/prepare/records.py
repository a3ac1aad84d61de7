"""Records of a download's images, and the rules that split them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from advmia.data.prepare.contents import Content
from advmia.data.specs import DatasetSpec


@dataclass(frozen=True)
class Record:
    """One image of a download."""

    name: str  # file name in the layout's image folder
    image: Content
    entries: dict[str, str]  # label, bits or mask name, by spec name; without a key the image is not in those lists
    mask: Content | None = None
    kind: str = ""  # class of an image with a mask, for counting; "" where it is unknown
    part: str = ""  # of the official split; "" where there is none
    group: str = ""  # the patient, or whatever connects images that must not be split; "" where it is unknown
    corrected: dict[str, str] = field(default_factory=dict)  # by spec name: the entry before or after an erratum
    converted_from: str = ""  # the official name of an image in another format; "" where `name` is the official one

    @property
    def official_name(self) -> str:
        """The name that the distributor gave the image: it identifies the image in splits and published lists."""
        return self.converted_from or self.name


Division = tuple[list[Record], list[Record]]  # train, test


@dataclass(frozen=True)
class Rule:
    """One way to split a download, as `--split` selects it."""

    divide: Callable[[DatasetSpec, list[Record]], Division]
    how: str  # sentence for the report: what the rule does, and how its lists differ from the published ones
    rows: dict[str, tuple[int, int]] = field(default_factory=dict)  # by spec name: of the whole download's lists
    unneeded: tuple[str, ...] = ()  # of `Collection.missing`: what this rule does without


@dataclass(frozen=True)
class Collection:
    """All that is read from a download, before anything is written."""

    folder: str  # of the layout, below the data root
    records: list[Record]
    rules: dict[str, Rule]  # by --split
    meanings: dict[str, str]  # what the entries mean, by spec name: the data sets whose lists the download fills
    notes: list[str]  # for the report: what was skipped, and why
    groups: str = ""  # what `Record.group` names, in the plural
    label: str = ""  # what the images really are, where they are not the layout's own data set
    missing: tuple[str, ...] = ()  # classes, sheets and parts that the official download has and this one has not
    unread: str = ""  # the kinds of files that were of no use: what is missing may be among them
    packed: tuple[str, ...] = ()  # names of archives below the source, if images are missing that may be in them
    classes: dict[str, int] = field(default_factory=dict)  # by spec name: of the labels, where the spec does not say
    test_fraction: float = 0.0  # of a split by patient, if the user names the patients; 0: not possible


def digest(text: str) -> str:
    """Returns the SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def hash_split(records: Sequence[Record], test_fraction: float, *, by_group: bool = False) -> Division:
    """Splits records by the SHA-256 of their official names: as good as random, and the same on every machine.

    The first `test_fraction` in the order of the hashes are test. With `by_group` the groups' names are hashed, and the
    test part grows until its last group is complete.
    """

    def unit(record: Record) -> str:
        return record.group if by_group and record.group else record.official_name

    if by_group:
        ranked = sorted(records, key=lambda record: (digest(unit(record)), digest(record.official_name)))
    else:
        ranked = sorted(records, key=lambda record: digest(record.official_name))
    cut = min(max(1, round(len(ranked) * test_fraction)), len(ranked))
    while by_group and cut < len(ranked) and unit(ranked[cut]) == unit(ranked[cut - 1]):
        cut += 1
    return ranked[cut:], ranked[:cut]


def sample(records: Sequence[Record], count: int) -> list[Record]:
    """Returns the first `count` records in the order of their names' hashes; all as they are if there are no more."""
    if len(records) <= count:
        return list(records)
    return sorted(records, key=lambda record: digest(record.official_name))[:count]
