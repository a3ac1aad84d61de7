"""One PGD-AT epoch on phantoms in the survey's numbers: where its time goes, and how much of the device is used.

    python -m benchmarks.epoch --model res18 --size 299 --device cuda --precision tf32 bf16

`loader`, `attack` and `update` are one epoch with the device waited for after each; `validation` is a clean pass and
PGD-20. `epoch` is the product's own loop, which waits for nothing. The share that waits for data is the loader's of the
three.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from advmia.attacks.gradient import pgd
from advmia.budgets import EVALUATION_STEPS, TRAINING_STEPS, pgd_budget, training_budget
from advmia.data.loading import EvaluationLoader, TrainingLoader
from advmia.evaluation import evaluate
from advmia.inference import Blocks, inference_copy
from advmia.methods import PGDAT
from advmia.precision import Precision
from advmia.rng import SampleRng
from advmia.tasks import SEGMENTATION, SINGLE_LABEL, Task
from advmia.training import LossOf, Position, train_one_epoch
from benchmarks import subjects, timing

EPS = 8.0
LR = 1e-3
DISTINCT = 96  # images that are drawn; an epoch repeats them
# GFLOP of a forward pass (a multiplication and an addition are two) by side of the image; others go by the area.
GFLOP = {"res18": {224: 54.4, 299: 98.1}, "mv2": {224: 8.9, 299: 16.1}, "unet": {256: 96.3}}
# Forward passes' worth of work an image: a gradient by the input costs one, by the parameters another.
TRAINING_WORK = 2 * TRAINING_STEPS + 3
VALIDATION_WORK = 1 + 2 * EVALUATION_STEPS + 1


def main() -> None:
    args = _arguments()
    device, results = torch.device(args.device), []
    task = SEGMENTATION if args.model in SEGMENTATION.models else SINGLE_LABEL
    dataset = "mel" if task is SEGMENTATION else "mesidorBin"
    with tempfile.TemporaryDirectory() as folder:
        drawn = (min(args.images, DISTINCT), min(args.testImages, DISTINCT // 3))
        train, test = subjects.phantoms(Path(folder), dataset, args.size, *drawn)
        train, test = (
            subjects.repeated(train, args.images).kept_on(device),
            subjects.repeated(test, args.testImages).kept_on(device),
        )
        for asked in args.precision:
            precision = Precision.chosen(asked, device)
            model = subjects.network(args.model, train.samples.spec, train.samples.classes, device)
            loaders = (
                subjects.training_loader(train, task, args.bs, device),
                EvaluationLoader(test, args.bs, device),
            )
            found = _measure(model, task, loaders, precision, args)
            results.append({"model": args.model, "size": args.size, "batch_size": args.bs, **found})
            timing.write(args, "epoch", {"images": args.images, "test_images": args.testImages, "results": results})


def _measure(
    model: nn.Module,
    task: Task,
    loaders: tuple[TrainingLoader, EvaluationLoader],
    precision: Precision,
    args: argparse.Namespace,
) -> dict[str, Any]:
    device = loaders[0].device
    epoch = _Epoch(model, task, loaders, precision)
    epoch.warm_up()
    rounds: dict[str, list[float]] = {name: [] for name in ("loader", "attack", "update", "validation", "epoch")}
    with timing.peak_memory(device) as peak:
        for _ in range(args.repeats):
            for name, taken in (epoch.apart() | epoch.whole()).items():
                rounds[name].append(taken)
    seconds = {name: timing.spread("seconds", values) for name, values in rounds.items()}
    median = {name: value["seconds"] for name, value in seconds.items()}
    forward = _forward_flop(args.model, args.size)
    matrix = _matrix_flops(device, precision)
    found: dict[str, Any] = {
        "precision": precision.name,
        "seconds": seconds,
        "waiting_for_data": median["loader"] / (median["loader"] + median["attack"] + median["update"]),
        "matrix_product_flops": matrix,
        "peak_mib": peak[0] if peak else None,
    }
    if forward is not None:
        work = {"epoch": TRAINING_WORK * args.images, "validation": VALIDATION_WORK * args.testImages}
        flops = {name: forward * work[name] / median[name] for name in work}
        found |= {"flops": flops, "share_of_peak": {name: value / matrix for name, value in flops.items()}}
    _show(found, args)
    return found


class _Epoch:
    """What `advmia.commands.train` runs for an epoch: whole, or step by step with the device waited for."""

    def __init__(
        self, model: nn.Module, task: Task, loaders: tuple[TrainingLoader, EvaluationLoader], precision: Precision
    ) -> None:
        self.model, self.task, self.precision = model, task, precision
        self.loader, self.test_loader = loaders
        self.device, self.number = self.loader.device, 0
        self.budget = training_budget(EPS)
        self.optimizer = task.optimizer(model.parameters(), LR, 1e-3)
        self.schedule = task.schedule(self.optimizer, LR, 1_000_000)

    def warm_up(self) -> None:
        """Two batches: libraries choose their algorithms, and the copy for attacks is made."""
        self.apart(batches=2)

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
                with self.precision.networks(self.device):
                    found["x_adv"] = attack(Blocks(inference_copy(self.model, batch.x)), batch.x, batch.y, rng=rng)

            def update(found: dict[str, Any] = found) -> None:
                with self.precision.networks(self.device):
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

    def whole(self) -> dict[str, float]:
        self.number += 1
        method = PGDAT(self.task.objective, self.budget)
        number = self.number

        def train() -> None:
            train_one_epoch(
                LossOf(self.model, method),
                self.loader,
                self.optimizer,
                self.schedule,
                Position(number),
                epochs=number,
                precision=self.precision,
            )

        def validate() -> None:
            attack = pgd(pgd_budget(EPS), self.task.attacks["pgd"])
            for each in (None, attack):
                scope = (0, "validation", EPS)
                evaluate(self.model, self.test_loader, self.task, each, scope=scope, precision=self.precision)

        return {
            "epoch": timing.seconds_of(train, self.device),
            "validation": timing.seconds_of(validate, self.device),
        }


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
    rows = [[name, *values.values()] for name, values in found["seconds"].items()]
    timing.show(title, ("seconds", "median", "min", "max"), rows)
    print(f"waiting for data: {100 * found['waiting_for_data']:.2f} % of the epoch")
    print(f"matrix product: {found['matrix_product_flops'] / 1e12:.3g} TFLOP/s")
    for name, value in found.get("flops", {}).items():
        print(f"{name}: {value / 1e12:.3g} TFLOP/s, {100 * found['share_of_peak'][name]:.1f} % of that")
    if found["peak_mib"] is not None:
        print(f"peak memory: {found['peak_mib']:.0f} MiB")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="res18", choices=[*SINGLE_LABEL.models, *SEGMENTATION.models])
    parser.add_argument("--size", type=int, default=299)
    parser.add_argument("--images", type=int, default=960, help="of an epoch; 960 and 240 are Messidor's")
    parser.add_argument("--testImages", type=int, default=240)
    parser.add_argument("--bs", type=int, default=32)
    timing.precision_flag(parser)
    return timing.common_flags(parser, repeats=3).parse_args()


if __name__ == "__main__":
    main()
