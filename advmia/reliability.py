"""Whether a run's robustness numbers can be trusted: checks of the rows and of the networks, with reasons.

An attack that fails may fail because the network is robust, or because its gradients are of no use to the attack
(Athalye et al. 2018; Carlini et al. 2019, "On evaluating adversarial robustness"). Nine checks tell one from the other.
`probe` measures the networks on a few images; `report` judges what was measured, and knows no network.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from advmia.attacks import ATTACKS
from advmia.attacks.steps import Objective, frozen_eval, input_gradient
from advmia.data.loading import Batch, EvaluationLoader
from advmia.inference import EqualBlocks, inference_copy
from advmia.results import CLEAN, ResultFile, read_results
from advmia.rng import SampleRng
from advmia.tasks import Task

Verdict = Literal["ok", "warning", "not checked"]
Table = dict[tuple[str, float], float]  # (attack, eps in grey levels) to the score by which the task is selected

# Attacks that follow gradients, and those that only ask for outputs. AutoAttack is neither: Square is a part of it.
# SimBA asks too, but its eps is a step and no bound, so that it compares with nothing.
GRADIENT = (
    *("fgsm", "pgd", "pgd-margin", "pgd-dice", "cw"),
    *("apgd", "apgd-ce", "apgd-t", "apgd-margin", "apgd-dice", "fab-t"),
)
BLACK_BOX = ("square",)
NOT_COMPARED = (CLEAN, "aa", "simba")
UNBOUNDED = ("simba",)

PROBED = 256  # images looked at
ATTACKED = 64  # of them, attacked at the large eps
LARGE_EPS = 64.0  # grey levels: a quarter of the range, which no useful network withstands

FEW = 0.01  # a share of the images up to which a fault is theirs, not the network's
HOLDING = 0.1  # a share of the images that may withstand the large eps
SLACK = 0.005  # how far random starts and the last few images move a score between two eps
HARDLY = 1e-3  # logits that differ by less are the same; so are two passes, as a share of the largest logit


@dataclass(frozen=True)
class Check:
    """One check's outcome; the reason is a sentence with the numbers in it."""

    check: str
    verdict: Verdict
    reason: str

    @property
    def line(self) -> str:
        return f"[{self.verdict}] {self.check}: {self.reason}"


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


# --- measuring ------------------------------------------------------------------------------------------------------


