"""Says what a download lacks, and what about it cannot be checked."""

from __future__ import annotations

from advmia.data.prepare.contents import Original
from advmia.data.prepare.records import Collection, Rule
from advmia.data.prepare.sources import NAMED
from advmia.errors import UserError

_JPEG = (".jpg", ".jpeg")


def check_complete(dataset: str, collection: Collection, rule: Rule, *, partial: bool) -> list[str]:
    """Returns report lines about what is missing, if `partial` says that this is meant.

    Raises `UserError` for classes, sheets and parts that the rule needs and the download lacks, and for archives that
    are not unpacked while images are missing.
    """
    missing = [name for name in collection.missing if name not in rule.unneeded]
    if not missing and not collection.packed:
        return []
    lacks = f"lacks {_listed(missing)}" if missing else "lacks images"
    packed = f", and {_listed(collection.packed)} in it is not unpacked" if collection.packed else ""
    if partial:
        return [f"partial: the download {lacks}{packed}"]
    unread = f" (not read: {collection.unread})" if collection.unread and not collection.packed else ""
    remedy = "unpack it" if collection.packed else "complete the download"
    raise UserError(
        f"this download of {dataset} {lacks}{packed}{unread}: {remedy} and run again, or say with --partial that this"
        " is meant"
    )


def _listed(names: tuple[str, ...] | list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def unchecked_lines(collection: Collection) -> list[str]:
    """Returns a report line for a download with JPEGs, whose damage no decoder reports, or no line."""
    originals = [record.image.path for record in collection.records if isinstance(record.image, Original)]
    jpegs = sum(path.suffix.lower() in _JPEG for path in originals)
    if not jpegs:
        return []
    return [
        f"not checked: {jpegs} JPEGs, since decoders hide damage in a JPEG's middle; compare the archive's checksum"
        " (sha256sum FILE.zip) with that of a second download or of its publisher"
    ]
