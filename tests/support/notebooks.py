"""Runs the code of a notebook without Jupyter, and stores what it printed and drew.

`python -m tests.support.notebooks examples/attack_your_network.ipynb` runs it anew and stores its outputs in it.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl


def run_notebook(path: Path) -> dict[str, Any]:
    """Runs all code cells of a notebook in order; returns the notebook with new outputs."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    notebook = json.loads(path.read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    number = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        number += 1
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("".join(cell["source"]), f"{path.name} cell {number}", "exec"), names)
        outputs: list[dict[str, Any]] = []
        if printed.getvalue():
            outputs.append({"name": "stdout", "output_type": "stream", "text": lines(printed.getvalue())})
        for figure in map(plt.figure, plt.get_fignums()):
            picture = io.BytesIO()
            figure.savefig(picture, format="png", dpi=80, bbox_inches="tight")
            data = {"image/png": base64.b64encode(picture.getvalue()).decode()}
            outputs.append({"data": data, "metadata": {}, "output_type": "display_data"})
        plt.close("all")
        cell["execution_count"], cell["outputs"] = number, outputs
    return notebook


def lines(text: str) -> list[str]:
    """Returns a text as notebooks hold it: lines with their ends."""
    return text.splitlines(keepends=True)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(json.dumps(run_notebook(target), indent=1) + "\n", encoding="utf-8")
