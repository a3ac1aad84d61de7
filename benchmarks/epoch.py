"""Times an epoch of PGD-AT with its validation, by our loop and the plain one, and shows where ours spends its time.

    python -m benchmarks.epoch --model res18 --size 224 --device cuda --precision tf32 bf16

Both loops read the same generated JPEGs of 3000x2000 pixels, repeated up to the number of images. `whole` is the
training epoch and its validation, clean and under PGD-20. Our loop reads from the cache; the plain loop decodes in
worker processes, and stays in fp32 (tf32 on CUDA). The time of both grows with the number of images, so the ratio can
be measured on a part of an epoch (--images, --testImages). Building the cache is not included;
`python -m benchmarks.data` measures it.

`loader`, `attack` and `update` are the parts of one of our epochs; the device is idle before and after each. `epoch` is
our loop as it is, which does not wait for the device between the parts. `waiting_for_data` is the loader's share of
the three parts.
"""

from __future__ import annotations

import argparse
import copy
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from advmia.attacks.gradient import pgd
from advmia.budgets import EVALUATION_STEPS, TRAINING_STEPS, pgd_budget, training_budget
from advmia.data.datasets import DATASETS
from advmia.data.loading import Batch, EvaluationLoader, load_data
from advmia.data.readers import SampleList, read_samples
from advmia.evaluation.loop import EvaluationOptions, evaluate
from advmia.runtime.precision import Precision
from advmia.runtime.rng import SampleRng
from advmia.tasks import SINGLE_LABEL
from advmia.training.loop import Position, Training, train_one_epoch
from advmia.training.methods import PGDAT, training_copy
from benchmarks import plain, report, subjects, timing
from benchmarks.data import draw_images

DATASET = "melBin"
GREY_EPS = 8.0
LR = 1e-3
DISTINCT = 12  # different JPEGs for training, and as many for testing
# GFLOP of one image's forward pass (a multiplication and an addition count as two), by network and side of the image.
# For other sizes, it is scaled by the area.
GFLOP = {"res18": {224: 54.4, 299: 98.1}, "mv2": {224: 8.9, 299: 16.1}, "wrn": {224: 513.8, 299: 919.7}}
# The work for one image, counted in forward passes: a gradient with respect to the input costs one, and a gradient with
# respect to the parameters one more.
TRAINING_WORK = 2 * TRAINING_STEPS + 3
VALIDATION_WORK = 1 + 2 * EVALUATION_STEPS + 1


@dataclass(frozen=True)
class Inputs:
    """The lists of JPEGs, the folder that they are in, and the flags."""

    root: Path
    train: SampleList
    test: SampleList
    args: argparse.Namespace

    @property
    def device(self) -> torch.device:
        return torch.device(self.args.device)


def main() -> None:
    args = _arguments()
    device, results = torch.device(args.device), []
    with tempfile.TemporaryDirectory() as folder:
        root, spec = Path(folder), DATASETS[DATASET].at_size(args.size)
        for list_name, count in ((spec.train_list, args.images), (spec.test_list, args.testImages)):
            draw_images(root / spec.folder, list_name, min(count, DISTINCT), (args.width, args.height))
        inputs = Inputs(root, read_samples(spec, root, "train"), read_samples(spec, root, "test", classes=2), args)
        for requested in args.precision:
            timings = _measure(inputs, Precision.choose(requested, device))
            results.append({"model": args.model, "size": args.size, "batch_size": args.bs, **timings})
            report.write(args, "epoch", {"images": args.images, "test_images": args.testImages, "results": results})


def _measure(inputs: Inputs, precision: Precision) -> dict[str, Any]:
    """Times both loops in one precision and prints the tables; returns the results for the JSON file."""
    args, device = inputs.args, inputs.device
    model = subjects.network(args.model, inputs.train.spec, 2, device)
    ours, plain_loop = _Ours(copy.deepcopy(model), inputs, precision), _Plain(model, inputs)
    ours.warm_up()
    plain_loop.warm_up()
    rows = timing.alternate({"plain": plain_loop.run, timing.OURS: ours.run}, device, repeats=args.repeats, warmup=0)
    rounds: dict[str, list[float]] = {name: [] for name in ("loader", "attack", "update", "validation", "epoch")}
    for _ in range(args.repeats):
        for name, value in (ours.time_parts() | ours.time_loops()).items():
            rounds[name].append(value)
    seconds = {name: timing.spread("seconds", values) for name, values in rounds.items()}
    median = {name: value["seconds"] for name, value in seconds.items()}
    matrix = _matrix_flops(device, precision)
    results: dict[str, Any] = {
        "precision": precision.name,
        "whole": rows,
        "seconds": seconds,
        "waiting_for_data": median["loader"] / (median["loader"] + median["attack"] + median["update"]),
        "matrix_product_flops": matrix,
    }
    forward = _forward_flop(args.model, args.size)
    if forward is not None:
        work = {"epoch": TRAINING_WORK * args.images, "validation": VALIDATION_WORK * args.testImages}
        flops = {name: forward * work[name] / median[name] for name in work}
        results |= {"flops": flops, "share_of_peak": {name: value / matrix for name, value in flops.items()}}
    _show(results, args)
    return results


