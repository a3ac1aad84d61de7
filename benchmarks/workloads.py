"""What is counted on the pretended GPU (`benchmarks.counts`) and measured on a real one (`benchmarks.gpu`).

Each workload is a small piece of a training or an attack. The groups are in the order in which they tell most.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advmia.attacks import ATTACKS
from advmia.attacks.common import ascend, forward, uniform_start
from advmia.attacks.inference import Blocks, Compiled, compile_copies, inference_copy, plain_kernels, without_graphs
from advmia.budgets import Budget
from advmia.losses import cross_entropy
from advmia.runtime.precision import Precision
from advmia.training.methods import training_copy
from benchmarks.networks import frozen
from benchmarks.steps import Subject, our_step

CLASSIFIERS = ("res18", "mv2", "chexnet")
PRECISIONS = ("tf32", "bf16", "fp32")
LAYOUTS = {"nhwc": torch.channels_last, "nchw": torch.contiguous_format}
EPS = 8 / 255
# Channels, groups and side of convolutions of 3x3: one in res18's first layer, two depthwise ones in mv2.
CONVOLUTIONS = {"dense": (64, 1, 56), "depthwise-wide": (144, 144, 56), "depthwise-deep": (576, 576, 14)}
QUERIES = {"square": 8, "simba": 4}  # in a call; nothing is fooled, so each image has as many


@dataclass(frozen=True)
class Workload:
    """A piece of work on one network, and the settings in which it runs."""

    what: str  # a key of `WORK`
    subject: str  # a network, or one of `CONVOLUTIONS`
    precision: str = "tf32"
    batch: int = 32
    size: int = 224
    # Of the copy that attacks run on: "auto", "without-graphs", "plain" (`--kernels plain`), "unfolded", or a mode of
    # torch.compile.
    kernels: str = "auto"
    layout: str = "nhwc"
    block: int | None = None  # images in a pass, where the attack's batch is larger

    @property
    def name(self) -> str:
        """All that differs from the defaults, in words that are joined by spaces."""
        words = [self.subject, self.what, self.precision, f"{self.batch}x{self.size}"]
        words += [word for word, default in ((self.kernels, "auto"), (self.layout, "nhwc")) if word != default]
        return " ".join([*words, f"blocks of {self.block}"] if self.block else words)

    @property
    def calls(self) -> int:
        """How many queries one call of the work makes; 1 for other work."""
        return QUERIES.get(self.what, 1)

    @property
    def has_graphs(self) -> bool:
        """Whether passes of the copy are replayed as CUDA graphs."""
        return self.kernels == "auto" and self.what not in ("convolution", "refold", "noise")

    @property
    def counted_as(self) -> Workload:
        """The workload with the same counts: they do not depend on the memory layout."""
        return replace(self, layout="nhwc")

    def shrunk(self) -> Workload:
        """Returns the same work on a few small images, for tests."""
        return replace(self, batch=4, size=32, block=2 if self.block else None)

    def build(self, device: torch.device) -> Callable[[], object]:
        """Returns the work, ready to be called many times; sets torch's tf32 switches."""
        precision = self.precision if device.type == "cuda" or self.precision == "bf16" else "fp32"
        return WORK[self.what](self, device, Precision.choose(precision, device))


# --- the kinds of work -----------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def subject_of(name: str, size: int, batch: int, device: torch.device) -> Subject:
    """Returns the network and the images; kept for the next workload, which often has the same."""
    gc.collect()  # the last ones', whose memory would count
    return Subject(name, size, batch, device)


def _subject(work: Workload, device: torch.device) -> Subject:
    return subject_of(work.subject, work.size, work.batch, device)


