"""The worst of all attacks, image by image: a row of the result files that needs nothing but the other rows' outcomes.

Only bounded attacks count, at one eps each. With a single label, an image counts as correct only if it withstands every
attack; a fooled image has the wrong class of the first attack that fools it. With masks, an image has the lowest Dice
of all attacks, and the IoU beside it. With findings, an image has for each finding the lowest logit of all attacks if
the finding is present, and the highest if it is absent. AUROC is then no higher than under any single attack: it is
that of an adversary who chooses the attack by image and finding.

Scores that need more than the outcomes, such as the AUROC of a single label, are undefined: NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from advmia.data.loading import ImageData
from advmia.data.readers import SampleList
from advmia.metrics import MultiLabelMeter, Scores, confusion, scores_of_confusion
from advmia.results.rows import CLEAN, WORST, ResultRow, bounded_rows
from advmia.results.write import ResultFile
from advmia.targets import TaskName
from advmia.tasks import MULTI_LABEL, SEGMENTATION, SINGLE_LABEL, Task


def renew_worst(results: ResultFile, task: Task, data: ImageData) -> list[ResultRow]:
    """Puts the rows `worst` of all eps at the end of the results, replacing earlier ones, and returns them.

    There is one at each eps at which two bounded attacks or more were run: of one, it would repeat the row. The files
    are not written here. `data`: the whole list.
    """
    rows = [row for row in results.rows if row.attack != WORST]
    y = torch.empty(0) if task is SEGMENTATION else data.targets(data.indices)
    clean, found = torch.tensor(results.row(CLEAN, 0).outcomes), []
    for grey_eps, eight_bits in sorted({(row.grey_eps, row.eight_bits) for row in rows}):
        attacks = bounded_rows(rows, grey_eps, eight_bits=eight_bits)
        if len({row.attack for row in attacks}) < 2:
            continue
        worst = _OF_TASK[task.name](torch.tensor([row.outcomes for row in attacks]), y, data.samples)
        scores = dict.fromkeys((name for row in attacks for name in row.scores), math.nan) | worst.scores
        row = ResultRow(
            attack=WORST,
            grey_eps=grey_eps,
            steps=0,
            grey_step_size=0.0,
            n=len(worst.outcomes),
            scores=scores | task.against_clean(clean, worst.outcomes, y),
            seconds=sum(row.seconds for row in attacks),
            outcomes=worst.outcomes.tolist(),
            l2=math.nan,
            grey_linf=math.nan,
            notes={} if worst.attack is None else {"attack": worst.attack.tolist()},
            eight_bits=eight_bits,
            attacks=[row.label for row in attacks],
        )
        found.append(row)
    results.rows = rows + found
    return found


@dataclass(frozen=True)
class _Worst:
    """The outcomes of the worst attack of each image, the scores that follow from them, and which attack it was."""

    outcomes: Tensor  # (N, ...)
    scores: Scores
    attack: Tensor | None  # (N,): the attack's number, -1 for an image that withstands all; None: it differs by finding


def _of_classes(outcomes: Tensor, y: Tensor, samples: SampleList) -> _Worst:
    """Takes the predicted classes (A, N) under each of A attacks, and the labels y (N,)."""
    wrong = outcomes != y
    first = wrong.int().argmax(dim=0)
    fooled = wrong.any(dim=0)
    worst = torch.where(fooled, outcomes.gather(0, first[None])[0], y)
    scores = scores_of_confusion(confusion(y, worst, samples.classes), samples.spec.positive)
    return _Worst(worst, scores, torch.where(fooled, first, -1))


def _of_findings(outcomes: Tensor, y: Tensor, samples: SampleList) -> _Worst:
    """Takes the logits (A, N, L) under each of A attacks, and the findings y (N, L) of 0 and 1."""
    worst = torch.where(y > 0.5, outcomes.amin(dim=0), outcomes.amax(dim=0))
    meter = MultiLabelMeter(samples.spec.findings)
    meter.update(worst, y)
    return _Worst(worst, meter.compute(), None)


def _of_masks(outcomes: Tensor, y: Tensor, samples: SampleList) -> _Worst:
    """Takes Dice and IoU of each image, (A, N, 2), under each of A attacks."""
    lowest = outcomes[..., 0].argmin(dim=0)
    worst = outcomes[lowest, torch.arange(len(lowest))]
    scores = dict(zip(("dice", "iou"), worst.double().mean(dim=0).tolist(), strict=True))
    return _Worst(worst, scores, lowest)


_OF_TASK: dict[TaskName, Callable[[Tensor, Tensor, SampleList], _Worst]] = {
    SINGLE_LABEL.name: _of_classes,
    MULTI_LABEL.name: _of_findings,
    SEGMENTATION.name: _of_masks,
}
