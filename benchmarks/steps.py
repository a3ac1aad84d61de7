"""Times the PGD-10 attack and the adversarial training steps: ours, the plain code, torchattacks and foolbox.

    python -m benchmarks.steps --models res18 mv2 --size 64 --bs 16

All implementations get the same random weights and pixels, batch, budget and tf32 setting. The plain code and the two
packages get the network as it is published (`subjects.as_published`). In bf16, `plain` stays in fp32 (tf32 on CUDA),
and `plain, bf16` is the plain code under autocast. torchattacks and foolbox are timed with the first precision only.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from advmia.attacks.gradient import pgd
from advmia.attacks.inference import compile_copies, inference_copy, plain_kernels
from advmia.budgets import training_budget
from advmia.data.datasets import DATASETS
from advmia.data.transforms import to_pixels
from advmia.runtime.precision import Precision
from advmia.runtime.rng import SampleRng
from advmia.tasks import SEGMENTATION, SINGLE_LABEL, Task
from advmia.training.gradients import backward
from advmia.training.methods import default_beta, training_copy
from benchmarks import passes, plain, report, subjects, timing

GREY_EPS = 8
LR = 1e-3
COMPILED = f"{timing.OURS}, compiled"
METHODS = ("pgdat", "trades", "mart", "hat")


class Subject:
    """A network, its helper for HAT and a batch. Each implementation takes copies of the networks."""

    def __init__(self, model: str, size: int, batch_size: int, device: torch.device) -> None:
        self.name, self.device = model, device
        self.task: Task = SEGMENTATION if model in SEGMENTATION.models else SINGLE_LABEL
        self.dataset = self.task.datasets[0] if self.task is SEGMENTATION else "melBin"
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(256, (batch_size, size, size, 3), generator=generator, dtype=torch.uint8)
        self.x = to_pixels(pixels.to(device))
        spec = DATASETS[self.dataset].at_size(size)
        self.network = subjects.with_statistics_of(self.x, subjects.network(model, spec, 2, device))
        self.helper = subjects.with_statistics_of(self.x, subjects.network(model, spec, 2, device, seed=1)).eval()
        shape = (batch_size, size, size) if self.task is SEGMENTATION else (batch_size,)
        self.y = torch.randint(2, shape, generator=generator).to(device)
        self.plain_x = self.x.contiguous()

    def ours(self) -> nn.Module:
        """Returns a copy of the network for our code."""
        return copy.deepcopy(self.network)

    def plain(self) -> nn.Module:
        """Returns a copy of the network as it is published."""
        return subjects.as_published(copy.deepcopy(self.network))

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Computes the loss that the task trains with, a scalar."""
        return self.task.criterion(logits, y)

    def rng(self) -> SampleRng:
        """Returns the random numbers of the batch, the same ones at every call."""
        return SampleRng.of(0, "benchmark", samples=range(len(self.x)), device=self.device)


@dataclass
class Implementations:
    """The callables to time, by name, and for each the networks through which its passes are counted."""

    runs: dict[str, Callable[[], object]] = field(default_factory=dict)
    networks: dict[str, list[nn.Module]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)  # packages that are not installed


def main() -> None:
    args = _arguments()
    device, results = torch.device(args.device), []
    for name in args.models:
        for size in args.size:
            for requested in args.precision:
                precision = Precision.choose(requested, device)
                subject = Subject(name, size, args.bs, device)
                methods = [method for method in args.methods if method in subject.task.methods]
                for action in ["attack", *methods]:
                    packages = requested == args.precision[0]
                    timings = _measure(subject, action, precision, args, packages=packages)
                    results.append({"model": name, "size": size, "batch_size": args.bs, "what": action, **timings})
                    report.write(args, "steps", {"results": results})  # after each, in case a time limit ends the run


