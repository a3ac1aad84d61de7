"""Compares our evaluation suite with plain code: passes through the network per image, and seconds.

    python -m benchmarks.evaluation --queries 500 --steps 10
    python -m benchmarks.evaluation --simba

The network is trained briefly on phantoms of Messidor's four grades, so that attacks succeed on some images only. The
table shows the share that is still classified correctly, for both implementations. With --simba, only the time that
SimBA spends outside the network is measured.

The survey's suite has 5,000 queries (Square) or directions (SimBA) and 100 steps (APGD and FAB). If --queries and
--steps are smaller by the same factor, the total is also given for the survey's numbers: the passes of AutoAttack and
SimBA are multiplied by that factor.

On a CPU, our attacks fill a short batch up with copies of images. The table gives the passes with the copies, and also
the number of copies; a short list of images needs many. The plain AutoAttack is that of pyautoattack, with all
wrong classes as targets. Ours does more: it ascends two losses towards each target, pyautoattack one.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from advmia.attacks.inference import inference_copy
from advmia.budgets import AUTO_STEPS, QUERIES
from advmia.cli.parser import grey_level
from advmia.data.loading import EvaluationLoader, ImageData
from advmia.evaluation.loop import EvaluationOptions, evaluate
from advmia.runtime.precision import Precision
from advmia.tasks import SINGLE_LABEL
from benchmarks import passes, plain, report, subjects, timing
from benchmarks.overhead import measure_simba
from benchmarks.suite import LONG, SUITE, budget_of, our_attack, plain_attack

DATASET = "mesidorMulti"
SIDES = ("plain", timing.OURS)


@dataclass(frozen=True)
class Inputs:
    """The network, the images that are attacked, and the flags."""

    model: nn.Module
    data: ImageData
    args: argparse.Namespace

    @property
    def device(self) -> torch.device:
        return torch.device(self.args.device)

    def shortened(self) -> Inputs:
        """Returns the same network with one batch of images and attacks of two steps, for warming up."""
        few = replace(self.data, indices=self.data.indices[: self.args.bs])
        args = argparse.Namespace(**vars(self.args) | {"queries": 2, "steps": 2, "repeats": 1})
        return Inputs(self.model, few, args)


def main() -> None:
    args = _arguments()
    device = torch.device(args.device)
    Precision.choose(args.precision, device)
    if args.simba:
        report.write(args, "evaluation --simba", measure_simba(args, device))
        return
    with tempfile.TemporaryDirectory() as folder:
        train, test = subjects.phantoms(Path(folder), DATASET, args.size, args.trainImages, args.images)
        method = subjects.method("pgdat" if args.trainEps else "nat", SINGLE_LABEL, args.trainEps, DATASET)
        model = subjects.ShortTraining(args.model, args.trainEpochs).run(train, method, device)
        inputs, results = Inputs(model, test, args), []
        for name in args.attacks:
            # First on one batch: libraries choose their algorithms, and CUDA loads its kernels, when they meet them.
            _measure(name, args.epsilons[0], inputs.shortened())
            rows = [_measure(name, grey_eps, inputs) for grey_eps in args.epsilons]
            _show(rows)
            results += rows
            report.write(args, "evaluation", {"results": results, "total": _total(results, args)})
    _show_total(_total(results, args))


def _measure(name: str, grey_eps: float, inputs: Inputs) -> dict[str, Any]:
    """Runs an attack in both implementations, in alternation.

    Returns passes per image, seconds and robust accuracy of each implementation, for the JSON file.
    """
    model, data, args, device = inputs.model, inputs.data, inputs.args, inputs.device
    loader, plain_model = EvaluationLoader(data, args.bs, device), subjects.as_published(copy.deepcopy(model))
    x, y = subjects.all_images(data, device)
    budget = budget_of(name, grey_eps, args)
    attack, baseline_attack = our_attack(name, budget, args), plain_attack(name, budget, args)
    accuracy: dict[str, float] = {}

    def ours() -> None:
        options = EvaluationOptions((0, name, grey_eps), title=name)
        evaluation = evaluate(model, loader, SINGLE_LABEL, attack, options=options)
        accuracy[timing.OURS] = float(evaluation.scores["accuracy"])

    def plain_code() -> None:
        assert baseline_attack is not None
        accuracy["plain"] = float(plain.robust_images(plain_model, x, y, baseline_attack, args.bs).double().mean())

    runs: dict[str, Callable[[], None]] = {"plain": plain_code} if baseline_attack else {}
    runs[timing.OURS] = ours
    inference = inference_copy(model, x[: args.bs])  # made before the clock starts; attacks run through it
    with (
        passes.count_passes(plain_model) as plain_passes,
        passes.count_passes(model, inference) as our_passes,
        passes.count_requests() as requests,
    ):
        timings = timing.alternate(runs, device, repeats=args.repeats, warmup=0)
    counts, images = {"plain": plain_passes, timing.OURS: our_passes}, len(data) * args.repeats
    copies = {"plain": 0.0, timing.OURS: (our_passes.work - requests.work) / images}
    sides = {
        side: {
            **timings[side],
            **counts[side].per_image(images),
            "copies": copies[side],
            "accuracy": [accuracy[side]],
        }
        for side in runs
    }
    # `eps` and `accuracy` are lists of one entry, because in earlier result files several eps shared a row.
    return {"attack": name, "eps": [grey_eps], "images": len(data), "plain": None, **sides}


def _total(results: list[dict[str, Any]], args: argparse.Namespace) -> dict[str, Any]:
    """Returns the ratios of plain to ours, of seconds and of passes, over all attacks that both ran."""
    compared = [row for row in results if row["plain"]]
    divisor = QUERIES / args.queries

    def ratio(key: str, *, copies: bool = True, survey: bool = False) -> float:
        """Returns the sum of `key` over all attacks for plain code, divided by the sum for ours.

        `copies`: whether copies count. `survey`: whether the numbers of the long attacks are multiplied by the divisor.
        """
        sums = dict.fromkeys(SIDES, 0.0)
        for row in compared:
            factor = divisor if survey and row["attack"] in LONG else 1.0
            for side in SIDES:
                sums[side] += factor * (row[side][key] - (0.0 if copies else row[side]["copies"]))
        return sums["plain"] / sums[timing.OURS]

    total: dict[str, Any] = {"left_out": sorted({row["attack"] for row in results if not row["plain"]})}
    if compared:
        total |= {
            "seconds": ratio("seconds"),
            "work": ratio("work", copies=False),
            "work_with_copies": ratio("work"),
        }
        if divisor == AUTO_STEPS / args.steps:
            total |= {
                "work_of_survey": ratio("work", copies=False, survey=True),
                "work_of_survey_with_copies": ratio("work", survey=True),
            }
    return total


def _show(rows: list[dict[str, Any]]) -> None:
    """Prints the results of one attack."""
    columns = ("", "correct %", "forward", "by input", "by weights", "copies", "seconds", "ours faster")
    keys = ("forward", "backward", "by_parameters", "copies", "seconds", "ours_faster")
    table = []
    for row in rows:
        for side in SIDES:
            if row[side] is not None:
                correct = f"{100 * row[side]['accuracy'][0]:.0f}"
                table.append([f"{row['attack']} {row['eps'][0]:g}, {side}", correct, *(row[side][key] for key in keys)])
    report.show(f"{rows[0]['attack']}, passes per image (with copies)", columns, table)
    if any(row["plain"] is None for row in rows):
        print("plain: skipped, because pyautoattack is not installed")


def _show_total(total: dict[str, Any]) -> None:
    """Prints the ratios of plain to ours over all attacks."""
    if total["left_out"]:
        print(f"\nnot in the total, because the plain implementation is missing: {' '.join(total['left_out'])}")
    if "seconds" not in total:
        return
    print(f"\nall attacks: ours is {total['seconds']:.2f} times as fast, with {total['work']:.2f} times fewer passes")
    print(f"with the copies that fill short batches: {total['work_with_copies']:.2f} times fewer passes")
    if "work_of_survey" in total:
        with_copies = f"{total['work_of_survey_with_copies']:.2f} with the copies"
        print(f"for the survey's queries and steps: {total['work_of_survey']:.2f} times fewer passes, {with_copies}")


def _arguments() -> argparse.Namespace:
    parser = report.new_parser(__doc__)
    parser.add_argument("--model", default="mv2", choices=SINGLE_LABEL.models, help="network")
    parser.add_argument("--size", type=int, help="side of the images in pixels; default 32, with --simba 224")
    parser.add_argument("--images", type=int, default=64, help="test images, which are attacked")
    parser.add_argument("--bs", type=int, default=16, help="batch size")
    parser.add_argument("--attacks", nargs="+", default=list(SUITE), choices=SUITE, help="attacks")
    epsilons = [1.0, 2.0, 4.0, 8.0]
    parser.add_argument("--epsilons", nargs="+", type=grey_level, default=epsilons, help="eps in grey levels")
    parser.add_argument(
        "--queries", type=int, help="SimBA's directions and Square's queries; default 5000, with --simba 50"
    )
    parser.add_argument("--steps", type=int, default=AUTO_STEPS, help="steps of APGD and FAB")
    parser.add_argument("--trainImages", type=int, default=384, help="training images")
    parser.add_argument("--trainEpochs", type=int, default=6, help="epochs of the training")
    parser.add_argument(
        "--trainEps", type=grey_level, default=2.0, help="eps of PGD-AT in grey levels; 0 trains naturally"
    )
    parser.add_argument("--precision", choices=("fp32", "tf32"), help="default: tf32 on CUDA, fp32 on a CPU")
    parser.add_argument("--simba", action="store_true", help="only time what SimBA does outside the network")
    parser.add_argument("--repeats", type=int, help="timed rounds; default 1, with --simba 5")
    args = report.parse(parser)
    args.repeats = args.repeats or (5 if args.simba else 1)
    args.size = args.size or (224 if args.simba else 32)
    args.queries = args.queries or (50 if args.simba else QUERIES)
    return args


if __name__ == "__main__":
    main()
