"""Checks that our faster code is as strong: our attack against the plain one, and trainings in several precisions.

    python -m benchmarks.strength --precision fp32 bf16
    python -m benchmarks.strength --train --precision fp32 bf16

The first command trains a network briefly on phantoms, naturally or with PGD-AT, and attacks it with PGD-20, plain and
ours, from the random starts of several seeds. It counts the images that are still classified correctly, and shows how
much the counts differ between seeds and how far our mean is above the plain one. The second command trains a network
with each method, precision and seed, and compares their robust accuracies. Images are scored on the network itself, not
on the faster copy that our attacks use.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advmia.attacks.gradient import pgd
from advmia.budgets import pgd_budget
from advmia.cli.parser import grey_level
from advmia.data.loading import EvaluationLoader, ImageData
from advmia.evaluation.loop import EvaluationOptions, evaluate
from advmia.losses import cross_entropy
from advmia.runtime.precision import Precision
from advmia.tasks import SINGLE_LABEL
from benchmarks import plain, report, subjects

DATASET = "melBin"
ALLOWED_SHARE = 1 / 128  # share of the images by which our mean may be above the plain one


def main() -> None:
    args = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        train, test = subjects.phantoms(Path(folder), DATASET, args.size, args.trainImages, args.images)
        (_compare_trainings if args.train else _compare_attacks)(args, train, test)


# --- attacks ---------------------------------------------------------------------------------------------------------


def _compare_attacks(args: argparse.Namespace, train: ImageData, test: ImageData) -> None:
    """Attacks a network with plain PGD and, in each precision, with ours; writes how many remain correct."""
    device, images = torch.device(args.device), len(test)
    Precision.choose("fp32", device)
    method = subjects.method("pgdat" if args.trainEps else "nat", SINGLE_LABEL, args.trainEps, DATASET)
    model = subjects.ShortTraining(args.model, args.trainEpochs, args.lr).run(train, method, device)
    clean = evaluate(model, EvaluationLoader(test, args.bs, device), SINGLE_LABEL).outcomes
    clean_right = int((clean == test.targets(test.indices)).sum())
    description = f"{args.model}, {images} phantoms of {args.size} pixels, {clean_right} correctly classified if clean"
    print(f"{description}; PGD-20 at eps {args.eps:g}")
    baseline = [_plain_outcomes(model, test, args, seed) for seed in range(args.seeds)]
    results = {"plain": _agreement(baseline, baseline)}
    for name in args.precision:
        precision = Precision.choose(name, device)
        outcomes = [_our_outcomes(model, test, args, seed, precision) for seed in range(args.seeds)]
        results[f"ours, {precision.name}"] = _agreement(outcomes, baseline)
        report.write(args, "strength", {"images": images, "clean_right": clean_right, "results": results})
    columns = ("attack", *(f"seed {seed}" for seed in range(args.seeds)), "mean", "spread", "above plain")
    table = [[name, *row["right"], row["mean"], row["spread"], row["above_plain"]] for name, row in results.items()]
    title = f"images classified correctly under attack; our mean may be {ALLOWED_SHARE * images:g} above the plain one"
    report.show(title, columns, table)


def _agreement(outcomes: list[Tensor], baseline: list[Tensor]) -> dict[str, Any]:
    """Compares an attack with the plain one. Each argument lists, for each seed, which images are correct: (N,) bool.

    A weaker attack leaves more images correct. Means are compared, because the extremes of several seeds differ by
    chance, even between equal attacks. `outcomes_differ` is the largest number of images, over the seeds, on which the
    two attacks differ; between equal attacks it is as large as between two seeds of one attack.
    """
    counts, expected = ([int(correct.sum()) for correct in seeds] for seeds in (outcomes, baseline))
    return {
        "right": counts,
        "mean": statistics.mean(counts),
        "spread": max(counts) - min(counts),
        "deviation": statistics.stdev(counts) if len(counts) > 1 else 0.0,
        "above_plain": statistics.mean(counts) - statistics.mean(expected),
        "outcomes_differ": max(int((a != b).sum()) for a, b in zip(outcomes, baseline, strict=True)),
    }


def _plain_outcomes(model: nn.Module, data: ImageData, args: argparse.Namespace, seed: int) -> Tensor:
    """Returns which images are classified correctly under plain PGD-20: (N,) bool, on the CPU."""
    torch.manual_seed(seed)
    x, y = subjects.all_images(data, torch.device(args.device))
    attack = partial(plain.pgd, budget=pgd_budget(args.eps))
    return plain.robust_images(subjects.as_published(copy.deepcopy(model)), x, y, attack, args.bs).cpu()


def _our_outcomes(
    model: nn.Module, data: ImageData, args: argparse.Namespace, seed: int, precision: Precision
) -> Tensor:
    """Returns which images are classified correctly under our PGD-20: (N,) bool, on the CPU."""
    attack = pgd(pgd_budget(args.eps), cross_entropy)
    loader = EvaluationLoader(data, args.bs, torch.device(args.device))
    options = EvaluationOptions((seed, "pgd", args.eps), precision=precision)
    evaluation = evaluate(model, loader, SINGLE_LABEL, attack, options=options)
    return evaluation.outcomes == data.targets(data.indices)


# --- trainings -------------------------------------------------------------------------------------------------------


def _compare_trainings(args: argparse.Namespace, train: ImageData, test: ImageData) -> None:
    """Trains with each method, precision and seed; prints and writes the clean and robust accuracies."""
    device = torch.device(args.device)
    results: list[dict[str, Any]] = []
    for name in args.methods:
        helpers: dict[int, nn.Module] = {}
        for requested in args.precision:
            row: dict[str, Any] = {"method": name, "clean": [], "robust": []}
            results.append(row)
            for seed in range(args.seeds):
                training = subjects.ShortTraining(args.model, args.trainEpochs, args.lr, seed)
                Precision.choose("fp32", device)  # helpers are trained in fp32
                if name == "hat" and seed not in helpers:
                    helpers[seed] = training.run(train, subjects.method("nat", SINGLE_LABEL, 0, DATASET), device)
                method = subjects.method(name, SINGLE_LABEL, args.eps, DATASET, helpers.get(seed))
                precision = Precision.choose(requested, device)
                row["precision"] = precision.name
                model = replace(training, precision=precision).run(train, method, device)
                for kind, accuracy in _accuracies(model, test, args, device).items():
                    row[kind].append(accuracy)
                report.write(args, "strength --train", {"images": len(test), "results": results})
    kinds = ("clean", "robust")
    columns = ("accuracy, %", *(f"{kind} {seed}" for kind in kinds for seed in range(args.seeds)))
    table = [
        [f"{row['method']}, {row['precision']}", *(100 * accuracy for kind in kinds for accuracy in row[kind])]
        for row in results
    ]
    report.show(f"by seed; robust: under PGD-20 at eps {args.eps:g}; {len(test)} images", columns, table)


def _accuracies(model: nn.Module, data: ImageData, args: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """Returns the clean and the robust accuracy (under PGD-20), from 0 to 1, computed in fp32."""
    Precision.choose("fp32", device)
    loader = EvaluationLoader(data, args.bs, device)
    attack, options = pgd(pgd_budget(args.eps), cross_entropy), EvaluationOptions((0, "pgd", args.eps), "robust")
    robust = evaluate(model, loader, SINGLE_LABEL, attack, options=options)
    clean = evaluate(model, loader, SINGLE_LABEL)
    return {"clean": float(clean.scores["accuracy"]), "robust": float(robust.scores["accuracy"])}


def _arguments() -> argparse.Namespace:
    parser = report.new_parser(__doc__)
    parser.add_argument("--model", default="mv2", choices=SINGLE_LABEL.models, help="network")
    parser.add_argument("--size", type=int, default=32, help="side of the images in pixels")
    parser.add_argument("--images", type=int, default=512, help="test images, which are attacked")
    parser.add_argument("--bs", type=int, default=32, help="batch size of the evaluation")
    parser.add_argument(
        "--eps",
        type=grey_level,
        default=8.0,
        help="eps of the attack in grey levels; with --train, of the training too",
    )
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--trainImages", type=int, default=384, help="training images")
    parser.add_argument("--trainEpochs", type=int, default=4, help="epochs of each training")
    parser.add_argument(
        "--trainEps",
        type=grey_level,
        default=2.0,
        help="eps of PGD-AT in grey levels without --train; 0 trains naturally",
    )
    parser.add_argument("--lr", type=float, default=0.01, help="highest learning rate")
    parser.add_argument("--train", action="store_true", help="compare trainings, not attacks")
    methods = ["pgdat", "trades", "hat"]
    parser.add_argument("--methods", nargs="+", default=methods, help="methods to compare with --train")
    report.add_precisions(parser)
    return report.parse(parser)


if __name__ == "__main__":
    main()
