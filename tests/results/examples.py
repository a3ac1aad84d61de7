"""The committed example results, copies of them with a change, and the cells of a printed table."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.running import ROOT

EXAMPLES = ROOT / "tests" / "fixtures" / "examples"
FOLDERS = [Path("results"), Path("results/seed1"), Path("results/limit8")]
NAT = "melBin__MobileNetV2_melBin_nat_class2_maxLR0.01_weightDecay0.001"
PGDAT = "melBin__MobileNetV2_melBin_pgdat_beta0_class2_ADV8-255_10_2-255_maxLR0.01_weightDecay0.001"
TRADES = "melBin__MobileNetV2_melBin_trades_beta6_class2_ADV8-255_10_2-255_maxLR0.01_weightDecay0.001"
TRANSFER = f"{PGDAT}__from__{NAT.removeprefix('melBin__')}"


def example(name: str) -> dict[str, Any]:
    """Reads an example result file."""
    return json.loads((EXAMPLES / "results" / f"{name}.json").read_text())


def save(folder: Path, name: str, content: dict[str, Any]) -> Path:
    """Writes `<folder>/<name>.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content))
    return path


def change(content: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """Returns a copy with the fact at `path` (dots between keys) replaced."""
    changed = copy.deepcopy(content)
    *parents, last = path.split(".")
    part = changed
    for name in parents:
        part = part[name]
    part[last] = value
    return changed


def with_hits(content: dict[str, Any], hits: Sequence[object]) -> dict[str, Any]:
    """Returns a copy with the clean row only, of which these images (true values) are right."""
    changed = copy.deepcopy(content)
    labels = changed["samples"]["label"]
    assert len(hits) == len(labels)
    row = changed["rows"][0]
    row["outcomes"] = [label if hit else 1 - label for label, hit in zip(labels, hits, strict=True)]
    row["scores"] = {"accuracy": sum(map(bool, hits)) / len(hits)}
    changed["rows"] = [row]
    return changed


def table_of(text: str, title: str) -> list[list[str]]:
    """Returns header and rows of the first Markdown table whose title contains `title`."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if title in line) + 2
    body = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        body.append([cell.strip() for cell in line.split("|")[1:-1]])
    return [body[0], *body[2:]]
