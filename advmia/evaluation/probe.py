"""What is measured of an attacked network before its robustness numbers are trusted (see `advmia.reliability`)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from tqdm import tqdm

from advmia.attacks import ATTACKS
from advmia.attacks.common import Objective, frozen_eval, input_gradient
from advmia.attacks.inference import Blocks, inference_copy
from advmia.data.loading import Batch, EvaluationLoader
from advmia.runtime.rng import SampleRng
from advmia.tasks import Task

PROBED = 256  # images looked at
ATTACKED = 64  # of them, attacked at the large eps
LARGE_EPS = 64.0  # grey levels: a quarter of the range, which no useful network withstands
TOLERANCE = 1e-3  # logits that differ by less are the same; so are two passes, as a share of the largest logit


@dataclass(frozen=True)
class Probe:
    """What was measured of the attacked network: numbers of images, where nothing else is said."""

    images: int  # looked at
    attacked: int  # attacked at the large eps
    holding: int  # of `attacked`: of whose decisions half or more stay right
    without_gradient: int  # where the loss has no input gradient
    saturated: int  # for which the loss is blind to half of the decisions or more
    flat: int  # whose outputs hardly differ between the classes
    repeated: int  # whose outputs hardly differ from those of the image before
    not_finite: int  # whose outputs are not all finite
    probabilities: int  # whose outputs may be probabilities
    outside: int  # not finite, or outside [0, 1]
    lowest: float  # of the pixel values, those that are not finite taken as 0; `highest` likewise
    highest: float
    unsteady: int  # whose outputs differ between two passes, of the attacked or of the scored network
    training: list[str]  # submodules in train mode while scoring, of either network
    moved: list[str]  # buffers (running statistics) that the passes changed, of either network


def probe_network(
    model: nn.Module, loader: EvaluationLoader, task: Task, *, scored: nn.Module | None = None, seed: int = 0
) -> Probe:
    """Measures the network that is attacked on the first images of the list.

    `scored`: the target of a transfer run, whose mode counts as well. Costs about three passes and one gradient for at
    most 256 images, and PGD-20 for at most 64: a fiftieth of FGSM and PGD at four eps on a thousand images.
    """
    objective = task.attacks["pgd"]
    networks = [model] if scored is None or scored is model else [model, scored]
    before = [{name: buffer.clone() for name, buffer in network.named_buffers()} for network in networks]
    counts, training, previous, lowest, highest = Counter[str](), set[str](), None, math.inf, -math.inf
    for batch in _first(loader, PROBED):
        passes = [score_twice(network, batch.x) for network in networks]
        training.update(*(found.training for found in passes))
        logits = passes[0].logits
        flags = {
            "images": torch.ones(len(batch)),
            "without_gradient": without_gradient(model, batch.x, batch.y, objective),
            "saturated": saturated(logits, batch.y, objective),
            "flat": flat(logits),
            "repeated": repeated(logits, previous),
            "not_finite": ~logits.isfinite().flatten(1).all(dim=1),
            "probabilities": like_probabilities(logits, batch.y),
            "outside": outside(batch.x),
            "unsteady": torch.stack([found.unsteady for found in passes]).any(dim=0),
        }
        counts.update({name: int(flag.sum()) for name, flag in flags.items()})
        previous = logits[-1:]
        values = batch.x.nan_to_num(0, 0, 0)
        lowest, highest = min(lowest, float(values.min())), max(highest, float(values.max()))
    for batch in _first(loader, ATTACKED):
        rng = SampleRng.of(seed, "reliability", LARGE_EPS, samples=batch.index.tolist(), device=loader.device)
        held = withstands(model, batch.x, batch.y, objective, rng)
        counts.update({"attacked": len(held), "holding": int(held.sum())})
    moved = set[str]().union(*map(_moved, networks, before))
    counted = {field.name: counts[field.name] for field in fields(Probe)}
    lists = {"training": sorted(training), "moved": sorted(moved)}
    return Probe(**{**counted, **lists, "lowest": lowest, "highest": highest})  # type: ignore[arg-type]


def outside(x: Tensor) -> Tensor:
    """Which images (B, C, H, W) are not finite or leave [0, 1]; shape (B,)."""
    return ~((x >= 0) & (x <= 1)).flatten(1).all(dim=1)  # NaN is neither


def flat(logits: Tensor) -> Tensor:
    """Which images' logits (B, K, ...) are within 0.001 of each other over the classes, at every pixel; shape (B,)."""
    spread = logits.amax(dim=1) - logits.amin(dim=1)
    return spread.reshape(len(logits), -1).amax(dim=1) < TOLERANCE


def repeated(logits: Tensor, previous: Tensor | None) -> Tensor:
    """Which images' logits (B, K, ...) are within 0.001 of those of the image before; shape (B,).

    `previous`: the logits (1, K, ...) of the image before the first; None where there is none.
    """
    earlier = torch.cat([logits[:1] if previous is None else previous, logits[:-1]])
    same = (logits - earlier).abs().flatten(1).amax(dim=1) < TOLERANCE
    if previous is None:
        same[0] = False
    return same


