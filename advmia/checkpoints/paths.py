"""The files of a training: the checkpoint, and what lies beside it.

A checkpoint's name is full of dots, so the endings are appended to it, not put in place of a suffix.
"""

from __future__ import annotations

from pathlib import Path


def record_path(checkpoint: Path) -> Path:
    """Returns `<checkpoint>.json`: how the checkpoint came about.

    `rename_existing` renames both files: the record of `<checkpoint>.earlier-1` is `<checkpoint>.json.earlier-1`.
    """
    name, earlier, number = checkpoint.name.rpartition(".earlier-")
    if earlier and number.isdecimal():
        return checkpoint.with_name(f"{name}.json{earlier}{number}")
    return checkpoint.with_name(checkpoint.name + ".json")


def picture_path(checkpoint: Path) -> Path:
    """Returns `<checkpoint>.png`: the training curves."""
    return checkpoint.with_name(checkpoint.name + ".png")


def state_path(checkpoint: Path) -> Path:
    """Returns `<checkpoint>.state`: what a training continues from. Removed when the training has finished."""
    return checkpoint.with_name(checkpoint.name + ".state")


def all_paths(checkpoint: Path) -> tuple[Path, ...]:
    """Returns the paths of all files of a training, whether they exist or not."""
    return checkpoint, record_path(checkpoint), picture_path(checkpoint), state_path(checkpoint)
