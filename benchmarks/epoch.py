"""One PGD-AT epoch of ISIC's size with its validation: ours against the plain loop, and where ours spends its time.

    python -m benchmarks.epoch --model res18 --size 224 --device cuda --precision tf32 bf16

Both sides read the same generated JPEGs of 3000x2000, over and over up to the number of images asked for. `whole` is an
epoch's training and its validation, a clean pass and PGD-20: ours from the cache, the plain loop decoding with worker
processes as it goes; plain stays in float32 (tf32 on CUDA). Both take the same time for each image, so that a part of
the epoch (--images, --testImages) tells the ratio. What building the cache takes, once: `benchmarks.data`.

`loader`, `attack` and `update` are one epoch of ours with the device waited for after each, and `epoch` the product's
own loop, which waits for nothing. The share that waits for data is the loader's of the three.
"""

from __future__ import annotations

import argparse
import copy
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from advmia.attacks.gradient import pgd
from advmia.budgets import EVALUATION_STEPS, TRAINING_STEPS, pgd_budget, training_budget
from advmia.data.loading import EvaluationLoader, TrainingLoader, load_data
from advmia.data.readers import SampleList, read_samples
from advmia.data.specs import DATASETS
from advmia.evaluation.loop import EvaluationOptions, evaluate
from advmia.runtime.precision import Precision
from advmia.runtime.rng import SampleRng
from advmia.tasks import SINGLE_LABEL
from advmia.training.loop import LossOf, Position, train_one_epoch
from advmia.training.methods import PGDAT, training_copy
from benchmarks import plain, subjects, timing
from benchmarks.data import draw

DATASET = "melBin"
EPS = 8.0
LR = 1e-3
DISTINCT = 12  # JPEGs that are drawn of either list
# GFLOP of a forward pass (a multiplication and an addition are two) by side of the image; others go by the area.
GFLOP = {"res18": {224: 54.4, 299: 98.1}, "mv2": {224: 8.9, 299: 16.1}}
# Forward passes' worth of work an image: a gradient by the input costs one, by the parameters another.
TRAINING_WORK = 2 * TRAINING_STEPS + 3
VALIDATION_WORK = 1 + 2 * EVALUATION_STEPS + 1


def main() -> None:
    args = _arguments()
    device, results = torch.device(args.device), []
    with tempfile.TemporaryDirectory() as folder:
        root, spec = Path(folder), DATASETS[DATASET].at_size(args.size)
        for file, count in ((spec.train_list, args.images), (spec.test_list, args.testImages)):
            draw(root / spec.folder, file, min(count, DISTINCT), args.width, args.height)
        lists = (read_samples(spec, root, "train"), read_samples(spec, root, "test", classes=2))
        for asked in args.precision:
            precision = Precision.choose(asked, device)
            found = _measure(root, lists, precision, args)
            results.append({"model": args.model, "size": args.size, "batch_size": args.bs, **found})
            timing.write(args, "epoch", {"images": args.images, "test_images": args.testImages, "results": results})


def _measure(
    root: Path, lists: tuple[SampleList, SampleList], precision: Precision, args: argparse.Namespace
) -> dict[str, Any]:
    device = torch.device(args.device)
    model = subjects.network(args.model, lists[0].spec, 2, device)
    ours, theirs = _Ours(copy.deepcopy(model), root, lists, precision, args), _Plain(model, lists, args)
    both = {"plain": theirs.whole, timing.OURS: ours.whole}
    for side in (ours, theirs):
        side.warm_up()
    rows = timing.alternate(both, device, repeats=args.repeats, warmup=0)
    rounds: dict[str, list[float]] = {name: [] for name in ("loader", "attack", "update", "validation", "epoch")}
    for _ in range(args.repeats):
        for name, taken in (ours.apart() | ours.together()).items():
            rounds[name].append(taken)
    seconds = {name: timing.spread("seconds", values) for name, values in rounds.items()}
    median = {name: value["seconds"] for name, value in seconds.items()}
    forward = _forward_flop(args.model, args.size)
    matrix = _matrix_flops(device, precision)
    found: dict[str, Any] = {
        "precision": precision.name,
        "whole": rows,
        "seconds": seconds,
        "waiting_for_data": median["loader"] / (median["loader"] + median["attack"] + median["update"]),
        "matrix_product_flops": matrix,
    }
    if forward is not None:
        work = {"epoch": TRAINING_WORK * args.images, "validation": VALIDATION_WORK * args.testImages}
        flops = {name: forward * work[name] / median[name] for name in work}
        found |= {"flops": flops, "share_of_peak": {name: value / matrix for name, value in flops.items()}}
    _show(found, args)
    return found


