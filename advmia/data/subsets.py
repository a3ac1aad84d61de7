"""Says whether a data set's lists hold only a part of the published ones, so that no part passes for the whole."""

from __future__ import annotations

from pathlib import Path

from advmia.data.list_rows import read_list
from advmia.data.markers import read_markers
from advmia.data.specs import DatasetSpec, Split
from advmia.errors import UserError


def describe_subset(spec: DatasetSpec, root: Path, split: Split, rows: int) -> str:
    """Returns e.g. "subset 100 of 2750", or "" for lists that are complete, or of images with a label of their own.

    A data set is a subset if its two lists together have fewer rows than the published ones, so that both lists are
    described alike. If there is only one list, it is compared alone.

    Args:
        spec: the data set.
        root: the data root.
        split: the list, of which `rows` samples were read.
        rows: its number of samples.
    """
    path = spec.list_path(root, split)
    facts = read_markers(path.parent).get(path.name, {})
    published = facts.get("published") or spec.published_rows
    if facts.get("label") or not published:
        return ""
    other: Split = "test" if split == "train" else "train"
    other_path = spec.list_path(root, other)
    if other_path.exists():
        rows, expected = rows + _count_rows(other_path, spec), sum(published)
    else:
        expected = published[0] if split == "train" else published[1]
    return f"subset {rows} of {expected}" if rows < expected else ""


def _count_rows(path: Path, spec: DatasetSpec) -> int:
    """Returns the number of a list's samples; 0 for a list that cannot be read."""
    try:
        return len(read_list(spec, path)[0])
    except UserError:
        return 0
