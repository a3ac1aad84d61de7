"""Which of two epochs of a training is the better one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from advmia.results.intervals import wilson

EpochFacts = dict[str, Any]  # `advmia.training.loop.Epoch` as a record holds it


@dataclass(frozen=True)
class Selection:
    """The rule by which the best epoch is chosen: by the robust score, or by the clean one in natural training.

    Of equal scores, the higher clean score is better, then the lower loss, then the earlier epoch. An epoch whose
    network predicts one class for all images is only better than another if its score's 95 % confidence interval lies
    above the other's score: its robustness is no skill, and a few images may have made it look better.
    """

    score: str  # name of the score
    images: int  # that are scored after each epoch; they determine the interval, Wilson's, as of a share of images

    def value(self, epoch: EpochFacts) -> float:
        """Returns the score by which the epoch is chosen; NaN if it is undefined, or the epoch was not validated."""
        scores = epoch["robust"] or epoch["clean"]
        return math.nan if scores is None else float(scores[self.score])

    def is_better(self, epoch: EpochFacts, best: EpochFacts) -> bool:
        """Returns whether an epoch is better than the best one before it."""
        if _is_one_class(best) and not _is_one_class(epoch):
            return self.value(epoch) >= self._lower_end(best)
        if _is_one_class(epoch) and not _is_one_class(best):
            return self._lower_end(epoch) > self.value(best)
        return self._rank(epoch) > self._rank(best)

    def _rank(self, epoch: EpochFacts) -> tuple[float, float, float]:
        return self.value(epoch), float(epoch["clean"][self.score]), -float(epoch["loss"])

    def _lower_end(self, epoch: EpochFacts) -> float:
        """Returns the lower end of the interval of the epoch's score."""
        return wilson(round(self.value(epoch) * self.images), self.images)[0]


def _is_one_class(epoch: EpochFacts) -> bool:
    return bool(epoch.get("one_class", False))  # epochs of earlier versions do not say
