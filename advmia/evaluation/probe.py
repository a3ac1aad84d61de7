"""Measures a network on a few images before its robustness numbers are trusted; `advmia.evaluation.checks` judges."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import cast

import torch
from torch import Tensor, nn

from advmia.attacks import ATTACKS
from advmia.attacks.common import Objective, frozen_eval, input_gradient
from advmia.attacks.inference import Blocks, inference_copy
from advmia.data.loading import Batch, EvaluationLoader
from advmia.metrics import mask_overlap
from advmia.runtime.progress import Bar
from advmia.runtime.rng import SampleRng
from advmia.tasks import Task

PROBED = 256  # at most this many images are measured
ATTACKED = 64  # at most this many of them are attacked at the large eps
LARGE_EPS = 64.0  # grey levels: a quarter of the range, which no useful network withstands
TOLERANCE = 1e-3  # logits that differ by less count as equal; so do two passes, as a share of the largest logit


@dataclass(frozen=True)
class Probe:
    """What was measured. Every `int` is a number of images; the field names are keys in result files.

    The last three fields are about the source and the target, all others about the source alone.
    """

    images: int  # measured
    attacked: int  # attacked at the large eps, if the score counts them
    holding: int  # of `attacked`: those of which half or more is still right, see `scored_right`
    without_gradient: int  # where the loss has no input gradient, see `without_gradient`
    saturated: int  # where the loss does not depend on half of the decisions or more, see `saturated`
    flat: int  # where the outputs hardly differ between the classes, see `flat`
    repeated: int  # where the outputs hardly differ from those of the image before, see `repeated`
    not_finite: int  # with outputs that are not all finite
    probabilities: int  # with outputs that may be probabilities, see `like_probabilities`
    outside: int  # with pixels that are not finite or outside [0, 1]
    lowest: float  # the lowest pixel value; values that are not finite count as 0 here
    highest: float  # likewise the highest
    unsteady: int  # with outputs that differ between two passes
    training: list[str]  # submodules that are in train mode while the network is scored
    moved: list[str]  # buffers (running statistics) that the passes changed


def probe_network(
    source: nn.Module, loader: EvaluationLoader, task: Task, *, target: nn.Module | None = None, seed: int = 0
) -> Probe:
    """Measures the source, the network on which adversarial images are made, on the first images of the list.

    `target`: the target of a transfer run; whether it is in eval mode and steady is measured as well. The cost
    is about three passes and one gradient for at most 256 images, and PGD-20 for at most 64: a fiftieth of FGSM and PGD
    at four eps on a thousand images.
    """
    objective = task.attacks["pgd"]
    networks = [source] if target is None or target is source else [source, target]
    before = [{name: buffer.clone() for name, buffer in network.named_buffers()} for network in networks]
    counts, training, previous, lowest, highest = Counter[str](), set[str](), None, math.inf, -math.inf
    for batch in _first(loader, PROBED):
        passes = [score_twice(network, batch.x) for network in networks]
        training.update(*(two_passes.training for two_passes in passes))
        logits = passes[0].logits
        flags = {
            "images": torch.ones(len(batch)),
            "without_gradient": without_gradient(source, batch.x, batch.y, objective),
            "saturated": saturated(logits, batch.y, objective),
            "flat": flat(logits),
            "repeated": repeated(logits, previous),
            "not_finite": ~logits.isfinite().flatten(1).all(dim=1),
            "probabilities": like_probabilities(logits, batch.y),
            "outside": outside(batch.x),
            "unsteady": torch.stack([two_passes.unsteady for two_passes in passes]).any(dim=0),
        }
        counts.update({name: int(flag.sum()) for name, flag in flags.items()})
        previous = logits[-1:]
        values = batch.x.nan_to_num(0, 0, 0)
        lowest, highest = min(lowest, float(values.min())), max(highest, float(values.max()))
    attacked, y = [], []
    for batch in _first(loader, ATTACKED):
        rng = SampleRng.of(seed, "reliability", LARGE_EPS, samples=batch.index.tolist(), device=loader.device)
        attacked.append(logits_at_large_eps(source, batch.x, batch.y, objective, rng))
        y.append(batch.y)
    scores = scored_right(torch.cat(attacked), torch.cat(y))
    counts.update({"attacked": len(scores), "holding": int((scores >= 0.5).sum())})
    moved = set[str]().union(*map(_moved_buffers, networks, before))
    counted = {field.name: counts[field.name] for field in fields(Probe)}
    lists = {"training": sorted(training), "moved": sorted(moved)}
    return Probe(**{**counted, **lists, "lowest": lowest, "highest": highest})  # type: ignore[arg-type]


def outside(x: Tensor) -> Tensor:
    """Returns which images (B, C, H, W) are not finite or outside [0, 1]; shape (B,)."""
    return ~((x >= 0) & (x <= 1)).flatten(1).all(dim=1)  # both comparisons are false for NaN


def flat(logits: Tensor) -> Tensor:
    """Returns which images' logits (B, K, ...) differ by less than 0.001 between classes everywhere; shape (B,)."""
    spread = logits.amax(dim=1) - logits.amin(dim=1)
    return spread.reshape(len(logits), -1).amax(dim=1) < TOLERANCE