def _measure(
    subject: Subject, action: str, precision: Precision, args: argparse.Namespace, *, packages: bool
) -> dict[str, Any]:
    """Times the attack or a training step, counts passes and prints the table; returns the results for the JSON file.

    `action`: "attack" or the method of the training step. `packages`: whether to time torchattacks and foolbox too.
    """
    is_attack = action == "attack"
    implementations = (
        _attacks(subject, precision, packages=packages) if is_attack else _steps(subject, action, precision)
    )
    facts: dict[str, Any] = {"precision": precision.name, "skipped": implementations.missing}
    if args.compile and is_attack:
        implementations.runs[COMPILED], facts["compile_seconds"] = _compiled(subject, precision)
    rows = timing.alternate(implementations.runs, subject.device, repeats=args.repeats, warmup=args.warmup)
    counts = {}
    if precision.name != "bf16":  # under autocast, passes cannot be counted
        for name, networks in implementations.networks.items():
            with passes.count_passes(*networks) as network_passes:
                implementations.runs[name]()
            counts[name] = network_passes.per_image(len(subject.x))
    facts |= {"rows": rows, "passes_per_image": counts}
    title = f"{subject.name} {tuple(subject.x.shape)} {precision.name}: {'PGD-10' if is_attack else action + ' step'}"
    _show(title, facts)
    return facts


def _show(title: str, facts: dict[str, Any]) -> None:
    """Prints the table of one attack or training step."""
    keys = ("forward", "backward", "by_parameters")
    table = []
    for name, row in facts["rows"].items():
        counts = facts["passes_per_image"].get(name, {})
        table.append([*report.timing_row(name, row), *(counts.get(key) for key in keys)])
    report.show(title, (*report.TIMING_COLUMNS, "forward", "by input", "by weights"), table)
    for name in facts["skipped"]:
        print(f"{name}: not installed, skipped")
    if "compile_seconds" in facts:
        print(f"{COMPILED}: the first call takes {facts['compile_seconds']:.1f} s longer")


# --- attacks ---------------------------------------------------------------------------------------------------------


def _attacks(subject: Subject, precision: Precision, *, packages: bool) -> Implementations:
    """Returns the implementations of PGD-10, with torchattacks and foolbox if `packages`."""
    budget, device = training_budget(GREY_EPS), subject.device
    model, plain_model = subject.ours().eval(), subject.plain().eval()
    x, y = subject.plain_x, subject.y
    implementations = Implementations({"plain": lambda: plain.pgd(plain_model, x, y, budget, subject.loss)})
    if precision.name == "bf16":
        implementations.runs["plain, bf16"] = _in_precision(implementations.runs["plain"], precision, device)
    implementations.runs[timing.OURS] = _our_attack(model, subject, precision)
    if packages and subject.task is not SEGMENTATION:  # both packages need one label for each image
        torchattacks, foolbox = _installed("torchattacks"), _installed("foolbox")
        if torchattacks is not None:
            attack = torchattacks.PGD(plain_model, eps=budget.eps, alpha=budget.step_size, steps=budget.steps)
            implementations.runs["torchattacks"] = lambda: attack(x, y)
        if foolbox is not None:
            ascent = foolbox.attacks.LinfPGD(abs_stepsize=budget.step_size, steps=budget.steps)
            foolbox_model = foolbox.PyTorchModel(plain_model, bounds=(0, 1), device=device)
            implementations.runs["foolbox"] = lambda: ascent(foolbox_model, x, y, epsilons=budget.eps)
        modules = {"torchattacks": torchattacks, "foolbox": foolbox}
        implementations.missing = [name for name, module in modules.items() if module is None]
    our_networks = [model, inference_copy(model, subject.x)]
    implementations.networks = {
        name: our_networks if name == timing.OURS else [plain_model] for name in implementations.runs
    }
    return implementations


def _our_attack(model: nn.Module, subject: Subject, precision: Precision) -> Callable[[], None]:
    """Returns a call of our PGD-10 on `model`."""
    attack = pgd(training_budget(GREY_EPS), subject.task.objective)

    def run() -> None:
        with precision.autocast(subject.device):
            attack(training_copy(model, subject.x), subject.x, subject.y, rng=subject.rng())

    return run


