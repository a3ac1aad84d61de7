"""What a data folder really holds, written beside its lists.

`<data root>/<folder>/advmia-data.json` maps a list's name to facts about it. `prepare` and `phantoms` write it; readers
hand it on, and every result and plot repeats its label, so that generated or stand-in images are never taken for the
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
    """All markers of a data folder, by list name; empty where nothing was recorded (official files put by hand)."""
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
    """Records `facts` for the lists named, keeping the other lists' markers.

    `facts["label"]` is what results and plots repeat: "phantom", or a stand-in's own name such as
    "RetinaMNIST 64"; "" for the official images.
    """
    markers = read_markers(folder) | dict.fromkeys(list_names, facts)
    write_text(folder / MARKER_NAME, json.dumps(markers, indent=2, sort_keys=True) + "\n")


def data_label(folder: Path, list_name: str) -> str:
    """What results must repeat about the list's images; "" when they are the data set's own."""
    return str(read_markers(folder).get(list_name, {}).get("label", ""))
