"""Joins the parts of a set of benchmarks into one JSON file: `python benchmarks/collect.py FOLDER OUT`.

For each part, FOLDER has `NAME.status` (exit status and seconds), `NAME.json` (the results) and `NAME.log` (the
output). Of a part that failed, OUT gets the results until then and the end of the output. Parts that are only in OUT
stay there: each result says when and where it was measured. This module does not import torch, so it starts at once.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

TAIL = 2000  # characters kept of the output of a part that failed
TIMED_OUT = 124  # the exit status of `timeout`


def main() -> None:
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    by_age = sorted(folder.glob("*.status"), key=lambda path: path.stat().st_mtime)
    parts = _parts_of(out) | {path.stem: _part(path) for path in by_age}
    record = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "failed": [name for name, part in parts.items() if part["status"] != "ok"],
        "parts": parts,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(out.name + ".tmp")
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    temporary.replace(out)


def _part(path: Path) -> dict[str, Any]:
    """Returns the record of the part with the status file `path`."""
    code, seconds = path.read_text(encoding="utf-8").split()
    status = {0: "ok", TIMED_OUT: "failed: time limit"}.get(int(code), f"failed: exit status {code}")
    part: dict[str, Any] = {"status": status, "seconds": int(seconds), "result": _json(path.with_suffix(".json"))}
    if code != "0":
        part["said"] = path.with_suffix(".log").read_text(encoding="utf-8", errors="replace")[-TAIL:]
    return part


def _parts_of(path: Path) -> dict[str, Any]:
    """Returns the parts, by name, of an earlier output file; none if it is missing or damaged."""
    return (_json(path) or {}).get("parts", {})


def _json(path: Path) -> dict[str, Any] | None:
    """Reads a JSON file; returns None if it is missing or incomplete, because its writer was ended."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content


if __name__ == "__main__":
    main()