def _copy_of(work: Workload, model: nn.Module, x: Tensor) -> nn.Module:
    """Returns what attacks on the model run on, in the form that the workload asks for."""
    model = model.eval().to(memory_format=LAYOUTS[work.layout])
    if work.kernels == "unfolded":
        return frozen(model)
    if work.kernels == "plain":
        plain_kernels(model)
    if work.kernels in ("auto", "plain", "without-graphs"):
        network = inference_copy(model, x)
        return without_graphs(network) if work.kernels == "without-graphs" else network
    compile_copies(model)
    compiled = cast(Compiled, inference_copy(model, x))
    if work.kernels == "default":
        return compiled
    return cast(nn.Module, torch.compile(compiled.network, dynamic=False, mode=work.kernels))


def _images(work: Workload, subject: Subject) -> Tensor:
    return subject.x.contiguous(memory_format=LAYOUTS[work.layout])


def _attack(work: Workload, device: torch.device, precision: Precision) -> Callable[[], object]:
    """One step of PGD."""
    subject = _subject(work, device)
    x, budget = _images(work, subject), Budget(EPS, 1, EPS / 4)
    network, objective = _copy_of(work, subject.ours(), x), subject.task.objective

    def run() -> Tensor:
        with precision.autocast(device):
            return ascend(network, x, subject.y, objective, budget, x)

    return run


def _forward(work: Workload, device: torch.device, precision: Precision) -> Callable[[], object]:
    """One forward pass of the copy without a gradient, of which Square and SimBA make thousands."""
    subject = _subject(work, device)
    x = _images(work, subject)
    network = _copy_of(work, subject.ours(), x)

    def run() -> Tensor:
        with precision.autocast(device):
            return forward(network, x)

    return run


def _step(method: str, work: Workload, device: torch.device, precision: Precision) -> Callable[[], object]:
    """One step of a training: attack, loss and update."""
    return our_step(_subject(work, device), method, precision, kernels=work.kernels)[0]


def _refold(work: Workload, device: torch.device, precision: Precision) -> Callable[[], object]:
    """What the copy costs after each update of the weights."""
    subject = _subject(work, device)
    model = subject.ours().eval()

    def run() -> nn.Module:
        with torch.no_grad():
            next(model.parameters()).add_(0)  # so that the weights count as changed
        return training_copy(model, subject.x)

    return run


def _noise(work: Workload, device: torch.device, precision: Precision) -> Callable[[], object]:
    """The random start of PGD on a batch."""
    subject = _subject(work, device)
    return lambda: uniform_start(subject.x, EPS, subject.rng())


