"""Nine checks of whether a run's robustness numbers can be trusted, each with a verdict and its reason.

An attack that fails may fail because the network is robust, or because its gradients mislead the attack (Athalye et al.
2018, "Obfuscated gradients give a false sense of security"; Carlini et al. 2019, "On evaluating adversarial
robustness"). The checks look for signs of the second in the run's scores and in what `advmia.evaluation.probe` has
measured; they need neither the network nor the images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from advmia.attacks import ATTACKS
from advmia.evaluation.probe import LARGE_EPS, TOLERANCE, Probe
from advmia.results.intervals import wilson
from advmia.results.rows import CLEAN, is_bounded

Verdict = Literal["ok", "warning", "not checked"]
ScoreTable = dict[tuple[str, float], float]  # (attack, eps in grey levels): the score by which the task selects epochs

# The black-box check compares attacks without gradients to attacks with gradients, at one eps. Not SimBA, whose eps is
# no bound; nor FGSM, whose one step is weaker than Square on a sound network too; nor MI-FGSM, which is made for other
# networks than the attacked one; nor AutoAttack, of which Square is a part.
NOT_COMPARED = ("fgsm", "mifgsm", "dimifgsm", "aa")
GRADIENT = tuple(name for name, spec in ATTACKS.items() if spec.uses_gradients and name not in NOT_COMPARED)
BLACK_BOX = tuple(name for name, spec in ATTACKS.items() if not spec.uses_gradients and spec.bounded)

FEW = 0.01  # a fault in at most this share of the images is put down to the images, not to the network
WITHSTAND_LARGE_EPS = 0.1  # the share of the images that may withstand the large eps
_LEFT = {  # what an image keeps that withstands the large eps (`advmia.evaluation.probe.scored_right`), by score
    "accuracy": "the class right",
    "auroc": "half or more of the pairs that AUROC counts in the right order",
    "dice": "a Dice of 0.5 or more",
}
SLACK = 0.005  # random starts and single images may change a score by this much


@dataclass(frozen=True)
class Check:
    """The outcome of one check. The field names are keys in result files."""

    check: str
    verdict: Verdict
    reason: str  # a sentence with the numbers in it

    @property
    def line(self) -> str:
        """The check as it is printed."""
        return f"[{self.verdict}] {self.check}: {self.reason}"


def report(
    table: ScoreTable,
    probe: Probe,
    *,
    score: str,
    transfer: bool = False,
    others: dict[str, ScoreTable] | None = None,
) -> list[Check]:
    """Returns the nine checks of a run.

    `table`: the run's scores, with the clean one at ("none", 0). `score`: their name. `transfer`: whether the source is
    another network than the target. `others`: by file name, the white-box results of the target of a transfer run, or
    the transfer results of the target of a white-box run, on the same images. Undefined scores (NaN) are left out.
    """
    table = _defined(table)
    others = {name: _defined(other) for name, other in (others or {}).items()}
    return [
        _black_box(table, score, transfer),
        _transfer(table, score, transfer, others),
        _eps_order(table, score),
        _large_eps(probe, score),
        _zero_gradients(probe),
        _saturation(probe),
        _outputs(probe),
        _inputs(probe),
        _mode(probe),
    ]


def _black_box(table: ScoreTable, score: str, transfer: bool) -> Check:
    """Warns if an attack that sees only outputs leaves a lower score than every attack that uses gradients."""
    if transfer:
        return Check("black-box", "not checked", "the adversarial images were made on another network than the target")
    pairs = []
    for (attack, grey_eps), left in table.items():
        rivals = [(table[name, grey_eps], name) for name in GRADIENT if (name, grey_eps) in table]
        if attack in BLACK_BOX and rivals:
            lowest, name = min(rivals)
            text = f"{attack} leaves {left:.4f} and {name} {lowest:.4f} at eps {grey_eps:g}"
            pairs.append((left - lowest, text))
    if not pairs:
        missing = f"{' or '.join(BLACK_BOX)} and a gradient attack ({', '.join(GRADIENT[:4])}) at one eps"
        return Check("black-box", "not checked", f"there are no rows of {missing}")
    difference, closest = min(pairs)
    if difference < -SLACK:
        why = "an attack without gradients beats those with them, so the gradients mislead"
        return Check("black-box", "warning", f"{score}: {closest}: {why}")
    return Check("black-box", "ok", f"{score}: {closest}, the closest of {len(pairs)}: gradient attacks are stronger")


def _transfer(table: ScoreTable, score: str, transfer: bool, others: dict[str, ScoreTable]) -> Check:
    """Warns if an attack made on another network leaves a lower score than the same attack made on the target."""
    pairs = []
    for name, other in others.items():
        transferred, white_box = (table, other) if transfer else (other, table)
        for attack, grey_eps in transferred.keys() & white_box.keys() - {(CLEAN, 0.0)}:
            on_source, on_target = transferred[attack, grey_eps], white_box[attack, grey_eps]
            scores = f"{on_source:.4f} by transfer and {on_target:.4f} white-box"
            pairs.append((on_source - on_target, f"{attack} at eps {grey_eps:g} leaves {scores} ({name})"))
    if not pairs:
        kinds = ("this run is transfer", "white-box") if transfer else ("this run is white-box", "transfer")
        reason = f"{kinds[0]}, and there are no {kinds[1]} results of the same target, images and attacks beside it"
        return Check("transfer", "not checked", reason)
    difference, closest = min(pairs)
    if difference < -SLACK:
        why = "the white-box attack is not the strongest, as it should be"
        return Check("transfer", "warning", f"{score}: {closest}: {why}")
    return Check("transfer", "ok", f"{score}: {closest}, the closest of {len(pairs)}: white-box attacks are stronger")


def _eps_order(table: ScoreTable, score: str) -> Check:
    """Warns if a score rises with eps. It cannot under an ideal attack: the smaller eps is within the larger one."""
    steps = []
    for attack in dict.fromkeys(name for name, _ in table if name != CLEAN and is_bounded(name)):
        curve = sorted((grey_eps, left) for (name, grey_eps), left in table.items() if name in (attack, CLEAN))
        for (grey_eps, before), (next_eps, after) in pairwise(curve):
            text = f"from {before:.4f} at eps {grey_eps:g} to {after:.4f} at eps {next_eps:g} under {attack}"
            steps.append((after - before, text))
    if not steps:
        return Check("eps order", "not checked", "there are no rows of one attack at two eps, or of it and clean")
    rise, largest = max(steps)
    if rise > SLACK:
        count = sum(step > SLACK for step, _ in steps)
        reason = f"{score} rises {largest} ({count} of {len(steps)} steps): a larger eps allows all that a smaller does"
        return Check("eps order", "warning", reason)
    reason = (
        f"{score} rises by no more than {SLACK} in any of {len(steps)} steps of eps; the nearest to it is {largest}"
    )
    return Check("eps order", "ok", reason)


def _large_eps(probe: Probe, score: str) -> Check:
    """Warns if many images withstand an eps that no useful network can withstand."""
    if not probe.attacked:
        return Check("large eps", "not checked", "no finding is in some of the first images and absent from others")
    is_bad = probe.holding > WITHSTAND_LARGE_EPS * probe.attacked
    share = _share_text(probe.holding, probe.attacked)
    reason = f"PGD-20 at eps {LARGE_EPS:g} leaves {_LEFT.get(score, _LEFT['accuracy'])} on {share}"
    if is_bad:
        reason += f"; {WITHSTAND_LARGE_EPS:.0%} at most were expected: "
        is_chance = wilson(probe.holding, probe.attacked)[0] <= WITHSTAND_LARGE_EPS
        chance = f"of {probe.attacked} images so few may do so by chance; test more"
        reason += chance if is_chance else "the attack does not work on this network"
    return Check("large eps", _verdict(is_bad), reason)


def _zero_gradients(probe: Probe) -> Check:
    """Warns if the loss has no useful input gradient."""
    is_bad = probe.without_gradient > FEW * probe.images
    share = _share_text(probe.without_gradient, probe.images)
    reason = f"the loss has an input gradient of zero, or none that is finite, at {share}"
    return Check(
        "zero gradients", _verdict(is_bad), reason + ("; gradient attacks cannot move these" if is_bad else "")
    )


def _saturation(probe: Probe) -> Check:
    """Warns if logits are too far apart for the loss in float32, or too close to each other to mean anything."""
    faults = []
    if probe.saturated > FEW * probe.images:
        share = _share_text(probe.saturated, probe.images)
        faults.append(f"logits so large that the loss is blind to them in float32 at {share}")
    if probe.flat > FEW * probe.images:
        share = _share_text(probe.flat, probe.images)
        faults.append(f"logits that differ by less than {TOLERANCE} between the classes at {share}")
    # Neighbours in a list may be alike (two frames of one patient): only if most are is the network constant.
    if probe.repeated > (probe.images - 1) / 2:
        share = _share_text(probe.repeated, probe.images - 1)
        faults.append(f"outputs that differ by less than {TOLERANCE} from the image before at {share}: a constant")
    if faults:
        return Check("saturation", "warning", "; ".join(faults))
    numbers = f"{probe.saturated} too large and {probe.flat} too small for the loss, {probe.repeated} repeated"
    return Check("saturation", "ok", f"the logits of {probe.images} images: {numbers}")


def _outputs(probe: Probe) -> Check:
    """Warns if outputs are not finite, or are probabilities: the loss would take the softmax a second time."""
    if probe.not_finite:
        share = _share_text(probe.not_finite, probe.images)
        return Check("outputs", "warning", f"the outputs are not all finite numbers at {share}")
    share = _share_text(probe.probabilities, probe.images)
    if probe.images and probe.probabilities == probe.images:
        return Check("outputs", "warning", f"the outputs look like probabilities at {share}: attacks need logits")
    return Check("outputs", "ok", f"the outputs are finite, and look like probabilities at {share}: they are logits")


def _inputs(probe: Probe) -> Check:
    """Warns if pixels are not in [0, 1]."""
    share = f"{_share_text(probe.outside, probe.images)} are not finite or outside [0, 1]"
    values = f"; values go from {probe.lowest:.4g} to {probe.highest:.4g}"
    return Check("inputs", _verdict(probe.outside > 0), share + values)


def _mode(probe: Probe) -> Check:
    """Warns if a network is not in eval mode, or its outputs are random."""
    faults = []
    if probe.training:
        faults.append(f"{_names_text(probe.training)} in train mode while scoring")
    if probe.moved:
        faults.append(f"{_names_text(probe.moved)} changed by scoring")
    if probe.unsteady:
        share = _share_text(probe.unsteady, probe.images)
        faults.append(f"two passes differ at {share}: something random is on, and scores are a matter of luck")
    if faults:
        return Check("mode", "warning", "; ".join(faults))
    reason = f"all submodules were in eval mode, and two passes over {probe.images} images agree"
    return Check("mode", "ok", reason)


def _verdict(is_bad: bool) -> Verdict:
    return "warning" if is_bad else "ok"


def _share_text(count: int, images: int) -> str:
    return f"{count} of {images} images ({count / max(images, 1):.1%})"


def _names_text(names: list[str]) -> str:
    """Returns the names as text: at most three, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _defined(table: ScoreTable) -> ScoreTable:
    return {key: score for key, score in table.items() if not math.isnan(score)}
