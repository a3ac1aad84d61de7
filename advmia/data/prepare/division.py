"""Divides a user's images into training, validation and test lists, and finds equal images."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from advmia.data.decode import decoded
from advmia.data.prepare.contents import THREADS, Original
from advmia.data.prepare.records import Record, digest
from advmia.errors import UserError
from advmia.runtime.progress import Bar

PARTS = ("train", "val", "test")


def divide(records: Sequence[Record], strata: Sequence[str], fractions: dict[str, float]) -> dict[str, list[Record]]:
    """Divides the images, the same on every machine; equal groups, such as patients, stay on one side.

    Within each stratum, groups are ranked by the SHA-256 of their names; an image without a group is one of its own.
    From the first on they are test images until `fractions["test"]` of the stratum's images are, then validation
    images; at least one group of each stratum is left for training.

    Args:
        records: the images.
        strata: of each image: its class, or the same text for all.
        fractions: of the images of "val" and "test".

    Returns: the images of "train", "val" and "test", in the order of `records`.
    """
    groups: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        groups.setdefault(f"group {record.group}" if record.group else f"image {record.name}", []).append(index)
    by_stratum: dict[str, list[str]] = {}
    for name, members in groups.items():
        most_frequent = Counter(strata[index] for index in members).most_common(1)[0][0]
        by_stratum.setdefault(most_frequent, []).append(name)
    part_of: dict[int, str] = {}
    for names in by_stratum.values():
        ranked = sorted(names, key=digest)
        count = sum(len(groups[name]) for name in ranked)
        for part in ("test", "val"):
            wanted, taken = fractions[part] * count, 0
            while len(ranked) > 1 and taken < wanted - 0.5:
                members = groups[ranked.pop(0)]
                taken += len(members)
                part_of |= dict.fromkeys(members, part)
    return {part: [r for index, r in enumerate(records) if part_of.get(index, "train") == part] for part in PARTS}


def as_given(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Divides the images as the user's table says. Raises `UserError` if it says it for some of them only."""
    without = next((record for record in records if not record.part), None)
    if without is not None:
        raise UserError(f"{without.name} has no split in the table, but others have: fill the column, or leave it out")
    return {part: [record for record in records if record.part == part] for part in PARTS}


def pixel_digests(records: Sequence[Record]) -> list[str]:
    """Returns a digest of each image's size and pixels. Raises `UserError` for an image that cannot be read."""

    def digest_of(record: Record) -> str:
        assert isinstance(record.image, Original), "a user's images are files"
        return _pixel_digest(record.image.path)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(Bar(pool.map(digest_of, records), total=len(records), desc="reading", unit="images"))


def _pixel_digest(path: Path) -> str:
    try:
        with decoded(path) as (image, _):
            pixels = image.convert("RGB")
            return hashlib.sha256(f"{pixels.size}".encode() + pixels.tobytes()).hexdigest()
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{path} is no readable image ({error}): save it again, or leave it out") from error


def connected(records: Sequence[Record], digests: Sequence[str]) -> list[Record]:
    """Returns the records, equal images in one group with all their groups: a group's name is that of its first."""
    parent: dict[str, str] = {}

    def root(node: str) -> str:
        while parent.setdefault(node, node) != node:
            node = parent[node]
        return node

    counts = Counter(digests)
    for record, its_digest in zip(records, digests, strict=True):
        if counts[its_digest] > 1 and record.group:
            parent[root(f"pixels {its_digest}")] = root(f"group {record.group}")
        elif counts[its_digest] > 1:
            root(f"pixels {its_digest}")
    joined = []
    for record, its_digest in zip(records, digests, strict=True):
        node = f"group {record.group}" if record.group else f"pixels {its_digest}" if counts[its_digest] > 1 else ""
        joined.append(replace(record, group=root(node).removeprefix("group ") if node else ""))
    return joined


def describe_duplicates(records: Sequence[Record], digests: Sequence[str], name: str) -> list[str]:
    """Returns report lines about images with equal pixels, and about those of them with different entries `name`."""
    alike: dict[str, list[Record]] = {}
    for record, its_digest in zip(records, digests, strict=True):
        alike.setdefault(its_digest, []).append(record)
    several = [group for group in alike.values() if len(group) > 1]
    if not several:
        return ["duplicates: no two images have equal pixels"]
    example = " and ".join(record.name for record in several[0][:2])
    lines = [f"duplicates: {sum(map(len, several))} images have the pixels of another one (e.g. {example})"]
    odd = [group for group in several if len({record.entries[name] for record in group if not record.mask}) > 1]
    if odd:
        example = " and ".join(f"{record.name} ({record.entries[name]})" for record in odd[0][:2])
        lines.append(f"warning: {len(odd)} of these groups have different labels (e.g. {example})")
    return lines
