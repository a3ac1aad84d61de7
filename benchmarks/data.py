"""What the images cost an epoch: the cache and its loader against decoding every image in every epoch.

    python -m benchmarks.data

Both read generated JPEGs of the size of ISIC's, in the product's layout (data set melBin), and both have one core: more
divide either's time by their number at best. With --device cuda, ours is turned on the GPU instead.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from advmia.data.loading import load_data
from advmia.data.phantom_images import skin
from advmia.data.readers import read_samples
from advmia.data.specs import DATASETS
from advmia.tasks import SINGLE_LABEL
from benchmarks import plain, subjects, timing

DATASET = "melBin"
NOISE = 2.5  # grey levels: what makes files as large as photographs' are
QUALITY = 90


def main() -> None:
    args = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        timing.write(args, "data", _measure(args, Path(folder)))


def _measure(args: argparse.Namespace, root: Path) -> dict[str, object]:
    device, spec = torch.device(args.device), DATASETS[DATASET].at_size(args.size)
    torch.set_num_threads(1)
    megabytes = draw(root / spec.folder, "trainbin.csv", args.images, args.width, args.height)
    samples = read_samples(spec, root, "train")
    paths = [samples.folder / spec.image_folder / name for name in samples.files]
    found = []
    building = timing.seconds_of(lambda: found.append(load_data(root, samples, workers=args.workers)), device)
    opening = timing.seconds_of(lambda: load_data(root, samples, workers=args.workers), device)
    data = subjects.repeated(found[0], args.draws).preload(device)
    loader = subjects.training_loader(data, SINGLE_LABEL, args.bs, device)
    epochs = iter(range(1, 1_000_000))

    images = plain.DecodedImages(paths, [0] * len(paths), spec.resize, spec.size, spec.augmentation.rotation)

    def decoded() -> None:
        for x, _ in DataLoader(images, args.bs):
            x.to(device)

    def cached() -> None:
        for _ in loader.epoch(next(epochs)):
            pass

    timings = timing.alternate({"decoded": decoded, "cached": cached}, device, repeats=args.repeats)
    counts = {"decoded": len(paths), "cached": len(data)}
    rows = {
        name: timing.spread(
            "ms", [1000 * timings[name][key] / count for key in ("seconds_min", "seconds", "seconds_max")]
        )
        for name, count in counts.items()
    }
    speedup = rows["decoded"]["ms"] / rows["cached"]["ms"]
    print(f"{args.images} JPEGs of {args.width}x{args.height}, {megabytes:.2f} MB each, to {spec.size} pixels")
    columns = ("milliseconds an image", "median", "min", "max")
    table = [[name, row["ms"], row["ms_min"], row["ms_max"]] for name, row in rows.items()]
    first = 1000 * building / len(paths)
    timing.show(f"an epoch's data: {speedup:.0f} times as fast", columns, table)
    print(
        f"once: {first:.1f} ms an image to build the cache with {args.workers} threads; {1000 * opening:.0f} ms to open"
    )
    return {
        "ms_per_image": rows,
        "images_per_epoch": counts,
        "speedup": speedup,
        "cache": {"build_ms_per_image": first, "open_ms": 1000 * opening, "threads": args.workers},
        "file_megabytes": megabytes,
    }


def draw(folder: Path, file: str, count: int, width: int, height: int) -> float:
    """JPEGs and a list of them in the layout of melBin; returns the megabytes of one."""
    (folder / "img").mkdir(parents=True, exist_ok=True)
    rng, rows = np.random.default_rng(0), []
    for number in range(count):
        small = Image.fromarray(np.round(255 * skin(rng, 512, number % 2)[0]).astype(np.uint8))
        large = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
        noisy = large + rng.normal(0, NOISE, large.shape).astype(np.float32)
        name = f"{Path(file).stem}_{number:07d}.jpg"
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / "img" / name, quality=QUALITY)
        rows.append(f"{name},{number % 2}\n")
    (folder / file).write_text("".join(rows), encoding="utf-8")
    return sum(path.stat().st_size for path in (folder / "img").iterdir()) / count / 1e6


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=12, help="JPEGs to generate; all are decoded in a plain epoch")
    parser.add_argument("--width", type=int, default=3000)
    parser.add_argument("--height", type=int, default=2000)
    parser.add_argument("--size", type=int, default=224, help="pixels that the network sees")
    parser.add_argument("--draws", type=int, default=960, help="images of an epoch from the cache: the same, repeated")
    parser.add_argument("--bs", type=int, default=32)
    parser.add_argument("--workers", type=int, default=1, help="threads that build the cache")
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds")
    return timing.common_flags(parser).parse_args()


if __name__ == "__main__":
    main()
