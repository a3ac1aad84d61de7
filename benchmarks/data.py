"""Times how long loading images takes in an epoch: from our cache, and by decoding every image in every epoch.

    python -m benchmarks.data

Both ways read the same generated JPEGs, by default as large as those of ISIC 2017, in the folder layout of the data set
melBin. Both use one core; n cores would divide either time by n at most. With --device cuda, the images from the cache
are augmented on the GPU.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from advmia.data.datasets import DATASETS
from advmia.data.loading import ImageData, load_data
from advmia.data.phantom_images import skin
from advmia.data.readers import read_samples
from advmia.tasks import SINGLE_LABEL
from benchmarks import plain, report, subjects, timing

DATASET = "melBin"
NOISE = 2.5  # standard deviation in grey levels; it makes the files as large as those of photographs
QUALITY = 90  # of the JPEGs


def main() -> None:
    args = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        report.write(args, "data", _measure(args, Path(folder)))


def _measure(args: argparse.Namespace, root: Path) -> dict[str, Any]:
    """Times both ways and prints the table; returns the results for the JSON file."""
    device, spec = torch.device(args.device), DATASETS[DATASET].at_size(args.size)
    torch.set_num_threads(1)
    megabytes = draw_images(root / spec.folder, "trainbin.csv", args.images, (args.width, args.height))
    samples = read_samples(spec, root, "train")
    loads: list[ImageData] = []
    build_seconds = timing.seconds_of(lambda: loads.append(load_data(root, samples, workers=args.workers)), device)
    open_seconds = timing.seconds_of(lambda: load_data(root, samples, workers=args.workers), device)
    data = subjects.repeated(loads[0], args.draws).preload(device)
    loader = subjects.training_loader(data, SINGLE_LABEL, args.bs, device)
    epochs = iter(range(1, 1_000_000))
    paths = [samples.folder / spec.image_folder / name for name in samples.files]
    images = plain.DecodedImages(paths, [0] * len(paths), spec.resize, spec.size, spec.augmentation.rotation)

    def decode() -> None:
        for x, _ in DataLoader(images, args.bs):
            x.to(device)

    def read_cache() -> None:
        for _ in loader.epoch(next(epochs)):
            pass

    timings = timing.alternate({"decoded": decode, "cached": read_cache}, device, repeats=args.repeats)
    counts = {"decoded": len(paths), "cached": len(data)}
    keys = ("seconds_min", "seconds", "seconds_max")
    rows = {
        name: timing.spread("ms", [1000 * timings[name][key] / count for key in keys]) for name, count in counts.items()
    }
    results = {
        "ms_per_image": rows,
        "images_per_epoch": counts,
        "speedup": rows["decoded"]["ms"] / rows["cached"]["ms"],
        "cache": {
            "build_ms_per_image": 1000 * build_seconds / len(paths),
            "open_ms": 1000 * open_seconds,
            "threads": args.workers,
        },
        "file_megabytes": megabytes,
    }
    _show(results, args)
    return results


def _show(results: dict[str, Any], args: argparse.Namespace) -> None:
    """Prints the table and what the cache costs."""
    size = f"{args.width}x{args.height}, {results['file_megabytes']:.2f} MB each"
    print(f"{args.images} JPEGs of {size}, resized to {args.size} pixels")
    columns = ("milliseconds per image", "median", "min", "max")
    table = [[name, row["ms"], row["ms_min"], row["ms_max"]] for name, row in results["ms_per_image"].items()]
    report.show(f"loading an epoch's images: the cache is {results['speedup']:.0f} times as fast", columns, table)
    cache = results["cache"]
    build = f"{cache['build_ms_per_image']:.1f} ms per image with {cache['threads']} threads"
    print(f"building the cache, once: {build}; opening it: {cache['open_ms']:.0f} ms")


def draw_images(folder: Path, list_name: str, count: int, size: tuple[int, int]) -> float:
    """Writes `count` JPEGs of `size` (width, height) and their list into `folder`, in the layout of melBin.

    Returns the mean size of the JPEGs in the folder, in megabytes.
    """
    (folder / "img").mkdir(parents=True, exist_ok=True)
    rng, lines = np.random.default_rng(0), []
    for number in range(count):
        small = Image.fromarray(np.round(255 * skin(rng, 512, number % 2)[0]).astype(np.uint8))
        large = np.asarray(small.resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
        noisy = large + rng.normal(0, NOISE, large.shape).astype(np.float32)
        name = f"{Path(list_name).stem}_{number:07d}.jpg"
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / "img" / name, quality=QUALITY)
        lines.append(f"{name},{number % 2}\n")
    (folder / list_name).write_text("".join(lines), encoding="utf-8")
    return sum(path.stat().st_size for path in (folder / "img").iterdir()) / count / 1e6


def _arguments() -> argparse.Namespace:
    parser = report.new_parser(__doc__)
    parser.add_argument("--images", type=int, default=12, help="JPEGs to generate; the plain epoch decodes all of them")
    parser.add_argument("--width", type=int, default=3000, help="width of the JPEGs in pixels")
    parser.add_argument("--height", type=int, default=2000, help="height of the JPEGs in pixels")
    parser.add_argument("--size", type=int, default=224, help="side of the network's input in pixels")
    parser.add_argument("--draws", type=int, default=960, help="images in an epoch from the cache: the JPEGs, repeated")
    parser.add_argument("--bs", type=int, default=32, help="batch size")
    parser.add_argument("--workers", type=int, default=1, help="threads that build the cache")
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds")
    return report.parse(parser)


if __name__ == "__main__":
    main()
