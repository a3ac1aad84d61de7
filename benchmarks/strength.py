"""Whether the fast attack is as strong as the plain one, and a training step in another precision as good.

    python -m benchmarks.strength --precision fp32 bf16
    python -m benchmarks.strength --train --precision fp32 bf16

The first trains a network briefly on phantoms and attacks it by PGD-20, plain and ours, from random starts of several
seeds: how many images stay right, how far seeds are apart, and how far ours is from plain. The second trains a network
for each method, precision and seed and compares robust accuracy. All is scored by the network itself.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advmia.attacks.gradient import pgd
from advmia.budgets import pgd_budget
from advmia.data.loading import EvaluationLoader, ImageData
from advmia.evaluation.loop import EvaluationOptions, evaluate
from advmia.losses import cross_entropy
from advmia.runtime.precision import Precision
from advmia.tasks import SINGLE_LABEL
from benchmarks import plain, subjects, timing

DATASET = "melBin"


def main() -> None:
    args = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        train, test = subjects.phantoms(Path(folder), DATASET, args.size, args.trainImages, args.images)
        (_compare_trainings if args.train else _compare_attacks)(args, train, test)


# --- attacks ---------------------------------------------------------------------------------------------------------


def _compare_attacks(args: argparse.Namespace, train: ImageData, test: ImageData) -> None:
    device = torch.device(args.device)
    Precision.choose("fp32", device)
    method = subjects.method("pgdat" if args.trainEps else "nat", SINGLE_LABEL, args.trainEps, DATASET)
    model = subjects.trained(args.model, train, SINGLE_LABEL, method, device, epochs=args.trainEpochs, lr=args.lr)
    clean = evaluate(model, EvaluationLoader(test, args.bs, device), SINGLE_LABEL).outcomes
    images, clean_right = len(test), int((clean == test.targets(test.indices)).sum())
    what = f"{args.model}, {images} phantoms of {args.size} pixels, {clean_right} right clean"
    print(f"{what}; PGD-20 at eps {args.eps:g}")
    baseline = [_plain_right(model, test, args, seed) for seed in range(args.seeds)]
    results = {"plain": _agreement(baseline, baseline)}
    for asked in args.precision:
        precision = Precision.choose(asked, device)
        found = [_our_right(model, test, args, seed, precision) for seed in range(args.seeds)]
        results[f"ours, {precision.name}"] = _agreement(found, baseline)
        timing.write(args, "strength", {"images": images, "clean_right": clean_right, "results": results})
    columns = ("right under attack", *(f"seed {seed}" for seed in range(args.seeds)), "mean", "spread", "above plain")
    table = [[name, *row["right"], row["mean"], row["spread"], row["above_plain"]] for name, row in results.items()]
    timing.show(f"images; the last: by the means, {images / 128:g} allowed", columns, table)


def _agreement(found: list[Tensor], baseline: list[Tensor]) -> dict[str, Any]:
    """Images right by seed, their mean, how far the seeds are apart, and how far the mean is above the baseline's.

    A weaker attack leaves more right. By the means, since of several seeds the most and the least of two equal attacks
    are as far apart as chance has them; of the images that turn with the seed, as many do between the two.
    """
    counts, expected = ([int(right.sum()) for right in each] for each in (found, baseline))
    return {
        "right": counts,
        "mean": statistics.mean(counts),
        "spread": max(counts) - min(counts),
        "deviation": statistics.stdev(counts) if len(counts) > 1 else 0.0,
        "above_plain": statistics.mean(counts) - statistics.mean(expected),
        "outcomes_differ": max(int((a != b).sum()) for a, b in zip(found, baseline, strict=True)),
    }


def _plain_right(model: nn.Module, data: ImageData, args: argparse.Namespace, seed: int) -> Tensor:
    torch.manual_seed(seed)
    x, y = subjects.all_images(data, torch.device(args.device))
    attack = partial(plain.pgd, budget=pgd_budget(args.eps))
    return plain.robust_right(subjects.as_published(copy.deepcopy(model)), x, y, attack, args.bs).cpu()


def _our_right(model: nn.Module, data: ImageData, args: argparse.Namespace, seed: int, precision: Precision) -> Tensor:
    attack = pgd(pgd_budget(args.eps), cross_entropy)
    loader = EvaluationLoader(data, args.bs, torch.device(args.device))
    options = EvaluationOptions((seed, "pgd", args.eps), precision=precision)
    return evaluate(model, loader, SINGLE_LABEL, attack, options=options).outcomes == data.targets(data.indices)


# --- trainings -------------------------------------------------------------------------------------------------------


def _compare_trainings(args: argparse.Namespace, train: ImageData, test: ImageData) -> None:
    device, results = torch.device(args.device), []
    for name in args.methods:
        helpers: dict[int, nn.Module] = {}
        for asked in args.precision:
            row: dict[str, Any] = {"method": name, "clean": [], "robust": []}
            results.append(row)
            for seed in range(args.seeds):
                Precision.choose("fp32", device)  # of helpers
                fit = partial(subjects.trained, args.model, train, SINGLE_LABEL, device=device, lr=args.lr, seed=seed)
                if name == "hat" and seed not in helpers:
                    natural = subjects.method("nat", SINGLE_LABEL, 0, DATASET)
                    helpers[seed] = fit(natural, epochs=args.trainEpochs)
                method = subjects.method(name, SINGLE_LABEL, args.eps, DATASET, helpers.get(seed))
                precision = Precision.choose(asked, device)
                row["precision"] = precision.name
                model = fit(method, epochs=args.trainEpochs, precision=precision)
                for kind, score in _scores(model, test, args, device).items():
                    row[kind].append(score)
                timing.write(args, "strength --train", {"images": len(test), "results": results})
    columns = ("accuracy, %", *(f"{kind} {seed}" for kind in ("clean", "robust") for seed in range(args.seeds)))
    table = [
        [f"{row['method']}, {row['precision']}", *(100 * score for kind in ("clean", "robust") for score in row[kind])]
        for row in results
    ]
    timing.show(f"by seed; robust: PGD-20 at eps {args.eps:g}, {len(test)} images", columns, table)


def _scores(model: nn.Module, data: ImageData, args: argparse.Namespace, device: torch.device) -> dict[str, float]:
    Precision.choose("fp32", device)
    loader = EvaluationLoader(data, args.bs, device)
    attack = pgd(pgd_budget(args.eps), cross_entropy)
    robust = evaluate(model, loader, SINGLE_LABEL, attack, options=EvaluationOptions((0, "pgd", args.eps), "robust"))
    clean = evaluate(model, loader, SINGLE_LABEL)
    return {"clean": float(clean.scores["accuracy"]), "robust": float(robust.scores["accuracy"])}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mv2", choices=SINGLE_LABEL.models)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--images", type=int, default=512, help="attacked")
    parser.add_argument("--bs", type=int, default=32)
    parser.add_argument("--eps", type=float, default=8.0, help="of the attack; with --train, of the training too")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trainImages", type=int, default=384)
    parser.add_argument("--trainEpochs", type=int, default=4)
    parser.add_argument("--trainEps", type=float, default=2.0, help="of PGD-AT; 0 trains naturally")
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--train", action="store_true", help="compare trainings, not attacks")
    parser.add_argument("--methods", nargs="+", default=["pgdat", "trades", "hat"], help="with --train")
    timing.precision_flag(parser)
    return timing.common_flags(parser).parse_args()


if __name__ == "__main__":
    main()