def repeated(logits: Tensor, previous: Tensor | None) -> Tensor:
    """Returns which images' logits (B, K, ...) differ by less than 0.001 from those of the image before; shape (B,).

    `previous`: the logits (1, K, ...) of the image before the batch; None if there is none.
    """
    earlier = torch.cat([logits[:1] if previous is None else previous, logits[:-1]])
    same = (logits - earlier).abs().flatten(1).amax(dim=1) < TOLERANCE
    if previous is None:
        same[0] = False
    return same


def like_probabilities(logits: Tensor, y: Tensor) -> Tensor:
    """Returns which images' outputs (B, K, ...) are in [0, 1] and sum to 1 over the classes; shape (B,).

    Findings do not exclude each other, so that their probabilities need not sum to 1.
    """
    within = ~outside(logits)
    if _are_findings(logits, y):
        return within
    return within & ((logits.sum(dim=1) - 1).abs().reshape(len(logits), -1).amax(dim=1) < TOLERANCE)


def saturated(logits: Tensor, y: Tensor, objective: Objective) -> Tensor:
    """Returns for which images the loss does not depend on half of the decisions or more; shape (B,).

    logits (B, K, ...). A decision is a class, a finding or a pixel's class. The loss does not depend on it in float32
    where the gradient by the label's own logit is exactly 0. That is so where the label's logit leads by 17 or more,
    since 1 + exp(-17) is rounded to 1; for a finding that is absent, where its logit is below about -88, since the
    exponential of that is 0.
    """
    logits = logits.detach().requires_grad_(True)
    with torch.enable_grad():
        gradient = torch.autograd.grad(objective(logits, y).sum(), logits)[0]
    own = gradient if _are_findings(logits, y) else gradient.gather(1, y[:, None])
    return (own == 0).flatten(1).double().mean(dim=1) >= 0.5


def scored_right(logits: Tensor, y: Tensor) -> Tensor:
    """Returns how much of each image is right, from 0 to 1, as the task's score counts it; shape (N,) or shorter.

    With a single label, whether the class is right; with masks, the Dice. With findings, the share of the pairs with
    the other images that are in the right order: a pair is an image with a finding and one without it, and ties count
    half, as in AUROC. An image without any pair is left out.
    """
    if not _are_findings(logits, y):
        return mask_overlap(logits, y)[:, 0] if y.dim() > 1 else (logits.argmax(dim=1) == y).double()
    present = y > 0.5
    lead = logits[:, None] - logits  # (N, N, L): of each image over each other
    right = (lead > 0) == present[:, None]
    right_share = torch.where(lead == 0, 0.5, right.double())
    pairs = present[:, None] != present  # (N, N, L)
    counted = pairs.sum(dim=(1, 2))
    return ((right_share * pairs).sum(dim=(1, 2)) / counted)[counted > 0]


def _are_findings(logits: Tensor, y: Tensor) -> bool:
    """Returns whether the labels are findings: these have the shape of the logits, other labels have not."""
    return y.shape == logits.shape


def without_gradient(model: nn.Module, x: Tensor, y: Tensor, objective: Objective) -> Tensor:
    """Returns for which images x (B, C, H, W) there is no useful gradient; shape (B,).

    There the objective's gradient with respect to x is zero at all pixels, or not finite at some.
    """
    network = inference_copy(model, x)  # as attacks see it
    with frozen_eval(network):
        gradient = input_gradient(Blocks(network), x, y, objective).flatten(1)
    return (gradient == 0).all(dim=1) | ~gradient.isfinite().all(dim=1)


def logits_at_large_eps(model: nn.Module, x: Tensor, y: Tensor, objective: Objective, rng: SampleRng) -> Tensor:
    """Returns the network's logits (B, K, ...) on images x (B, C, H, W) that PGD-20 has attacked at 64 grey levels."""
    attack = ATTACKS["pgd"].build(ATTACKS["pgd"].budget(LARGE_EPS), objective)
    x_adv = attack(Blocks(inference_copy(model, x)), x, y, rng=rng)
    with torch.no_grad(), frozen_eval(model):
        return cast(Tensor, Blocks(model)(x_adv).float())


@dataclass(frozen=True)
class TwoPasses:
    """Two passes of a network over the same images."""

    logits: Tensor  # (B, K, ...) float32, of the first pass
    unsteady: Tensor  # (B,): where the second pass differs
    training: set[str]  # names of the submodules that were in train mode


def score_twice(network: nn.Module, x: Tensor) -> TwoPasses:
    """Runs the network twice on images x (B, C, H, W), in eval mode as `evaluate` does.

    A submodule that is in train mode nevertheless has overridden `train` or changed its mode back.
    """
    with torch.no_grad(), frozen_eval(network):
        first, second = Blocks(network)(x).float(), Blocks(network)(x).float()
        training = {name or "the network" for name, part in network.named_modules() if part.training}
    change = (first - second).abs().flatten(1).amax(dim=1)
    return TwoPasses(first, change > TOLERANCE * first.abs().flatten(1).amax(dim=1), training)


def _moved_buffers(network: nn.Module, before: dict[str, Tensor]) -> set[str]:
    """Returns the names of the buffers that differ from those in `before`."""
    now = dict(network.named_buffers())
    return {name for name, buffer in before.items() if not torch.equal(buffer, now[name])}


def _first(loader: Iterable[Batch], count: int) -> Iterator[Batch]:
    """Yields the loader's first `count` images; the last batch is cut short."""
    for batch in Bar(loader, desc="reliability", unit="batches", leave=False):
        yield Batch(batch.x[:count], batch.y[:count], batch.index[:count])
        count -= len(batch)
        if count <= 0:
            return