class Sure(nn.Module):
    """The network, but that it is sure of class 0 whatever it sees, so that no image leaves an attack."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("lead", torch.tensor([1e4, 0.0], device=next(network.parameters()).device))

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x) + self.get_buffer("lead")


def _query(attack: str, work: Workload, device: torch.device, precision: Precision) -> Callable[[], object]:
    """`QUERIES[attack]` queries for each image of a batch, in blocks."""
    subject = _subject(work, device)
    network = _copy_of(work, Sure(subject.ours()), subject.x)
    made = ATTACKS[attack].build(Budget(EPS, QUERIES[attack], EPS), cross_entropy)
    y = torch.zeros_like(subject.y)

    def run() -> Tensor:
        with precision.autocast(device, early_stopping=True):
            return made(Blocks(network, work.block), subject.x, y, rng=subject.rng())

    return run


def _convolution(work: Workload, device: torch.device, precision: Precision) -> Callable[[], object]:
    """A convolution and its gradient with respect to the input."""
    channels, groups, side = CONVOLUTIONS[work.subject]
    layout, kind = LAYOUTS[work.layout], torch.bfloat16 if precision.name == "bf16" else torch.float32
    side = min(side, work.size)
    x = torch.rand(work.batch, channels, side, side).to(device, kind).contiguous(memory_format=layout)
    weight = torch.rand(channels, channels // groups, 3, 3).to(device, kind).contiguous(memory_format=layout)
    gradient = torch.rand_like(x)

    def run() -> Tensor:
        leaf = x.detach().requires_grad_(True)
        return torch.autograd.grad(F.conv2d(leaf, weight, padding=1, groups=groups), leaf, gradient)[0]

    return run


WORK: dict[str, Callable[[Workload, torch.device, Precision], Callable[[], object]]] = {
    "attack": _attack,
    "forward": _forward,
    "convolution": _convolution,
    "refold": _refold,
    "noise": _noise,
    **{method: partial(_step, method) for method in ("pgdat", "trades", "hat")},
    **{attack: partial(_query, attack) for attack in QUERIES},
}

# --- what is measured ------------------------------------------------------------------------------------------------


def _passes(**settings: object) -> list[Workload]:
    """Returns a step of an attack and a forward pass with the same settings."""
    return [Workload(what, **settings) for what in ("attack", "forward")]  # type: ignore[arg-type]


GROUPS: dict[str, tuple[Workload, ...]] = {
    # What the copy gains: kernels of our own, CUDA graphs, folding, and the precision.
    "kernels": tuple(
        work
        for name in CLASSIFIERS
        for kernels, precision in (
            *(("auto", "tf32"), ("without-graphs", "tf32"), ("plain", "tf32"), ("unfolded", "tf32")),
            *(("auto", "bf16"), ("plain", "bf16"), ("auto", "fp32"), ("plain", "fp32")),
        )
        for work in _passes(subject=name, precision=precision, kernels=kernels)
    ),
    "layouts": (
        *(
            work
            for name in CLASSIFIERS
            for precision in PRECISIONS
            for work in _passes(subject=name, precision=precision, kernels="plain", layout="nchw")
        ),
        *(
            Workload("convolution", name, precision, layout=layout)
            for name in CONVOLUTIONS
            for precision in PRECISIONS
            for layout in LAYOUTS
        ),
    ),
    "batches": tuple(
        work for name in CLASSIFIERS for batch in (16, 64, 128) for work in _passes(subject=name, batch=batch)
    ),
    "steps": tuple(
        Workload(what, name, precision)
        for name in CLASSIFIERS
        for what, precision in (("pgdat", "tf32"), ("pgdat", "bf16"), ("refold", "tf32"), ("noise", "tf32"))
    ),
    "queries": tuple(
        Workload(attack, name, batch=128, block=block)
        for name in CLASSIFIERS
        for attack in QUERIES
        for block in (16, 128)
    ),
    # Which fit: first mv2's TRADES, then those that need most.
    "memory": (
        Workload("trades", "mv2"),
        Workload("trades", "mv2", size=299),
        Workload("hat", "res18"),
        Workload("hat", "res18", size=299),
        Workload("hat", "mv2", "bf16", size=299),
        Workload("hat", "mv2", size=299),
    ),
    "segmentation": tuple(
        work for name in ("unet", "segnet") for work in _passes(subject=name, size=256, kernels="auto")
    ),
    # Compiling takes longest.
    "compiled": tuple(
        Workload("attack", name, kernels=mode)
        for name, mode in (
            ("res18", "default"),
            ("res18", "reduce-overhead"),
            ("mv2", "default"),
            ("chexnet", "reduce-overhead"),
        )
    ),
}
NOT_COUNTED = ("compiled",)  # the pretended GPU has no torch.compile
PROFILED = (
    Workload("attack", "res18"),
    Workload("attack", "res18", kernels="plain"),
    Workload("attack", "mv2"),
    Workload("attack", "mv2", kernels="plain"),
    Workload("attack", "chexnet"),
    Workload("attack", "res18", "bf16"),
    Workload("refold", "chexnet"),
)


def counted() -> list[Workload]:
    """Returns all workloads that `benchmarks.counts` counts: not those that only run in smaller blocks."""
    groups = [works for name, works in GROUPS.items() if name not in NOT_COUNTED]
    works = dict.fromkeys(work.counted_as for work in [*(work for works in groups for work in works), *PROFILED])
    return [work for work in works if work.block in (None, work.batch)]