class _Plain:
    """The published loop: every image decoded every time, by worker processes."""

    def __init__(self, model: nn.Module, lists: tuple[SampleList, SampleList], args: argparse.Namespace) -> None:
        self.model, self.device, self.args = subjects.as_published(model), torch.device(args.device), args
        self.optimizer = SINGLE_LABEL.optimizer(model.parameters(), LR, 1e-3)
        budget = training_budget(EPS)
        self.loss = plain.step_losses(budget, 0.0, model)["pgdat"]
        self.attack = partial(plain.pgd, budget=pgd_budget(EPS))
        self.train, self.test = (
            self._images(samples, count, rotation)
            for samples, count, rotation in zip(
                lists, (args.images, args.testImages), (lists[0].spec.augmentation.rotation, None), strict=True
            )
        )

    def _images(self, samples: SampleList, count: int, rotation: float | None) -> plain.DecodedImages:
        spec, places = samples.spec, [place % len(samples) for place in range(count)]
        paths = [samples.folder / spec.image_folder / samples.files[place] for place in places]
        return plain.DecodedImages(paths, samples.labels[places].tolist(), spec.resize, spec.size, rotation)

    def _batches(self, images: plain.DecodedImages) -> DataLoader[Any]:
        workers = min(self.args.workers, -(-len(images) // self.args.bs))
        return DataLoader(images, self.args.bs, num_workers=workers, pin_memory=self.device.type == "cuda")

    def warm_up(self) -> None:
        batch = next(iter(DataLoader(self.train, self.args.bs)))
        plain.train_epoch(self.model, self.optimizer, self.loss, [batch], self.device)

    def whole(self) -> None:
        plain.train_epoch(self.model, self.optimizer, self.loss, self._batches(self.train), self.device)
        plain.validate(self.model, self.attack, self._batches(self.test), self.device)


class _Ours:
    """What `advmia.commands.train` runs for an epoch: whole, or step by step with the device waited for."""

    def __init__(
        self,
        model: nn.Module,
        root: Path,
        lists: tuple[SampleList, SampleList],
        precision: Precision,
        args: argparse.Namespace,
    ) -> None:
        self.model, self.task, self.precision, self.device = model, SINGLE_LABEL, precision, torch.device(args.device)
        counts = (args.images, args.testImages)
        train, test = (
            subjects.repeated(load_data(root, samples, workers=args.workers), count).preload(self.device)
            for samples, count in zip(lists, counts, strict=True)
        )
        self.loader: TrainingLoader = subjects.training_loader(train, self.task, args.bs, self.device)
        self.test_loader = EvaluationLoader(test, args.bs, self.device)
        self.budget, self.number = training_budget(EPS), 0
        self.optimizer = self.task.optimizer(model.parameters(), LR, 1e-3)
        self.schedule = self.task.schedule(self.optimizer, LR, 1_000_000)

    def warm_up(self) -> None:
        """Two batches: libraries choose their algorithms, and the copy for attacks is made."""
        self.apart(batches=2)

    def whole(self) -> None:
        self._train()
        self._validate()

    def together(self) -> dict[str, float]:
        return {
            "epoch": timing.seconds_of(self._train, self.device),
            "validation": timing.seconds_of(self._validate, self.device),
        }

    def apart(self, batches: int | None = None) -> dict[str, float]:
        """Seconds of loader, attack and update: the two lines of `PGDAT` and those of `train_one_epoch`."""
        self.number += 1
        self.model.train()
        totals = dict.fromkeys(("loader", "attack", "update"), 0.0)
        source, attack = self.loader.epoch(self.number), pgd(self.budget, self.task.objective)
        for _ in range(batches or len(self.loader)):
            found: dict[str, Any] = {}

            def load(found: dict[str, Any] = found) -> None:
                found["batch"] = next(source, None)

            def make(found: dict[str, Any] = found) -> None:
                batch = found["batch"]
                rng = SampleRng.of(0, "train", self.number, samples=batch.index.tolist(), device=self.device)
                with self.precision.autocast(self.device):
                    found["x_adv"] = attack(training_copy(self.model, batch.x), batch.x, batch.y, rng=rng)

            def update(found: dict[str, Any] = found) -> None:
                with self.precision.autocast(self.device):
                    loss = self.task.criterion(self.model(found["x_adv"]), found["batch"].y)
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                self.optimizer.step()
                self.schedule.step()

            totals["loader"] += timing.seconds_of(load, self.device)
            if found["batch"] is None:
                break
            totals["attack"] += timing.seconds_of(make, self.device)
            totals["update"] += timing.seconds_of(update, self.device)
        return totals

    def _train(self) -> None:
        self.number += 1
        train_one_epoch(
            LossOf(self.model, PGDAT(self.task.objective, self.budget)),
            self.loader,
            self.optimizer,
            self.schedule,
            Position(self.number),
            epochs=self.number,
            precision=self.precision,
        )

    def _validate(self) -> None:
        attack = pgd(pgd_budget(EPS), self.task.attacks["pgd"])
        for each in (None, attack):
            options = EvaluationOptions((0, "validation", EPS), precision=self.precision)
            evaluate(self.model, self.test_loader, self.task, each, options=options)


def _forward_flop(model: str, size: int) -> float | None:
    """Of one image."""
    known = GFLOP.get(model)
    if known is None:
        return None
    nearest = min(known, key=lambda side: abs(side - size))
    return known[nearest] * 1e9 * (size / nearest) ** 2


def _matrix_flops(device: torch.device, precision: Precision) -> float:
    """Operations a second of a large matrix product in this precision: the best of five."""
    side = 8192 if device.type == "cuda" else 1024
    kind = torch.bfloat16 if precision.name == "bf16" else torch.float32
    a, b = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
    seconds = [timing.seconds_of(lambda: a @ b, device) for _ in range(7)][2:]
    return 2 * side**3 / min(seconds)


def _show(found: dict[str, Any], args: argparse.Namespace) -> None:
    title = (
        f"{args.model} at {args.size}, {args.images} + {args.testImages} images, batch {args.bs}, {found['precision']}"
    )
    rows = [timing.timing_row(f"whole, {name}", row) for name, row in found["whole"].items()]
    timing.show(f"{title}; {args.workers} workers decode", timing.TIMING_COLUMNS, rows)
    timing.show(
        "where ours goes",
        ("seconds", "median", "min", "max"),
        [[name, *values.values()] for name, values in found["seconds"].items()],
    )
    print(f"waiting for data: {100 * found['waiting_for_data']:.2f} % of the epoch")
    print(f"matrix product: {found['matrix_product_flops'] / 1e12:.3g} TFLOP/s")
    for name, value in found.get("flops", {}).items():
        print(f"{name}: {value / 1e12:.3g} TFLOP/s, {100 * found['share_of_peak'][name]:.1f} % of that")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="res18", choices=SINGLE_LABEL.models)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, default=2000, help="of an epoch; 2,000 and 600 are ISIC-2017's")
    parser.add_argument("--testImages", type=int, default=600)
    parser.add_argument("--width", type=int, default=3000, help="of the JPEGs")
    parser.add_argument("--height", type=int, default=2000)
    parser.add_argument("--bs", type=int, default=32)
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1), help="processes that decode")
    parser.add_argument("--repeats", type=int, default=3, help="timed rounds")
    timing.precision_flag(parser)
    return timing.common_flags(parser).parse_args()


if __name__ == "__main__":
    main()
