"""What a contact sheet says of an image, by task: the ranking of the images, the captions and the outlines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from advmia.data.loading import ImageData
from advmia.metrics import mask_overlap
from advmia.pictures.tested import KeptImage, NetworkUnderTest
from advmia.results.rows import ResultRow
from advmia.tasks import MULTI_LABEL, SEGMENTATION, SINGLE_LABEL


@dataclass(frozen=True)
class Caption:
    """The text below a picture."""

    text: str
    is_marked: bool = False  # with a frame: the prediction is wrong, or has changed


@dataclass(frozen=True)
class Outline:
    """The outline of a mask (H, W) of classes, on a picture."""

    kind: str  # a name in `advmia.pictures.layout.OUTLINES`
    mask: np.ndarray


class Meaning(ABC):
    """What the pictures of one test mean. `clean`: the result row of the clean images."""

    rule: ClassVar[str]  # how the images are ranked, said on the sheet
    marks: ClassVar[str] = ""  # what marked pictures have in common, e.g. "are misclassified"

    def __init__(self, tested: NetworkUnderTest, clean: ResultRow) -> None:
        self.tested, self.clean_row = tested, clean

    @property
    def data(self) -> ImageData:
        return self.tested.data

    def target_of(self, index: int) -> Tensor:
        """Returns the label, findings (L,) or mask (H, W) of an image."""
        return self.data.targets(np.array([index]))[0]

    @abstractmethod
    def ranking(self, rows: Sequence[ResultRow]) -> list[int]:
        """Returns the indices of all images, from the worst to the best. `rows`: of the attack, by rising eps."""

    @abstractmethod
    def truth(self, index: int) -> str:
        """Returns what is true of an image, or "" where a picture shows it."""

    @abstractmethod
    def clean(self, index: int, kept: KeptImage) -> Caption:
        """Returns the caption of a clean image."""

    @abstractmethod
    def attacked(self, index: int, clean: KeptImage, kept: KeptImage) -> Caption:
        """Returns the caption of an attacked image."""

    @property
    @abstractmethod
    def notes(self) -> list[str]:
        """What the sheet says of its captions."""

    def outlines(self, index: int, clean: KeptImage, kept: KeptImage | None) -> list[Outline]:
        """Returns the outlines on an attacked image, or on the clean one for None."""
        return []

    def summary(self, captions: dict[int, Caption], row: ResultRow) -> str:
        """Returns what an attack does to the images of a sheet. `captions`: by index, at the eps of the result row."""
        marked = sum(caption.is_marked for caption in captions.values())
        return f"{marked} of {len(captions)} {self.marks} at eps {row.grey_eps:g}"

    def shown_run(self, index: int) -> int:
        """Returns which image is shown where an attack makes one against each finding."""
        return 0


class ClassMeaning(Meaning):
    """Single labels: the predicted class and its probability."""

    rule = (
        "by whether they are right at the largest eps, then by the number of eps at which they are right, then by the"
        " log odds of the true class of the clean image"
    )
    marks = "are misclassified"

    def ranking(self, rows: Sequence[ResultRow]) -> list[int]:
        y = self.data.samples.labels
        right = torch.stack([torch.tensor(row.outcomes) == y for row in rows])  # (eps, N)
        return _ranked(torch.stack([right[-1].double(), right.sum(dim=0).double(), self.tested.clean_log_odds], dim=1))

    def truth(self, index: int) -> str:
        return self._name(int(self.target_of(index)))

    def clean(self, index: int, kept: KeptImage) -> Caption:
        confidence, predicted = kept.logits.softmax(dim=0).max(dim=0)
        is_wrong = bool(predicted != self.target_of(index))
        return Caption(f"{'wrong: ' if is_wrong else ''}{self._name(int(predicted))} ({confidence:.2f})", is_wrong)

    def attacked(self, index: int, clean: KeptImage, kept: KeptImage) -> Caption:
        return self.clean(index, kept)

    @property
    def notes(self) -> list[str]:
        return ["Below each image: the predicted class and its probability. A wrong one has a frame."]

    def _name(self, label: int) -> str:
        return self.data.samples.spec.class_name(label)


class FindingMeaning(Meaning):
    """Several findings: those that are found, and those that change under attack.

    A network of rare findings gives few a probability above one half, so that this threshold would show nothing. A
    finding counts as found where its logit is among the k highest of the clean images, of which k have the finding.
    """

    rule = "by how much the largest eps lowers the mean log odds of the true answers"
    marks = "have a changed finding"

    def __init__(self, tested: NetworkUnderTest, clean: ResultRow) -> None:
        super().__init__(tested, clean)
        logits, y = torch.tensor(clean.outcomes), self.data.samples.labels
        ordered, counts = logits.sort(dim=0, descending=True).values, y.sum(dim=0).long()  # (N, L), (L,)
        beyond = torch.cat([ordered, torch.full_like(ordered[:1], -torch.inf)])
        self._thresholds = beyond.gather(0, counts[None])[0]  # (L,): of a finding that is found, the logit is higher

    def ranking(self, rows: Sequence[ResultRow]) -> list[int]:
        signs = 2 * self.data.samples.labels.double() - 1
        change = torch.tensor(rows[-1].outcomes).double() - torch.tensor(self.clean_row.outcomes).double()
        return _ranked((signs * change).mean(dim=1, keepdim=True))

    def truth(self, index: int) -> str:
        return self._names(self.target_of(index) > 0)

    def clean(self, index: int, kept: KeptImage) -> Caption:
        return Caption(f"found: {self._names(kept.logits > self._thresholds)}")

    def attacked(self, index: int, clean: KeptImage, kept: KeptImage) -> Caption:
        before, after = (image.logits > self._thresholds for image in (clean, kept))
        names = self.data.samples.spec.findings
        changes = [_change("+", name) for name, new in zip(names, after & ~before, strict=True) if new]
        changes += [_change("-", name) for name, lost in zip(names, before & ~after, strict=True) if lost]
        return Caption(", ".join(changes) or "no change", bool(changes))

    @property
    def notes(self) -> list[str]:
        return [
            "Below each image: the findings that an attack adds (+) or removes (-). Such a picture has a frame. A"
            " finding counts as found where its score is among the k highest scores of the clean images, k being the"
            " number of images that have the finding."
        ]

    def _names(self, is_present: Tensor) -> str:
        names = self.data.samples.spec.findings
        return ", ".join(name for name, present in zip(names, is_present, strict=True) if present) or "none"


class OneFindingMeaning(FindingMeaning):
    """Findings that are attacked one by one: shown is the attack on the first finding that the image has."""

    def shown_run(self, index: int) -> int:
        return int((self.target_of(index) > 0).int().argmax())  # 0 for an image without findings

    def attacked(self, index: int, clean: KeptImage, kept: KeptImage) -> Caption:
        number = self.shown_run(index)
        before, after = (bool(image.logits[number] > self._thresholds[number]) for image in (clean, kept))
        name = self.data.samples.spec.findings[number]
        if before == after:
            return Caption(f"against {name}: no change")
        return Caption(f"against {name}: {_change('+' if after else '-', name)}", is_marked=True)

    @property
    def notes(self) -> list[str]:
        return [
            "Each finding is attacked by itself. Shown is the attack on the first finding that the image has, or on"
            f" {self.data.samples.spec.findings[0]} where it has none.",
            *super().notes,
        ]


class MaskMeaning(Meaning):
    """Masks: their outlines, and Dice."""

    rule = "by Dice at the largest eps"

    def ranking(self, rows: Sequence[ResultRow]) -> list[int]:
        return _ranked(torch.tensor(rows[-1].outcomes)[:, :1].double())

    def truth(self, index: int) -> str:
        return "" if bool(self.target_of(index).any()) else "no foreground"

    def clean(self, index: int, kept: KeptImage) -> Caption:
        overlap = mask_overlap(kept.logits[None], self.target_of(index)[None])
        is_empty = not bool(kept.logits.argmax(dim=0).any())
        return Caption(f"Dice {overlap[0, 0]:.3f}{', nothing predicted' if is_empty else ''}")

    def attacked(self, index: int, clean: KeptImage, kept: KeptImage) -> Caption:
        return self.clean(index, kept)

    def outlines(self, index: int, clean: KeptImage, kept: KeptImage | None) -> list[Outline]:
        found = [Outline("true", self.target_of(index).numpy()), Outline("clean", _predicted(clean))]
        return found if kept is None else [*found, Outline("attacked", _predicted(kept))]

    def summary(self, captions: dict[int, Caption], row: ResultRow) -> str:
        clean, attacked = (
            np.mean([outcomes[index][0] for index in captions]) for outcomes in (self.clean_row.outcomes, row.outcomes)
        )
        return f"their mean Dice is {clean:.3f} clean and {attacked:.3f} at eps {row.grey_eps:g}"

    @property
    def notes(self) -> list[str]:
        spec = self.data.samples.spec
        if not spec.mask_values:
            return ["Below each image: Dice, the mean over foreground and background."]
        names = ", ".join(f"{label} {spec.class_name(label)}" for label in range(1, len(spec.mask_values)))
        return [f"Below each image: Dice, the mean over the classes with the background. Classes: {names}."]


def meaning_of(tested: NetworkUnderTest, clean: ResultRow, *, one_by_one: bool) -> Meaning:
    """Returns what the pictures of a test mean. `one_by_one`: the attack makes an image against each finding."""
    if one_by_one:
        return OneFindingMeaning(tested, clean)
    return _OF_TASK[tested.task.name](tested, clean)


_OF_TASK: dict[str, type[Meaning]] = {
    SINGLE_LABEL.name: ClassMeaning,
    MULTI_LABEL.name: FindingMeaning,
    SEGMENTATION.name: MaskMeaning,
}


def _change(sign: str, finding: str) -> str:
    """Returns a finding behind its sign, with a no-break space between them."""
    return f"{sign}\N{NO-BREAK SPACE}{finding}"


def _predicted(kept: KeptImage) -> np.ndarray:
    """Returns the predicted mask (H, W) of classes."""
    return kept.logits.argmax(dim=0).numpy()


def _ranked(keys: Tensor) -> list[int]:
    """Returns the indices of keys (N, n) in ascending order. Earlier columns count first; equal keys keep theirs."""
    return sorted(range(len(keys)), key=keys.tolist().__getitem__)
