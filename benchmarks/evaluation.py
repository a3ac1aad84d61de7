"""The evaluation suite against the plain loop: passes through the network per image, and seconds; and SimBA's overhead.

    python -m benchmarks.evaluation --queries 500 --steps 10
    python -m benchmarks.evaluation --simba

The network is trained briefly on phantoms of Messidor's four grades (official AutoAttack needs four classes), so that
attacks leave some images right and turn others: both sides' shares stand in the table. The survey's suite has 5,000
queries and directions and 100 steps. Where all three are divided by one number, the total is also given with the passes
of the attacks that have them times that number. On a CPU a short block is filled up with copies, which are counted
among the passes and by themselves: the fewer images a list has, the more they are. The plain side's AutoAttack is
pyautoattack's, with as many targets as there are wrong classes; ours ascends two losses towards each, theirs one, so
that ours has more to do.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advmia.attacks import ATTACKS
from advmia.attacks.auto_attack import AutoAttack
from advmia.attacks.auto_pgd import apgd_ce, apgd_t
from advmia.attacks.common import EvaluationAttack
from advmia.attacks.fab import fab_t
from advmia.attacks.inference import Blocks, inference_copy
from advmia.attacks.simba_dct import simba
from advmia.attacks.square_attack import square
from advmia.budgets import AUTO_STEPS, QUERIES, Budget, cw_budget, fgsm_budget, pgd_budget
from advmia.data.loading import EvaluationLoader, ImageData
from advmia.evaluation.loop import EvaluationOptions, evaluate
from advmia.losses import cross_entropy
from advmia.runtime.precision import Precision
from advmia.runtime.rng import SampleRng
from advmia.tasks import SINGLE_LABEL
from benchmarks import plain, subjects, timing

DATASET = "mesidorMulti"
CLASSES = 4
PlainAttack = Callable[[nn.Module, Tensor, Tensor], Tensor]
SUITE = ("fgsm", "pgd", "cw", "aa", "simba")
LONG = ("aa", "simba")  # that have the queries, directions and steps which may be divided


def main() -> None:
    args = _arguments()
    device = torch.device(args.device)
    Precision.choose(args.precision, device)
    if args.simba:
        timing.write(args, "evaluation --simba", _simba_overhead(args, device))
        return
    with tempfile.TemporaryDirectory() as folder:
        train, test = subjects.phantoms(Path(folder), DATASET, args.size, args.trainImages, args.images)
        how = subjects.method("pgdat" if args.trainEps else "nat", SINGLE_LABEL, args.trainEps, DATASET)
        epochs = args.trainEpochs
        model = subjects.trained(args.model, train, SINGLE_LABEL, how, device, epochs=epochs, lr=0.01)
        results: list[dict[str, Any]] = []
        for name in args.attacks:
            results += _suite_rows(name, model, test, args, device)
            timing.write(args, "evaluation", {"results": results, "total": _total(results, args)})
    total = _total(results, args)
    if total["left_out"]:
        print(f"\nplain is not to be had here, so left out: {' '.join(total['left_out'])}")
    print(f"\nall that both ran: {total['seconds']:.2f} times as fast, {total['work']:.2f} times fewer passes")
    print(f"counting the copies that fill our short blocks: {total['work_with_copies']:.2f} times fewer")
    if "work_of_survey" in total:
        print(
            f"with the survey's queries and steps: {total['work_of_survey']:.2f} times fewer, counting the copies"
            f" {total['work_of_survey_with_copies']:.2f}"
        )


def _total(results: list[dict[str, Any]], args: argparse.Namespace) -> dict[str, Any]:
    """How many times as much plain takes, of all that both ran: seconds and passes, at the survey's numbers too."""
    both = [row for row in results if row["plain"]]
    shrunk = QUERIES / args.queries

    def ratio(key: str, *, copies: bool = True, survey: bool = False) -> float:
        theirs, ours = (
            sum(
                (row[side][key] - (0.0 if copies else row[side]["copies"]))
                * (shrunk if survey and row["attack"] in LONG else 1.0)
                for row in both
            )
            for side in ("plain", "ours")
        )
        return theirs / ours

    found: dict[str, Any] = {"left_out": sorted({row["attack"] for row in results if not row["plain"]})}
    if both:
        found |= {
            "seconds": ratio("seconds"),
            "work": ratio("work", copies=False),
            "work_with_copies": ratio("work"),
        }
        if shrunk == AUTO_STEPS / args.steps:
            found |= {
                "work_of_survey": ratio("work", copies=False, survey=True),
                "work_of_survey_with_copies": ratio("work", survey=True),
            }
    return found