def like_probabilities(logits: Tensor, y: Tensor) -> Tensor:
    """Which images' outputs (B, K, ...) are in [0, 1] and sum to 1 over the classes; shape (B,).

    Findings exclude none another: there is no sum to look at.
    """
    within = ~outside(logits)
    if _are_findings(logits, y):
        return within
    return within & ((logits.sum(dim=1) - 1).abs().reshape(len(logits), -1).amax(dim=1) < TOLERANCE)


def saturated(logits: Tensor, y: Tensor, objective: Objective) -> Tensor:
    """For which images the loss is blind, in float32, to half of the decisions or more; logits (B, K, ...); shape (B,).

    It is blind to a decision (a class, a finding, a pixel's class) where its gradient by the label's own logit is
    exactly 0: the label leads by 17 or more, and one plus the exponential of that is rounded to one. For a finding that
    is absent this takes a logit of -88, below which its exponential is 0.
    """
    logits = logits.detach().requires_grad_(True)
    with torch.enable_grad():
        gradient = torch.autograd.grad(objective(logits, y).sum(), logits)[0]
    own = gradient if _are_findings(logits, y) else gradient.gather(1, y[:, None])
    return (own == 0).flatten(1).double().mean(dim=1) >= 0.5


def share_right(logits: Tensor, y: Tensor) -> Tensor:
    """The share of each image's decisions (a class, findings, pixels' classes) that are right; shape (B,).

    For one image a defined number, as AUROC is not; for a single label 0 or 1, so that its mean is the accuracy.
    """
    right = (logits > 0) == (y > 0.5) if _are_findings(logits, y) else logits.argmax(dim=1) == y
    return right.reshape(len(logits), -1).double().mean(dim=1)


def _are_findings(logits: Tensor, y: Tensor) -> bool:
    """Whether labels exclude none another: they then have the outputs' own shape, where a class is but a number."""
    return y.shape == logits.shape


def without_gradient(model: nn.Module, x: Tensor, y: Tensor, objective: Objective) -> Tensor:
    """At which images (B, C, H, W) the objective's gradient is zero everywhere or somewhere not finite; shape (B,)."""
    attacked = inference_copy(model, x)  # as attacks see the network
    with frozen_eval(attacked):
        gradient = input_gradient(Blocks(attacked), x, y, objective).flatten(1)
    return (gradient == 0).all(dim=1) | ~gradient.isfinite().all(dim=1)


def withstands(model: nn.Module, x: Tensor, y: Tensor, objective: Objective, rng: SampleRng) -> Tensor:
    """Of which images (B, C, H, W) PGD-20 at eps 64 leaves half of the decisions or more right; shape (B,).

    Half, not none: of fourteen findings a rare one may well be out of reach, and guessing gets half of them right.
    """
    attack = ATTACKS["pgd"].build(ATTACKS["pgd"].budget(LARGE_EPS), objective)
    x_adv = attack(Blocks(inference_copy(model, x)), x, y, rng=rng)
    with torch.no_grad(), frozen_eval(model):
        return share_right(Blocks(model)(x_adv).float(), y) >= 0.5


@dataclass(frozen=True)
class Passes:
    """Two passes over the same images, as `evaluate` scores them."""

    logits: Tensor  # (B, K, ...) float32, of the first
    unsteady: Tensor  # (B,): the second differs
    training: set[str]  # names of the submodules in train mode


def score_twice(network: nn.Module, x: Tensor) -> Passes:
    """Runs the network twice on images x (B, C, H, W) in the mode it is scored in.

    What counts is that mode, not the one it is handed over in: `evaluate` puts every network in eval mode. A submodule
    that is in train mode all the same has refused it or changed back.
    """
    with torch.no_grad(), frozen_eval(network):
        first, second = Blocks(network)(x).float(), Blocks(network)(x).float()
        training = {name or "the network" for name, part in network.named_modules() if part.training}
    change = (first - second).abs().flatten(1).amax(dim=1)
    return Passes(first, change > TOLERANCE * first.abs().flatten(1).amax(dim=1), training)


def _moved(network: nn.Module, before: dict[str, Tensor]) -> set[str]:
    now = dict(network.named_buffers())
    return {name for name, buffer in before.items() if not torch.equal(buffer, now[name])}


def _first(loader: Iterable[Batch], count: int) -> Iterator[Batch]:
    """The loader's first `count` images, the last batch cut short."""
    for batch in tqdm(loader, desc="reliability", unit="batch", disable=None, leave=False):
        yield Batch(batch.x[:count], batch.y[:count], batch.index[:count])
        count -= len(batch)
        if count <= 0:
            return
