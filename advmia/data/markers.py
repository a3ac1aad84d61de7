"""Markers: files beside the lists of a data folder that say what its images really are.

`<data root>/<folder>/advmia-data.json` maps a list's name to facts about it. `prepare` and `phantoms` write it. The
readers pass the facts' label on to every result and plot, so that generated or stand-in images are never taken for the
data set whose layout they fill.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from advmia.errors import UserError
from advmia.runtime.files import write_text

MARKER_NAME = "advmia-data.json"


def read_markers(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns the facts about each list of a data folder, by the list's name; {} for a folder without markers.

    Raises `UserError` for a damaged marker file.
    """
    path = folder / MARKER_NAME
    if not path.exists():
        return {}
    try:
        markers = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"cannot read {path} ({error}): it says what the folder's images are; make the folder again"
        ) from error
    if not isinstance(markers, dict) or not all(isinstance(value, dict) for value in markers.values()):
        raise UserError(f"{path} does not map list names to facts; make the folder again")
    return markers


def write_marker(folder: Path, list_names: list[str], facts: dict[str, Any]) -> None:
    """Records `facts` about the named lists, and keeps what is recorded about other lists.

    Reads, changes and writes the marker file: callers hold the lock of `folder` meanwhile, or one of two writers loses
    what it recorded.

    `facts["label"]` appears in results and plots: "phantom", a stand-in's own name such as "RetinaMNIST 64", or "" for
    the official images.
    """
    markers = read_markers(folder) | dict.fromkeys(list_names, facts)
    write_text(folder / MARKER_NAME, json.dumps(markers, indent=2, sort_keys=True) + "\n")


def data_label(folder: Path, list_name: str) -> str:
    """Returns the label of a list's images for results and plots; "" for the data set's own images."""
    return str(read_markers(folder).get(list_name, {}).get("label", ""))