def probe(
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
        held = holding(model, batch.x, batch.y, objective, rng)
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
    return spread.reshape(len(logits), -1).amax(dim=1) < HARDLY


def repeated(logits: Tensor, previous: Tensor | None) -> Tensor:
    """Which images' logits (B, K, ...) are within 0.001 of those of the image before; shape (B,).

    `previous`: the logits (1, K, ...) of the image before the first; None where there is none.
    """
    earlier = torch.cat([logits[:1] if previous is None else previous, logits[:-1]])
    same = (logits - earlier).abs().flatten(1).amax(dim=1) < HARDLY
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
    return within & ((logits.sum(dim=1) - 1).abs().reshape(len(logits), -1).amax(dim=1) < HARDLY)


def saturated(logits: Tensor, y: Tensor, objective: Objective) -> Tensor:
    """For which images the loss is blind, in float32, to half of the decisions or more; logits (B, K, ...); shape (B,).

    It is blind to a decision (a class, a finding, a pixel's class) where its gradient by the label's own logit is
    exactly 0: the lead is 17 or more, and one plus its exponential is rounded to one.
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
        gradient = input_gradient(EqualBlocks(attacked), x, y, objective).flatten(1)
    return (gradient == 0).all(dim=1) | ~gradient.isfinite().all(dim=1)


def holding(model: nn.Module, x: Tensor, y: Tensor, objective: Objective, rng: SampleRng) -> Tensor:
    """Of which images (B, C, H, W) PGD-20 at eps 64 leaves half of the decisions or more right; shape (B,).

    Half, not none: of fourteen findings a rare one may well be out of reach, and guessing gets half of them right.
    """
    attack = ATTACKS["pgd"].build(ATTACKS["pgd"].budget(LARGE_EPS), objective)
    x_adv = attack(EqualBlocks(inference_copy(model, x)), x, y, rng=rng)
    with torch.no_grad(), frozen_eval(model):
        return share_right(EqualBlocks(model)(x_adv).float(), y) >= 0.5


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
        first, second = EqualBlocks(network)(x).float(), EqualBlocks(network)(x).float()
        training = {name or "the network" for name, part in network.named_modules() if part.training}
    change = (first - second).abs().flatten(1).amax(dim=1)
    return Passes(first, change > HARDLY * first.abs().flatten(1).amax(dim=1), training)


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


# --- judging --------------------------------------------------------------------------------------------------------


def report(
    table: Table, probed: Probe, *, score: str, transfer: bool = False, others: dict[str, Table] | None = None
) -> list[Check]:
    """The nine checks of a run.

    `table`: the run's scores, named `score`, clean at ("none", 0). `transfer`: whether the source is another network
    than the target. `others`: by file, the white-box results of a transfer run's target, or a white-box run's transfer
    results, on equal images.
    """
    table = _defined(table)
    elsewhere = {name: _defined(other) for name, other in (others or {}).items()}
    return [
        _black_box(table, score, transfer),
        _transfer(table, score, transfer, elsewhere),
        _eps_order(table, score),
        _large_eps(probed),
        _zero_gradients(probed),
        _saturation(probed),
        _outputs(probed),
        _inputs(probed),
        _mode(probed),
    ]


def _black_box(table: Table, score: str, transfer: bool) -> Check:
    """Whether an attack that sees outputs alone gets further than all that follow gradients."""
    if transfer:
        return Check("black-box", "not checked", "the attacks were made on another network than the one scored")
    pairs = []
    for (attack, eps), found in table.items():
        rivals = [(table[name, eps], name) for name in GRADIENT if (name, eps) in table]
        if attack in BLACK_BOX and rivals:
            strongest, name = min(rivals)
            pairs.append((found - strongest, f"{attack} leaves {found:.4f} and {name} {strongest:.4f} at eps {eps:g}"))
    if not pairs:
        wanted = f"{' or '.join(BLACK_BOX)} and a gradient attack ({', '.join(GRADIENT[:4])}) at one eps"
        return Check("black-box", "not checked", f"there are no rows of {wanted}")
    lead, closest = min(pairs)
    if lead < 0:
        why = "an attack without gradients beats those with them, so the gradients mislead"
        return Check("black-box", "warning", f"{score}: {closest}: {why}")
    return Check("black-box", "ok", f"{score}: {closest}, the closest of {len(pairs)}: gradient attacks are stronger")


def _transfer(table: Table, score: str, transfer: bool, others: dict[str, Table]) -> Check:
    """Whether an attack made on another network gets further than the same made on the target itself."""
    pairs = []
    for name, other in others.items():
        transferred, white_box = (table, other) if transfer else (other, table)
        for attack, eps in transferred.keys() & white_box.keys() - {(CLEAN, 0.0)}:
            found, own = transferred[attack, eps], white_box[attack, eps]
            text = f"{attack} at eps {eps:g} leaves {found:.4f} by transfer and {own:.4f} white-box ({name})"
            pairs.append((found - own, text))
    if not pairs:
        kinds = ("this run is transfer", "white-box") if transfer else ("this run is white-box", "transfer")
        reason = f"{kinds[0]}, and there are no {kinds[1]} results of the same target, images and attacks beside it"
        return Check("transfer", "not checked", reason)
    lead, closest = min(pairs)
    if lead < 0:
        why = "the white-box attack is not the strongest, as it should be"
        return Check("transfer", "warning", f"{score}: {closest}: {why}")
    return Check("transfer", "ok", f"{score}: {closest}, the closest of {len(pairs)}: white-box attacks are stronger")


def _eps_order(table: Table, score: str) -> Check:
    """Whether an attack gets less far with a larger eps: what misleads within the smaller is within the larger too."""
    steps = []
    for attack in dict.fromkeys(name for name, _ in table if name not in (CLEAN, *UNBOUNDED)):
        curve = sorted((eps, found) for (name, eps), found in table.items() if name in (attack, CLEAN))
        for (eps, found), (next_eps, after) in pairwise(curve):
            text = f"from {found:.4f} at eps {eps:g} to {after:.4f} at eps {next_eps:g} under {attack}"
            steps.append((after - found, text))
    if not steps:
        return Check("eps order", "not checked", "there are no rows of one attack at two eps, or of it and clean")
    rise, largest = max(steps)
    if rise > SLACK:
        count = sum(each > SLACK for each, _ in steps)
        reason = f"{score} rises {largest} ({count} of {len(steps)} steps): a larger eps allows all that a smaller does"
        return Check("eps order", "warning", reason)
    reason = (
        f"{score} rises by no more than {SLACK} in any of {len(steps)} steps of eps; the nearest to it is {largest}"
    )
    return Check("eps order", "ok", reason)


def _large_eps(probed: Probe) -> Check:
    counted = _counted(probed.holding, probed.attacked)
    bad = probed.holding > HOLDING * probed.attacked
    reason = f"PGD-20 at eps {LARGE_EPS:g} leaves half or more of the decisions right on {counted}"
    more = f"; {HOLDING:.0%} at most were expected: the attack does not work on this network" if bad else ""
    return Check("large eps", _verdict(bad), reason + more)


def _zero_gradients(probed: Probe) -> Check:
    bad = probed.without_gradient > FEW * probed.images
    counted = _counted(probed.without_gradient, probed.images)
    reason = f"the loss has an input gradient of zero, or none that is finite, at {counted}"
    return Check("zero gradients", _verdict(bad), reason + ("; gradient attacks cannot move these" if bad else ""))


def _saturation(probed: Probe) -> Check:
    """Logits too far apart for the loss in float32, or too near each other to tell anything."""
    faults = []
    if probed.saturated > FEW * probed.images:
        counted = _counted(probed.saturated, probed.images)
        faults.append(f"logits so large that the loss is blind to them in float32 at {counted}")
    if probed.flat > FEW * probed.images:
        counted = _counted(probed.flat, probed.images)
        faults.append(f"logits that differ by less than {HARDLY} between the classes at {counted}")
    # Neighbours in a list may well be alike (two frames of one patient): only most of them make a constant.
    if probed.repeated > (probed.images - 1) / 2:
        counted = _counted(probed.repeated, probed.images - 1)
        faults.append(f"outputs that differ by less than {HARDLY} from the image before at {counted}: a constant")
    if faults:
        return Check("saturation", "warning", "; ".join(faults))
    numbers = f"{probed.saturated} too large and {probed.flat} too small for the loss, {probed.repeated} repeated"
    return Check("saturation", "ok", f"the logits of {probed.images} images: {numbers}")


def _outputs(probed: Probe) -> Check:
    """Attacks need logits: of probabilities the loss takes the softmax once more, and its gradient fades."""
    if probed.not_finite:
        counted = _counted(probed.not_finite, probed.images)
        return Check("outputs", "warning", f"the outputs are not all finite numbers at {counted}")
    counted = _counted(probed.probabilities, probed.images)
    if probed.images and probed.probabilities == probed.images:
        return Check("outputs", "warning", f"the outputs look like probabilities at {counted}: attacks need logits")
    return Check("outputs", "ok", f"the outputs are finite, and look like probabilities at {counted}: they are logits")


def _inputs(probed: Probe) -> Check:
    counted = f"{_counted(probed.outside, probed.images)} are not finite or outside [0, 1]"
    found = f"; values go from {probed.lowest:.4g} to {probed.highest:.4g}"
    return Check("inputs", _verdict(probed.outside > 0), counted + found)


def _mode(probed: Probe) -> Check:
    faults = []
    if probed.training:
        faults.append(f"{_listed(probed.training)} in train mode while scoring")
    if probed.moved:
        faults.append(f"{_listed(probed.moved)} changed by scoring")
    if probed.unsteady:
        counted = _counted(probed.unsteady, probed.images)
        faults.append(f"two passes differ at {counted}: something random is on, and scores are a matter of luck")
    if faults:
        return Check("mode", "warning", "; ".join(faults))
    reason = f"all submodules were in eval mode, and two passes over {probed.images} images agree"
    return Check("mode", "ok", reason)


def _verdict(bad: bool) -> Verdict:
    return "warning" if bad else "ok"


def _counted(count: int, images: int) -> str:
    return f"{count} of {images} images ({count / max(images, 1):.1%})"


def _listed(names: list[str]) -> str:
    """The names, or the first three of many and their number."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _defined(table: Table) -> Table:
    return {key: found for key, found in table.items() if not math.isnan(found)}


# --- a run's end ----------------------------------------------------------------------------------------------------


def conclude(
    results: ResultFile, loader: EvaluationLoader, task: Task, target: nn.Module, source: nn.Module | None
) -> list[Check]:
    """Checks a finished run, and records the checks and what was measured for them in its JSON file.

    `source` is None for a white-box run, as in `evaluate`.
    """
    probed = _recorded_probe(results)
    if probed is None:
        probed = probe(source or target, loader, task, scored=target, seed=results.run["seed"])
    table = {(row.attack, row.eps): row.scores[task.selection] for row in results.rows}
    others = _results_beside(results, task.selection)
    checks = report(table, probed, score=task.selection, transfer=_is_transfer(results.run), others=others)
    results.record["probe"], results.record["reliability"] = asdict(probed), [vars(check) for check in checks]
    results.save()
    return checks


def _recorded_probe(results: ResultFile) -> Probe | None:
    """What an earlier, equal run measured, where this one had nothing to add.

    A run that adds a row rewrites the file without it. It then has had work enough beside which the probe is cheap; on
    a CPU, and for nothing but to print what is known, it would be the whole wait.
    """
    earlier = read_results(results.json_path) or {}
    written = earlier.get("probe")
    if earlier.get("run") != results.run or not isinstance(written, dict):
        return None
    if written.keys() != {field.name for field in fields(Probe)}:  # of another version
        return None
    return Probe(**written)


def _results_beside(results: ResultFile, score: str) -> dict[str, Table]:
    """By file name, the scores of the same target on equal images under the other kind of attack, white-box or not."""
    own = results.json_path.name
    name, source = results.stem.name, Path(results.facts["source_weight"]).name
    white_box = name.removesuffix(f"__from__{source}")
    tables = {}
    for path in sorted(results.stem.parent.glob("*.json")):
        if path.name == own or not path.name.startswith((f"{white_box}.json", f"{white_box}__from__")):
            continue
        record = read_results(path)
        if record and _is_comparable(record["run"], results.run):
            rows = record["rows"]
            scores = ((row["attack"], row["eps"], row["scores"].get(score)) for row in rows)
            tables[path.name] = {(attack, eps): found for attack, eps, found in scores if found is not None}
    return tables


def _is_comparable(other: dict[str, Any], run: dict[str, Any]) -> bool:
    """Whether two runs differ in the source alone, which is the target itself in one of them."""
    same = {**other, "source_sha256": None} == {**run, "source_sha256": None}
    return same and _is_transfer(other) != _is_transfer(run)


def _is_transfer(run: dict[str, Any]) -> bool:
    return run["source_sha256"] != run["target_sha256"]
