"""The PGD-10 attack and the adversarial training steps, ours against the plain code, torchattacks and foolbox.

    python -m benchmarks.steps --models res18 mv2 --size 64 --bs 16

Weights and pixels are random. The peers and the plain code get the network as it is published
(`subjects.as_published`); all run with the same weights, batch, budget and tf32 switch. With bf16, `plain` stays in
float32 (tf32 on CUDA), and `plain, bf16` shows what a user gets by autocast alone. The peers run beside the first of
the precisions only.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from advmia.attacks.gradient import pgd
from advmia.attacks.inference import compile_copies, inference_copy
from advmia.budgets import training_budget
from advmia.data.specs import DATASETS
from advmia.data.transforms import to_pixels
from advmia.runtime.precision import Precision
from advmia.runtime.rng import SampleRng
from advmia.tasks import SEGMENTATION, SINGLE_LABEL, Task
from advmia.training.methods import default_beta, training_copy
from benchmarks import plain, subjects, timing

EPS = 8  # grey levels
LR = 1e-3
COMPILED = f"{timing.OURS}, compiled"
Runs = dict[str, Callable[[], object]]


class Subject:
    """A network and a batch, with fresh copies of the network for whoever trains it."""

    def __init__(self, model: str, size: int, batch_size: int, device: torch.device) -> None:
        self.name, self.device = model, device
        self.task: Task = SEGMENTATION if model in SEGMENTATION.models else SINGLE_LABEL
        self.dataset = self.task.datasets[0] if self.task is SEGMENTATION else "melBin"
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(256, (batch_size, size, size, 3), generator=generator, dtype=torch.uint8)
        self.x = to_pixels(pixels.to(device))
        spec = DATASETS[self.dataset].at_size(size)
        self.network = subjects.settled(subjects.network(model, spec, 2, device), self.x)
        self.helper = subjects.settled(subjects.network(model, spec, 2, device, seed=1), self.x).eval()
        shape = (batch_size, size, size) if self.task is SEGMENTATION else (batch_size,)
        self.y = torch.randint(2, shape, generator=generator).to(device)
        self.plain_x = self.x.contiguous()

    def ours(self) -> nn.Module:
        return copy.deepcopy(self.network)

    def plain(self) -> nn.Module:
        return subjects.as_published(copy.deepcopy(self.network))

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return self.task.criterion(logits, y)


def main() -> None:
    args = _arguments()
    device, results = torch.device(args.device), []
    for name in args.models:
        for size in args.size:
            for asked in args.precision:
                precision = Precision.choose(asked, device)
                subject = Subject(name, size, args.bs, device)
                methods = [each for each in args.methods if each in subject.task.methods]
                for what in ["attack", *methods]:
                    found = _measure(subject, what, precision, args, peers=asked == args.precision[0])
                    results.append({"model": name, "size": size, "batch_size": args.bs, "what": what, **found})
                    timing.write(args, "steps", {"results": results})  # as they come: a time limit may end it


def _measure(
    subject: Subject, what: str, precision: Precision, args: argparse.Namespace, *, peers: bool
) -> dict[str, Any]:
    if what == "attack":
        runs, networks, skipped = _attacks(subject, precision, peers=peers)
    else:
        runs, networks, skipped = _training_steps(subject, what, precision)
    facts: dict[str, Any] = {"precision": precision.name, "skipped": skipped}
    if args.compile and what == "attack":
        runs[COMPILED], facts["compile_seconds"] = _compiled(subject, precision)
    rows = timing.alternate(runs, subject.device, repeats=args.repeats, warmup=args.warmup)
    passes = {}
    if precision.name != "bf16":
        for name in networks:
            with timing.counting(*networks[name]) as counted:
                runs[name]()
            passes[name] = counted.per_image(len(subject.x))
    title = (
        f"{subject.name} {tuple(subject.x.shape)} {precision.name}: {'PGD-10' if what == 'attack' else what + ' step'}"
    )
    columns = (*timing.TIMING_COLUMNS, "forward", "by input", "by weights")
    keys = ("forward", "backward", "by_parameters")
    counts = {name: [passes[name][key] for key in keys] if name in passes else [None] * 3 for name in rows}
    timing.show(title, columns, [[*timing.timing_row(name, row), *counts[name]] for name, row in rows.items()])
    for name in skipped:
        print(f"{name}: not installed, skipped")
    if "compile_seconds" in facts:
        print(f"{COMPILED}: {facts['compile_seconds']:.1f} s more in its first call")
    return facts | {"rows": rows, "passes_per_image": passes}


Measured = tuple[Runs, dict[str, list[nn.Module]], list[str]]  # what to run, whose passes to count, who is missing


def _attacks(subject: Subject, precision: Precision, *, peers: bool) -> Measured:
    """PGD-10 on networks whose weights do not change."""
    budget, device = training_budget(EPS), subject.device
    model, other = subject.ours().eval(), subject.plain().eval()
    x, y = subject.plain_x, subject.y
    runs: Runs = {"plain": lambda: plain.pgd(other, x, y, budget, subject.loss)}
    if precision.name == "bf16":
        runs["plain, bf16"] = in_precision(runs["plain"], precision, device)
    runs[timing.OURS] = _our_attack(model, subject, precision)
    skipped, torchattacks, foolbox = [], None, None
    if peers and subject.task is not SEGMENTATION:  # both take one label an image
        torchattacks, foolbox = _installed("torchattacks"), _installed("foolbox")
        skipped = [name for name, there in (("torchattacks", torchattacks), ("foolbox", foolbox)) if there is None]
    if torchattacks is not None:
        theirs = torchattacks.PGD(other, eps=budget.eps, alpha=budget.step_size, steps=budget.steps)
        runs["torchattacks"] = lambda: theirs(x, y)
    if foolbox is not None:
        ascent = foolbox.attacks.LinfPGD(abs_stepsize=budget.step_size, steps=budget.steps)
        wrapped = foolbox.PyTorchModel(other, bounds=(0, 1), device=device)
        runs["foolbox"] = lambda: ascent(wrapped, x, y, epsilons=budget.eps)
    counted = [model, inference_copy(model, subject.x)]
    return runs, {name: counted if name == timing.OURS else [other] for name in runs}, skipped


def _our_attack(model: nn.Module, subject: Subject, precision: Precision) -> Callable[[], None]:
    attack = pgd(training_budget(EPS), subject.task.objective)

    def run() -> None:
        rng = SampleRng.of(0, "benchmark", samples=range(len(subject.x)), device=subject.device)
        with precision.autocast(subject.device):
            attack(training_copy(model, subject.x), subject.x, subject.y, rng=rng)

    return run


def _compiled(subject: Subject, precision: Precision) -> tuple[Callable[[], None], float]:
    """Our attack with `--compile`, and how many seconds more its first call takes."""
    model = subject.ours().eval()
    compile_copies(model)
    run = _our_attack(model, subject, precision)
    first, usual = (timing.seconds_of(run, subject.device) for _ in range(2))
    return run, max(first - usual, 0.0)


def _training_steps(subject: Subject, what: str, precision: Precision) -> Measured:
    """Attack, loss and update, as `advmia.training.train_one_epoch` makes them; each side trains its own copy."""
    budget, device, task = training_budget(EPS), subject.device, subject.task
    helper = copy.deepcopy(subject.helper)
    method = subjects.method(what, task, EPS, subject.dataset, helper)
    model = subject.ours().train()
    optimizer = task.optimizer(model.parameters(), LR, 1e-3)

    def ours() -> None:
        rng = SampleRng.of(0, "benchmark", samples=range(len(subject.x)), device=device)
        with precision.autocast(device):
            loss = method(model, subject.x, subject.y, rng=rng)
        float(loss.detach())  # the bar shows it
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    runs: Runs = {}
    networks: dict[str, list[nn.Module]] = {}
    beta = default_beta(what, subject.dataset)

    def add_plain(name: str, *, clean_each_step: bool = True) -> None:
        other, other_helper = subject.plain(), subjects.as_published(copy.deepcopy(subject.helper))
        other_optimizer = task.optimizer(other.parameters(), LR, 1e-3)
        losses = plain.step_losses(budget, beta, other_helper, subject.loss, clean_each_step=clean_each_step)
        x, y, networks[name] = subject.plain_x, subject.y, [other, other_helper]
        runs[name] = lambda: plain.training_step(other, other_optimizer, losses[what], x, y)

    add_plain("plain")
    if what == "trades":
        add_plain("plain, one clean pass", clean_each_step=False)
    if precision.name == "bf16":
        add_plain("plain, bf16")
        runs["plain, bf16"] = in_precision(runs["plain, bf16"], precision, device)
    copies = [inference_copy(network, subject.x) for network in (model, helper)]
    runs[timing.OURS], networks[timing.OURS] = ours, [model, *copies]
    return runs, networks, []


def in_precision(run: Callable[[], object], precision: Precision, device: torch.device) -> Callable[[], object]:
    def cast() -> None:
        with precision.autocast(device):
            run()

    return cast


def _installed(name: str) -> ModuleType | None:
    try:
        return import_module(name)
    except ImportError:
        return None


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", nargs="+", default=["res18", "mv2"], choices=[*SINGLE_LABEL.models, "unet", "segnet"]
    )
    parser.add_argument("--size", nargs="+", type=int, default=[64], help="side of the images in pixels")
    parser.add_argument("--bs", type=int, default=16, help="images a batch")
    methods = ["pgdat", "trades", "mart", "hat"]
    parser.add_argument("--methods", nargs="*", default=methods, choices=methods, help="segmentation has pgdat alone")
    parser.add_argument(
        "--compile", action="store_true", help="the attack with --compile too, and how long it compiles"
    )
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds")
    parser.add_argument(
        "--warmup", type=int, default=1, help="calls that are not timed: on a CPU before each timed one"
    )
    timing.precision_flag(parser)
    return timing.common_flags(parser).parse_args()


if __name__ == "__main__":
    main()
