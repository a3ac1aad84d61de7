"""Common flags of the benchmarks, facts about the machine, the JSON file and the printed tables."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from advmia.runtime import machine
from advmia.runtime.precision import PRECISIONS

TIMING_COLUMNS = ("", "ms", "min", "max", "ours faster", "min", "max", "peak MiB")


def new_parser(description: str | None) -> argparse.ArgumentParser:
    """Returns a parser whose help shows `description`, the module docstring of a benchmark, with its line breaks."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def add_precisions(parser: argparse.ArgumentParser) -> None:
    """Adds the flag --precision, with one or more values."""
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=PRECISIONS,
        default=[None],
        help="measure in each of these precisions; default: tf32 on CUDA, fp32 on a CPU",
    )


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Adds the flags that every benchmark has, --device and --out, and parses the command line."""
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default, help="cpu, cuda or cuda:N; default: cuda if there is a GPU")
    parser.add_argument("--out", type=Path, help="write the results to this JSON file too")
    return parser.parse_args()


def write(args: argparse.Namespace, benchmark: str, results: Mapping[str, Any]) -> None:
    """Writes the benchmark's name, its settings, the machine and the results to `args.out`, unless it is None."""
    if args.out is None:
        return
    settings = {
        key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items() if key != "out"
    }
    facts = machine_facts(torch.device(args.device))
    record = {"benchmark": benchmark, "settings": settings, "machine": facts, **results}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    temporary = args.out.with_name(args.out.name + ".tmp")  # a time limit may end the benchmark while it writes
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    temporary.replace(args.out)


def machine_facts(device: torch.device) -> dict[str, Any]:
    """Returns what times depend on: the machine, its load and the versions; and the date."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": str(device),
        "name": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],  # includes other programs: on a busy machine, times mean little
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None,
        "versions": machine.versions(device),
    }


def _processor() -> str:
    """Returns the processor's name."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a table: the first column aligned left, the others right; numbers with three significant digits."""
    cells = [list(columns), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(columns))]
    print(f"\n{title}")
    for row in cells:
        right = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *right]))


def _cell(value: object) -> str:
    """Returns the text of a table cell; "-" for None."""
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def timing_row(name: str, timing: Mapping[str, float]) -> list[object]:
    """Returns a row for `TIMING_COLUMNS`; `timing` is the result of `benchmarks.timing.alternate` for one callable."""
    milliseconds = [1000 * timing[key] for key in ("seconds", "seconds_min", "seconds_max")]
    ratios = [timing[key] for key in ("ours_faster", "ours_faster_min", "ours_faster_max")]
    return [name, *milliseconds, *ratios, timing.get("peak_mib")]