def _suite_rows(
    name: str, model: nn.Module, data: ImageData, args: argparse.Namespace, device: torch.device
) -> list[dict[str, Any]]:
    """One attack, a row for each eps."""
    # Both sides on one batch first: libraries choose their algorithms, and CUDA loads its kernels, when they are met.
    few, brief = replace(data, indices=data.indices[: args.bs]), {"queries": 2, "steps": 2, "repeats": 1}
    _row(name, args.epsilons[0], model, few, argparse.Namespace(**vars(args) | brief), device)
    rows = [_row(name, eps, model, data, args, device) for eps in args.epsilons]
    _show(rows)
    return rows


def _row(
    name: str, eps: float, model: nn.Module, data: ImageData, args: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """Both sides by turns, each with passes an image, seconds, and the share still right."""
    loader, other = EvaluationLoader(data, args.bs, device), subjects.as_published(copy.deepcopy(model))
    x, y = subjects.all_images(data, device)
    budget = _budget(name, eps, args)
    our_attack, plain_attack = _ours(name, budget, args), _plain(name, budget, args)
    accuracy: dict[str, float] = {}

    def ours() -> None:
        options = EvaluationOptions((0, name, eps), title=name)
        accuracy["ours"] = float(evaluate(model, loader, SINGLE_LABEL, our_attack, options=options).scores["accuracy"])

    def theirs() -> None:
        assert plain_attack is not None
        accuracy["plain"] = float(plain.robust_right(other, x, y, plain_attack, args.bs).double().mean())

    runs: dict[str, Callable[[], None]] = {"plain": theirs, "ours": ours} if plain_attack else {"ours": ours}
    copied = inference_copy(model, x[: args.bs])  # made before the clock starts
    with (
        timing.counting(other) as their_passes,
        timing.counting(model, copied) as our_passes,
        timing.counting_asked() as asked,
    ):
        timings = timing.alternate(runs, device, repeats=args.repeats, warmup=0)
    counted, images = {"plain": their_passes, "ours": our_passes}, len(data) * args.repeats
    copies = {"plain": 0.0, "ours": (our_passes.work - asked.work) / images}
    sides = {
        side: {
            **timings[side],
            **counted[side].per_image(images),
            "copies": copies[side],
            "accuracy": accuracy[side],
        }
        for side in runs
    }
    return {"attack": name, "eps": eps, "images": len(data), "plain": None, **sides}


def _show(rows: list[dict[str, Any]]) -> None:
    columns = ("", "right %", "forward", "by input", "by weights", "of all copies", "seconds", "ours faster")
    table = []
    for row in rows:
        for side in ("plain", "ours"):
            if row[side] is None:
                continue
            right = f"{100 * row[side]['accuracy']:.0f}"
            keys = ("forward", "backward", "by_parameters", "copies", "seconds", "ours_faster")
            table.append([f"{row['attack']} {row['eps']:g}, {side}", right, *(row[side][key] for key in keys)])
    timing.show(f"{rows[0]['attack']}, passes an image", columns, table)
    if any(row["plain"] is None for row in rows):
        print("plain: not to be had here (no pyautoattack), skipped")


def _budget(name: str, eps: float, args: argparse.Namespace) -> Budget:
    known = {"fgsm": fgsm_budget, "pgd": pgd_budget, "cw": cw_budget}
    if name in known:
        return known[name](eps)
    return Budget.grey(eps, args.queries, eps) if name == "simba" else Budget.grey(eps, args.steps, 0)


def _ours(name: str, budget: Budget, args: argparse.Namespace) -> EvaluationAttack:
    """As `advmia.commands.test` builds them, but for AutoAttack, whose Square takes the queries asked for."""
    if name != "aa":
        return ATTACKS[name].build(budget, SINGLE_LABEL.attacks[name])
    return AutoAttack(
        {
            "apgd-ce": apgd_ce(budget, cross_entropy),
            "apgd-t": apgd_t(budget, cross_entropy),
            "fab-t": fab_t(budget, cross_entropy),
            "square": square(Budget(budget.eps, args.queries, 0), cross_entropy),
        }
    )


def _plain(name: str, budget: Budget, args: argparse.Namespace) -> PlainAttack | None:
    """The plain `attack(model, x, y)`; None where there is none."""
    if name == "aa":
        peers = _official_parts()
        return partial(_official_autoattack, peers, args, budget=budget) if peers else None
    if name == "simba":
        return partial(plain.simba_dct, eps=budget.eps, directions=budget.steps)
    attack = {"fgsm": plain.fgsm, "pgd": plain.pgd, "cw": plain.cw}[name]
    return partial(attack, budget=budget)


def _official_parts() -> dict[str, Any]:
    """pyautoattack's modules; none where it is not installed."""
    try:
        names = ("autopgd_base", "fab_pt", "square")
        return {"": import_module("pyautoattack"), **{name: import_module(f"pyautoattack.{name}") for name in names}}
    except ImportError:
        return {}


def _official_autoattack(
    peers: dict[str, Any], args: argparse.Namespace, model: nn.Module, x: Tensor, y: Tensor, *, budget: Budget
) -> Tensor:
    """pyautoattack's four attacks with our numbers of steps, queries and targets."""
    common = {"norm": "Linf", "eps": budget.eps, "seed": 0, "device": x.device}
    targeted = {"n_iter": args.steps, "n_target_classes": CLASSES - 1}
    names = ["apgd-ce", "apgd-t", "fab-t", "square"]
    suite = peers[""].AutoAttack(model, version="custom", attacks=names, **common)
    suite.apgd = peers["autopgd_base"].APGDAttack(model, n_iter=args.steps, **common)
    suite.apgd_targeted = peers["autopgd_base"].APGDAttack_targeted(model, **targeted, **common)
    suite.fab = peers["fab_pt"].FABAttack_PT(model, targeted=True, **targeted, **common)
    suite.square = peers["square"].SquareAttack(model, n_queries=args.queries, resc_schedule=False, **common)
    found: Tensor = suite.run_standard_evaluation(x, y, batch_size=len(x))[0]
    return found


# --- SimBA outside the network ---------------------------------------------------------------------------------------


class FewPixels(nn.Module):
    """Two logits from 64 pixels, class 0 well ahead: as good as free, never fooled, and moved by every step."""

    places: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        places = torch.randperm(3 * size * size, generator=torch.Generator().manual_seed(0))[:64]
        self.register_buffer("places", torch.stack([places // size**2, places % size**2 // size, places % size]))
        self.weight = nn.Parameter(torch.randn(64, generator=torch.Generator().manual_seed(1)) / 64)

    def forward(self, x: Tensor) -> Tensor:
        channel, row, column = self.places
        score = x[:, channel, row, column] @ self.weight
        return torch.stack([score + 3, -score], dim=1)


def _simba_overhead(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Milliseconds of an iteration: what `queries` of them take more than one does, shared among them."""
    size, eps = args.size, 8.0
    model = FewPixels(size).to(device).eval()
    x = torch.rand(args.bs, 3, size, size, generator=torch.Generator().manual_seed(2)).to(device)
    y = torch.zeros(args.bs, dtype=torch.int64, device=device)

    def ours(directions: int) -> None:
        rng = SampleRng.of(0, "simba", samples=range(args.bs), device=device)
        simba(Budget.grey(eps, directions, eps), cross_entropy)(Blocks(model, args.bs), x, y, rng=rng)

    def theirs(directions: int) -> None:
        plain.simba_dct(model, x, y, eps / 255, directions)

    sides = {"plain": theirs, "ours": ours}
    milliseconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(args.repeats + 1):  # the first is the warm-up
        for name, side in sides.items():
            one = timing.seconds_of(partial(side, 1), device)
            many = timing.seconds_of(partial(side, args.queries), device)
            if turn:
                milliseconds[name].append(1000 * (many - one) / (args.queries - 1))
    rows = {name: timing.spread("ms", values) for name, values in milliseconds.items()}
    for name in rows:
        pairs = zip(milliseconds[name], milliseconds["ours"], strict=True)
        rows[name] |= timing.spread("ours_faster", [theirs / each for theirs, each in pairs])
    columns = ("", "ms", "min", "max", "ours faster", "min", "max")
    table = [[name, *row.values()] for name, row in rows.items()]
    timing.show(f"a SimBA iteration outside the network, {tuple(x.shape)}", columns, table)
    return {"ms_per_iteration": rows, "iterations": args.queries}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mv2", choices=SINGLE_LABEL.models)
    parser.add_argument("--size", type=int, help="pixels; default 32, with --simba 224")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--bs", type=int, default=16)
    parser.add_argument("--attacks", nargs="+", default=list(SUITE), choices=SUITE)
    parser.add_argument("--epsilons", nargs="+", type=float, default=[1.0, 2.0, 4.0, 8.0])
    parser.add_argument("--queries", type=int, help="SimBA's directions and Square's queries; default 5000, --simba 50")
    parser.add_argument("--steps", type=int, default=AUTO_STEPS, help="of APGD and FAB")
    parser.add_argument("--trainImages", type=int, default=384)
    parser.add_argument("--trainEpochs", type=int, default=6)
    parser.add_argument("--trainEps", type=float, default=2.0, help="of PGD-AT; 0 trains naturally")
    parser.add_argument("--precision", choices=("fp32", "tf32"), help="default tf32 on CUDA and fp32 on a CPU")
    parser.add_argument("--simba", action="store_true", help="only time SimBA outside the network")
    parser.add_argument("--repeats", type=int, help="timed rounds; default 1, with --simba 5")
    args = timing.common_flags(parser).parse_args()
    args.repeats = args.repeats or (5 if args.simba else 1)
    args.size = args.size or (224 if args.simba else 32)
    args.queries = args.queries or (50 if args.simba else QUERIES)
    return args


if __name__ == "__main__":
    main()
