"""Whether a run's robustness numbers can be trusted: checks of the rows and of the networks, with reasons.

An attack that fails may fail because the network is robust, or because its gradients are of no use to the attack
(Athalye et al. 2018; Carlini et al. 2019, "On evaluating adversarial robustness"). Nine checks tell one from the other.
`advmia.probe` measures the networks on a few images; `report` judges what was measured, and knows no network."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from torch import nn

from advmia.data.loading import EvaluationLoader
from advmia.evaluation.probe import LARGE_EPS, TOLERANCE, Probe, probe_network
from advmia.results.record import CLEAN, ResultFile, read_results
from advmia.tasks import Task

Verdict = Literal["ok", "warning", "not checked"]
Table = dict[tuple[str, float], float]  # (attack, eps in grey levels) to the score by which the task is selected

# Attacks that follow gradients, and those that only ask for outputs. AutoAttack is neither: Square is a part of it.
# SimBA asks too, but its eps is a step and no bound, so that it compares with nothing. FGSM's one step is no match for
# Square on a sound network either.
GRADIENT = (
    *("pgd", "pgd-margin", "pgd-dice", "cw"),
    *("apgd", "apgd-ce", "apgd-t", "apgd-margin", "apgd-dice", "fab-t"),
)
BLACK_BOX = ("square",)
NOT_COMPARED = (CLEAN, "fgsm", "aa", "simba")
UNBOUNDED = ("simba",)
FEW = 0.01  # a share of the images up to which a fault is theirs, not the network's
HOLDING = 0.1  # a share of the images that may withstand the large eps
SLACK = 0.005  # how far random starts and the last few images move a score


@dataclass(frozen=True)
class Check:
    """One check's outcome; the reason is a sentence with the numbers in it."""

    check: str
    verdict: Verdict
    reason: str

    @property
    def line(self) -> str:
        return f"[{self.verdict}] {self.check}: {self.reason}"


def conclude(
    results: ResultFile, loader: EvaluationLoader, task: Task, target: nn.Module, source: nn.Module | None
) -> list[Check]:
    """Checks a finished run, and records the checks and what was measured for them in its JSON file.

    `source` is None for a white-box run, as in `evaluate`.
    """
    probed = _recorded_probe(results)
    if probed is None:
        probed = probe_network(source or target, loader, task, scored=target, seed=results.run["seed"])
    table = {(row.attack, row.eps): row.scores[task.selection] for row in results.rows}
    others = _results_beside(results, task.selection)
    checks = report(table, probed, score=task.selection, transfer=_is_transfer(results.run), others=others)
    results.record["probe"], results.record["reliability"] = asdict(probed), [vars(check) for check in checks]
    results.save()
    return checks


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
    if lead < -SLACK:
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
    if lead < -SLACK:
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
        faults.append(f"logits that differ by less than {TOLERANCE} between the classes at {counted}")
    # Neighbours in a list may well be alike (two frames of one patient): only most of them make a constant.
    if probed.repeated > (probed.images - 1) / 2:
        counted = _counted(probed.repeated, probed.images - 1)
        faults.append(f"outputs that differ by less than {TOLERANCE} from the image before at {counted}: a constant")
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