def _compiled(subject: Subject, precision: Precision) -> tuple[Callable[[], None], float]:
    """Returns our attack with `torch.compile`, and how many seconds longer its first call takes than its second."""
    model = subject.ours().eval()
    compile_copies(model)
    run = _our_attack(model, subject, precision)
    first, second = (timing.seconds_of(run, subject.device) for _ in range(2))
    return run, max(first - second, 0.0)


def _installed(name: str) -> ModuleType | None:
    """Imports a package; returns None if it is not installed."""
    try:
        return import_module(name)
    except ImportError:
        return None


# --- training steps --------------------------------------------------------------------------------------------------


def _steps(subject: Subject, method: str, precision: Precision) -> Implementations:
    """Returns the implementations of a training step: attack, loss and update. Each trains its own copy."""
    implementations = Implementations()
    _add_plain_step(implementations, subject, method, "plain")
    if method == "trades":
        _add_plain_step(implementations, subject, method, "plain, one clean pass", clean_each_step=False)
    if precision.name == "bf16":
        name = "plain, bf16"
        _add_plain_step(implementations, subject, method, name)
        implementations.runs[name] = _in_precision(implementations.runs[name], precision, subject.device)
    implementations.runs[timing.OURS], implementations.networks[timing.OURS] = our_step(subject, method, precision)
    return implementations


def our_step(
    subject: Subject, name: str, precision: Precision, *, kernels: str = "auto"
) -> tuple[Callable[[], None], list[nn.Module]]:
    """Returns our training step, as `advmia.training.loop.train_one_epoch` makes it, and the networks that it runs."""
    task, device, helper = subject.task, subject.device, copy.deepcopy(subject.helper)
    method = subjects.method(name, task, GREY_EPS, subject.dataset, helper)
    model = subject.ours().train()
    if kernels == "plain":
        plain_kernels(model)
        plain_kernels(helper)
    optimizer = task.optimizer(model.parameters(), LR, 1e-3)
    autocast = partial(precision.autocast, device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast():
            x_adv = method.examples(model, subject.x, subject.y, rng=subject.rng())
        backward(method.losses(model, subject.x, x_adv, subject.y), context=autocast)
        optimizer.step()

    return step, [model, *(inference_copy(network, subject.x) for network in (model, helper))]


def _add_plain_step(
    implementations: Implementations, subject: Subject, method: str, name: str, *, clean_each_step: bool = True
) -> None:
    """Adds the plain training step under `name`; see `plain.divergence_ascent` for `clean_each_step`."""
    model, helper = subject.plain(), subjects.as_published(copy.deepcopy(subject.helper))
    optimizer = subject.task.optimizer(model.parameters(), LR, 1e-3)
    budget, beta = training_budget(GREY_EPS), default_beta(method, subject.dataset)
    losses = plain.step_losses(budget, beta, helper, subject.loss, clean_each_step=clean_each_step)
    x, y = subject.plain_x, subject.y
    implementations.runs[name] = lambda: plain.training_step(model, optimizer, losses[method], x, y)
    implementations.networks[name] = [model, helper]


def _in_precision(run: Callable[[], object], precision: Precision, device: torch.device) -> Callable[[], object]:
    """Returns `run` under autocast, if the precision needs it."""

    def run_in_precision() -> None:
        with precision.autocast(device):
            run()

    return run_in_precision


def _arguments() -> argparse.Namespace:
    parser = report.new_parser(__doc__)
    names = [*SINGLE_LABEL.models, *SEGMENTATION.models]
    parser.add_argument("--models", nargs="+", default=["res18", "mv2"], choices=names, help="networks")
    parser.add_argument("--size", nargs="+", type=int, default=[64], help="sides of the images in pixels")
    parser.add_argument("--bs", type=int, default=16, help="batch size")
    methods = list(METHODS)
    parser.add_argument("--methods", nargs="*", default=methods, choices=methods, help="segmentation has only pgdat")
    parser.add_argument(
        "--compile", action="store_true", help="also time our attack with torch.compile, and how long compiling takes"
    )
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds")
    parser.add_argument(
        "--warmup", type=int, default=1, help="untimed calls: on a CPU before each timed one, on CUDA before the first"
    )
    report.add_precisions(parser)
    return report.parse(parser)


if __name__ == "__main__":
    main()
