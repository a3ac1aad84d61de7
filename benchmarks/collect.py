"""Joins the parts of a set of benchmarks into one JSON file: `python benchmarks/collect.py FOLDER OUT`.

For each part, FOLDER contains `NAME.status` (exit status and seconds), `NAME.json` (the results) and `NAME.log` (the
output). If a part failed, OUT gets the results that it wrote before, and the end of its output. Parts that only OUT
contains stay there: each result states when and where it was measured. This module does not import torch, so it starts
at once.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

TAIL = 2000  # how many characters of a failed part's output are kept
TIMED_OUT = 124  # the exit status of `timeout`


def main() -> None:
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    by_age = sorted(folder.glob("*.status"), key=lambda path: path.stat().st_mtime)
    parts = _read_parts(out) | {path.stem: _read_part(path) for path in by_age}
    record = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "failed": [name for name, part in parts.items() if part["status"] != "ok"],
        "parts": parts,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(out.name + ".tmp")
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    temporary.replace(out)


def _read_part(path: Path) -> dict[str, Any]:
    """Returns the record of one part: its status, seconds and result. `path` is its status file."""
    code, seconds = path.read_text(encoding="utf-8").split()
    status = {0: "ok", TIMED_OUT: "failed: time limit"}.get(int(code), f"failed: exit status {code}")
    part: dict[str, Any] = {"status": status, "seconds": int(seconds), "result": _read_json(path.with_suffix(".json"))}
    if code != "0":
        part["said"] = path.with_suffix(".log").read_text(encoding="utf-8", errors="replace")[-TAIL:]
    return part


def _read_parts(path: Path) -> dict[str, Any]:
    """Returns the parts of an earlier output file by name; an empty dictionary if it is missing or damaged."""
    return (_read_json(path) or {}).get("parts", {})


def _read_json(path: Path) -> dict[str, Any] | None:
    """Reads a JSON file; returns None if it is missing, or incomplete because its writer was ended."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content


if __name__ == "__main__":
    main()
