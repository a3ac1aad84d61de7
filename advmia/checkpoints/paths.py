"""The files of a training: the checkpoint, and what lies beside it.

A checkpoint's name is full of dots, so the endings are appended to it, not put in place of a suffix. A published name
does not say the seed: networks of seed 0 have the published place, and those of seed N lie in a folder `seedN` beside.
"""

from __future__ import annotations

import re
from pathlib import Path

from advmia.runtime.files import NAME_BYTES, fitting_name

_SEED_FOLDER = re.compile(r"seed(0|[1-9][0-9]*)")


def seed_folder(folder: Path, seed: int) -> Path:
    """Returns where files of a seed belong: `<folder>/seed<seed>`, and `folder` itself for seed 0."""
    return folder / f"seed{seed}" if seed else folder


def seed_named_by(folder: Path) -> int | None:
    """Returns N of a folder that is named `seedN`; None for other names."""
    match = _SEED_FOLDER.fullmatch(folder.name)
    return int(match[1]) if match else None


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


def log_path(checkpoint: Path) -> Path:
    """Returns `<checkpoint>.log.csv`: the numbers of each epoch, with `--log csv`."""
    return _beside(checkpoint, ".log.csv")


def events_path(checkpoint: Path) -> Path:
    """Returns `<checkpoint>.tensorboard`: a folder of TensorBoard's event files, with `--log tensorboard`."""
    return _beside(checkpoint, ".tensorboard")


def card_paths(checkpoint: Path) -> tuple[Path, Path]:
    """Returns `<checkpoint>.card.md` and `<checkpoint>.card.json`: what `python -m advmia report --card` says of it."""
    return _beside(checkpoint, ".card.md"), _beside(checkpoint, ".card.json")


def all_paths(checkpoint: Path) -> tuple[Path, ...]:
    """Returns the paths of all files of a training, whether they exist or not."""
    files = (record_path, picture_path, state_path, log_path, events_path)
    return checkpoint, *(path_of(checkpoint) for path_of in files), *card_paths(checkpoint)


def _beside(checkpoint: Path, ending: str) -> Path:
    """Returns the checkpoint's path with an ending. A name that would be too long for a file is cut before it."""
    return checkpoint.with_name(fitting_name(checkpoint.name, NAME_BYTES - len(ending)) + ending)
