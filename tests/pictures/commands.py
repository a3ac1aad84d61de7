"""The test commands that the tests of the pictures run: small ones, of each task, in this process."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

SMALL = ["--imgSize", "16", "--gpu", "cpu", "--bs", "4"]
CLASSES = ["testCls.py", "--dataset", "melBin", "--targetModel", "mv2", "--targetWeight", "weights/mv2", *SMALL]
FINDINGS = ["testChex.py", "--targetModel", "mv2", "--targetWeight", "weights/mv2-14", *SMALL]
MASKS = ["testSeg.py", "--dataset", "mel", "--targetModel", "unet", "--targetWeight", "weights/unet", *SMALL]
RunTest = Callable[..., int]  # called with the words of a command, the folder for its results, and further words


def results_of(folder: Path) -> dict[str, Any]:
    """Returns the content of the only result file in a folder."""
    (path,) = folder.glob("*.json")
    return json.loads(path.read_text())


def row_of(results: dict[str, Any], attack: str, eps: float, *, eight_bits: bool = False) -> dict[str, Any]:
    """Returns a row of a result file."""
    found = [row for row in results["rows"] if (row["attack"], row["eps"]) == (attack, eps)]
    return next(row for row in found if row.get("eight_bits", False) == eight_bits)


def lines_of(path: Path) -> list[dict[str, str]]:
    """Returns the lines of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
