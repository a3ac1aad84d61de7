"""Times `prepare` on a made-up ChestX-ray14: rows of Data_Entry_2017_v2020.csv with one-pixel PNGs, which it links.

    python -m benchmarks.prepare

By default there are as many rows as in the official table, in twelve folders of images. It times the first run, a
second run, which finds everything in place, and reading the binary training list as a training does. Each step is a
process of its own, so that its peak memory is its own; its seconds leave out the start of Python.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from advmia.data.datasets import CHEST_FINDINGS
from benchmarks import report

STEPS = {"first": "first run", "second": "second run", "read": "reading the training list"}
FOLDERS = 12
IMAGES_OF_A_PATIENT = 4
# Runs one step, and prints its seconds and its peak memory in MiB as the last line.
STEP = """
import json, resource, sys, time
start = time.perf_counter()
from pathlib import Path
source, root = Path(sys.argv[1]), Path(sys.argv[2])
if sys.argv[3] == "read":
    from advmia.data.readers import read_samples
    from advmia.data.datasets import DATASETS
    start = time.perf_counter()
    read_samples(DATASETS["xrayBin"], root, "train")
else:
    from advmia.data.prepare import prepare_dataset
    prepare_dataset("chestxray14", source, root, link=True)
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def main() -> None:
    args = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        report.write(args, "prepare", _measure(args, Path(folder)))


def _measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Times the three steps and prints them; returns the results for the JSON file."""
    make_download(folder / "source", args.rows)
    results = {name: run_step(folder, name) for name in STEPS}
    table = [[STEPS[name], result["seconds"], result["peak_mib"]] for name, result in results.items()]
    report.show(f"preparing {args.rows} rows of ChestX-ray14 with links", ("", "s", "peak MiB"), table)
    return {"rows": args.rows, **results}


def make_download(source: Path, rows: int) -> None:
    """Makes the table and the images: four of each patient, a third of them without finding."""
    rng = np.random.default_rng(0)
    source.mkdir(parents=True)
    pixel = source / "pixel"
    Image.fromarray(np.zeros((1, 1), np.uint8)).save(pixel, format="PNG")
    content = pixel.read_bytes()
    pixel.unlink()
    findings = rng.integers(0, len(CHEST_FINDINGS) * 3 // 2, rows)
    lines = ["Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Sex,View Position"]
    for folder in range(FOLDERS):
        (source / f"images_{folder + 1:03d}" / "images").mkdir(parents=True)
    for row in range(rows):
        patient, number = row // IMAGES_OF_A_PATIENT + 1, row % IMAGES_OF_A_PATIENT
        name = f"{patient:08d}_{number:03d}.png"
        (source / f"images_{row * FOLDERS // rows + 1:03d}" / "images" / name).write_bytes(content)
        label = CHEST_FINDINGS[findings[row]] if findings[row] < len(CHEST_FINDINGS) else "No Finding"
        lines.append(f"{name},{label},{number},{patient},57,M,PA")
    (source / "Data_Entry_2017_v2020.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def run_step(folder: Path, step: str) -> dict[str, float]:
    """Runs one step in a process of its own; returns its seconds and its peak memory in MiB."""
    words = [sys.executable, "-c", STEP, str(folder / "source"), str(folder / "data"), step]
    output = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result


def _arguments() -> argparse.Namespace:
    parser = report.new_parser(__doc__)
    parser.add_argument("--rows", type=int, default=112_120, help="rows of the table; the official one has 112,120")
    return report.parse(parser)


if __name__ == "__main__":
    main()