class _Plain:
    """The loop of the published code: worker processes decode every image in every epoch."""

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        self.model, self.device, self.args = subjects.as_published(model), inputs.device, inputs.args
        self.optimizer = SINGLE_LABEL.optimizer(model.parameters(), LR, 1e-3)
        self.loss = plain.step_losses(training_budget(GREY_EPS), 0.0, model)["pgdat"]
        self.attack = partial(plain.pgd, budget=pgd_budget(GREY_EPS))
        self.train = _decoded(inputs.train, self.args.images, inputs.train.spec.augmentation.rotation)
        self.test = _decoded(inputs.test, self.args.testImages, None)

    def warm_up(self) -> None:
        """Trains on one batch, so that libraries choose their algorithms."""
        batch = next(iter(DataLoader(self.train, self.args.bs)))
        plain.train_epoch(self.model, self.optimizer, self.loss, [batch], self.device)

    def run(self) -> None:
        """Trains for an epoch and validates."""
        plain.train_epoch(self.model, self.optimizer, self.loss, self._batches(self.train), self.device)
        plain.validate(self.model, self.attack, self._batches(self.test), self.device)

    def _batches(self, images: plain.DecodedImages) -> DataLoader[Any]:
        workers = min(self.args.workers, -(-len(images) // self.args.bs))
        return DataLoader(images, self.args.bs, num_workers=workers, pin_memory=self.device.type == "cuda")


def _decoded(samples: SampleList, count: int, rotation: float | None) -> plain.DecodedImages:
    """Returns `count` images of the list, repeated, that are decoded each time; `rotation`: see `DecodedImages`."""
    spec, indices = samples.spec, [index % len(samples) for index in range(count)]
    paths = [samples.folder / spec.image_folder / samples.files[index] for index in indices]
    return plain.DecodedImages(paths, samples.labels[indices].tolist(), spec.resize, spec.size, rotation)


class _Ours:
    """An epoch of `advmia.commands.training`: as it is, or part by part."""

    def __init__(self, model: nn.Module, inputs: Inputs, precision: Precision) -> None:
        self.model, self.task, self.precision, self.device = model, SINGLE_LABEL, precision, inputs.device
        args = inputs.args
        train, test = (
            subjects.repeated(load_data(inputs.root, samples, workers=args.workers), count).preload(self.device)
            for samples, count in ((inputs.train, args.images), (inputs.test, args.testImages))
        )
        self.loader = subjects.training_loader(train, self.task, args.bs, self.device)
        self.test_loader = EvaluationLoader(test, args.bs, self.device)
        self.budget, self.epoch = training_budget(GREY_EPS), 0
        self.attack = pgd(self.budget, self.task.objective)
        self.optimizer = self.task.optimizer(model.parameters(), LR, 1e-3)
        self.schedule = self.task.schedule(self.optimizer, LR, 1_000_000)

    def warm_up(self) -> None:
        """Trains on two batches, so that libraries choose their algorithms and the copy for attacks is made."""
        self.time_parts(batches=2)

    def run(self) -> None:
        """Trains for an epoch and validates."""
        self._train()
        self._validate()

    def time_loops(self) -> dict[str, float]:
        """Returns the seconds of an epoch and of its validation."""
        return {
            "epoch": timing.seconds_of(self._train, self.device),
            "validation": timing.seconds_of(self._validate, self.device),
        }

    def time_parts(self, batches: int | None = None) -> dict[str, float]:
        """Returns the seconds of loader, attack and update in an epoch, or in its first `batches`.

        The parts are those of `PGDAT` and `train_one_epoch`.
        """
        self.epoch += 1
        self.model.train()
        seconds = dict.fromkeys(("loader", "attack", "update"), 0.0)
        loader = self.loader.epoch(self.epoch)
        for _ in range(batches or len(self.loader)):
            results: list[Any] = []
            seconds["loader"] += timing.seconds_of(partial(_load, loader, results), self.device)
            if (batch := results.pop()) is None:
                break
            seconds["attack"] += timing.seconds_of(partial(self._attack, batch, results), self.device)
            seconds["update"] += timing.seconds_of(partial(self._update, batch, results.pop()), self.device)
        return seconds

    def _attack(self, batch: Batch, results: list[Any]) -> None:
        """Appends the adversarial images of a batch to `results`."""
        rng = SampleRng.of(0, "train", self.epoch, samples=batch.index.tolist(), device=self.device)
        with self.precision.autocast(self.device):
            results.append(self.attack(training_copy(self.model, batch.x), batch.x, batch.y, rng=rng))

    def _update(self, batch: Batch, x_adv: torch.Tensor) -> None:
        with self.precision.autocast(self.device):
            loss = self.task.criterion(self.model(x_adv), batch.y)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.schedule.step()

    def _train(self) -> None:
        self.epoch += 1
        method = PGDAT(self.task.objective, self.budget)
        training = Training(self.model, method, self.loader, self.optimizer, self.schedule, self.epoch, self.precision)
        train_one_epoch(training, Position(self.epoch))

    def _validate(self) -> None:
        options = EvaluationOptions((0, "validation", GREY_EPS), precision=self.precision)
        for attack in (None, pgd(pgd_budget(GREY_EPS), self.task.attacks["pgd"])):
            evaluate(self.model, self.test_loader, self.task, attack, options=options)


def _load(loader: Iterator[Batch], results: list[Any]) -> None:
    """Appends the loader's next batch to `results`, or None after the last."""
    results.append(next(loader, None))


def _forward_flop(model: str, size: int) -> float | None:
    """Returns the floating-point operations of one image's forward pass, or None for a network not in `GFLOP`."""
    by_side = GFLOP.get(model)
    if by_side is None:
        return None
    nearest = min(by_side, key=lambda side: abs(side - size))
    return by_side[nearest] * 1e9 * (size / nearest) ** 2


def _matrix_flops(device: torch.device, precision: Precision) -> float:
    """Returns the floating-point operations per second of a large matrix product: the best of five."""
    side = 8192 if device.type == "cuda" else 1024
    dtype = torch.bfloat16 if precision.name == "bf16" else torch.float32
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    seconds = [timing.seconds_of(lambda: a @ b, device) for _ in range(7)][2:]
    return 2 * side**3 / min(seconds)


def _show(results: dict[str, Any], args: argparse.Namespace) -> None:
    """Prints the tables of one precision."""
    images = f"{args.images} + {args.testImages} images, batch size {args.bs}, {results['precision']}"
    rows = [report.timing_row(f"whole, {name}", row) for name, row in results["whole"].items()]
    title = f"{args.model} at {args.size} pixels, {images}; {args.workers} workers decode"
    report.show(title, report.TIMING_COLUMNS, rows)
    parts = [[name, *values.values()] for name, values in results["seconds"].items()]
    report.show("where ours spends its time", ("seconds", "median", "min", "max"), parts)
    print(f"waiting for data: {100 * results['waiting_for_data']:.2f} % of the epoch")
    print(f"matrix product: {results['matrix_product_flops'] / 1e12:.3g} TFLOP/s")
    for name, value in results.get("flops", {}).items():
        share = 100 * results["share_of_peak"][name]
        print(f"{name}: {value / 1e12:.3g} TFLOP/s, {share:.1f} % of the matrix product")


def _arguments() -> argparse.Namespace:
    parser = report.new_parser(__doc__)
    parser.add_argument("--model", default="res18", choices=SINGLE_LABEL.models, help="network")
    parser.add_argument("--size", type=int, default=224, help="side of the network's input in pixels")
    parser.add_argument(
        "--images", type=int, default=2000, help="training images in an epoch; ISIC 2017 has 2,000, and 600 test images"
    )
    parser.add_argument("--testImages", type=int, default=600, help="images in the validation")
    parser.add_argument("--width", type=int, default=3000, help="width of the JPEGs in pixels")
    parser.add_argument("--height", type=int, default=2000, help="height of the JPEGs in pixels")
    parser.add_argument("--bs", type=int, default=32, help="batch size")
    workers = min(8, os.cpu_count() or 1)
    parser.add_argument("--workers", type=int, default=workers, help="worker processes that decode for the plain loop")
    parser.add_argument("--repeats", type=int, default=3, help="timed rounds")
    report.add_precisions(parser)
    return report.parse(parser)


if __name__ == "__main__":
    main()
