"""What a sheet says of an image: captions, rankings, and the grey of a radiograph."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from advmia.data.loading import EvaluationLoader, ImageData
from advmia.pictures.meaning import ClassMeaning, FindingMeaning, MaskMeaning, OneFindingMeaning
from advmia.pictures.tested import KeptImage, NetworkUnderTest
from advmia.results.rows import ResultRow
from advmia.runtime.precision import FP32
from advmia.tasks import MULTI_LABEL, SEGMENTATION, SINGLE_LABEL, Task
from tests.support.networks import CPU, image_data, trained

NAMES = ("Mass", "Edema", "Hernia")
# Of four images: who has which finding, and the logits of the clean images. Mass: two have it, and so two are found.
FINDINGS = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 0, 0], [0, 0, 0]])
CLEAN = [[-1.0, -5.0, -9.0], [-3.0, -2.0, -8.0], [-2.0, -4.0, -7.0], [-4.0, -3.0, -6.0]]


def under_test(task: Task, data: ImageData) -> NetworkUnderTest:
    return NetworkUnderTest(task, trained(), None, EvaluationLoader(data, 4, CPU), FP32, seed=0)


def row(outcomes: object, eps: float = 8.0) -> ResultRow:
    return ResultRow("pgd", eps, 20, 2.0, 4, {}, 1.0, outcomes)  # type: ignore[arg-type]


def kept(*logits: float) -> KeptImage:
    return KeptImage(torch.zeros(3, 2, 2), torch.tensor(logits))


def findings_under_test() -> NetworkUnderTest:
    data = image_data(4)
    spec = replace(data.samples.spec, task="multi-label", findings=NAMES)
    return under_test(MULTI_LABEL, replace(data, samples=replace(data.samples, spec=spec, labels=FINDINGS)))


def test_classes() -> None:
    """Fails if a wrong class is not marked in word and frame, or the ranking is not that of the rule."""
    tested = under_test(SINGLE_LABEL, image_data(4))
    y = tested.data.samples.labels.tolist()
    wrong = [(label + 1) % 3 for label in y]
    meaning = ClassMeaning(tested, row(y))
    logits = [0.0, 0.0, 0.0]
    logits[y[1]] = 2.0
    confidence = np.exp(2) / (np.exp(2) + 2)
    name = tested.data.samples.spec.class_name(y[1])
    assert (meaning.truth(1), vars(meaning.clean(1, kept(*logits)))) == (
        name,
        {"text": f"{name} ({confidence:.2f})", "is_marked": False},
    )
    logits[y[1]], logits[wrong[1]] = 0.0, 2.0
    caption = meaning.attacked(1, kept(0, 0, 0), kept(*logits))
    assert caption.is_marked and caption.text.startswith("wrong: ") and name not in caption.text
    small = [y[0], wrong[1], wrong[2], y[3]]
    large = [wrong[0], wrong[1], y[2], y[3]]  # 1 is wrong at both, 0 at the largest, 2 at the smaller, 3 at none
    assert meaning.ranking([row(small, 2), row(large)]) == [1, 0, 2, 3]
    ties = meaning.ranking([row(wrong)])
    assert ties == np.argsort(tested.clean_log_odds.numpy(), kind="stable").tolist()


def test_findings() -> None:
    """Fails if not as many are found as have the finding, a change is missing, or the ranking is not that of the rule:
    by how far the logits of the true answers fall."""
    meaning = FindingMeaning(findings_under_test(), row(CLEAN))
    assert [meaning.truth(index) for index in range(3)] == ["Mass", "Mass, Edema", "none"]
    found = [meaning.clean(index, kept(*logits)).text for index, logits in enumerate(CLEAN)]
    assert found == ["found: Mass", "found: Edema", "found: Mass", "found: none"]
    changed = meaning.attacked(0, kept(*CLEAN[0]), kept(-9, -1, -5))
    assert changed.text.replace("\N{NO-BREAK SPACE}", " ") == "+ Edema, + Hernia, - Mass" and changed.is_marked
    assert vars(meaning.attacked(0, kept(*CLEAN[0]), kept(*CLEAN[0]))) == {"text": "no change", "is_marked": False}
    attacked = np.add(CLEAN, [[0, 0, 1], [-3, 0, 0], [1, 1, 0], [-1, 0, 0]])  # true answers: -1, -3, -2, +1
    assert meaning.ranking([row(CLEAN, 2), row(attacked.tolist())]) == [1, 2, 0, 3]


def test_findings_one_by_one() -> None:
    """Fails if the image shown is not the one against the first finding that the image has, or its caption speaks of
    findings that this image was not made against."""
    meaning = OneFindingMeaning(findings_under_test(), row(CLEAN))
    assert [meaning.shown_run(index) for index in range(3)] == [0, 0, 0]
    meaning.data.samples.labels[2] = torch.tensor([0, 1, 1])
    assert meaning.shown_run(2) == 1
    changed = meaning.attacked(2, kept(*CLEAN[2]), kept(-9, 1, 9))
    assert changed.text.replace("\N{NO-BREAK SPACE}", " ") == "against Edema: + Edema" and changed.is_marked
    assert meaning.attacked(2, kept(*CLEAN[2]), kept(9, -9, 9)).text == "against Edema: no change"


def test_masks() -> None:
    """Fails if the outlines are not the true, the clean and the attacked mask, classes are lost, or an empty prediction
    is not said to be empty."""
    data = image_data(1, size=4)
    spec = replace(data.samples.spec, task="segmentation", mask_values=((0,), (1,), (2,)))
    spec = replace(spec, class_names=("none", "lung", "heart"))
    mask = np.array([[[0, 1, 1, 0], [0, 1, 1, 0], [2, 2, 0, 0], [0, 0, 0, 0]]], dtype=np.uint8)
    samples = replace(data.samples, spec=spec, masks=("m.png",), labels=torch.empty(1, 0))
    meaning = MaskMeaning(under_test(SEGMENTATION, replace(data, samples=samples, masks=mask)), row([[1.0, 1.0]]))
    right = torch.nn.functional.one_hot(torch.from_numpy(mask[0]).long(), 3).permute(2, 0, 1).float()
    nothing = torch.zeros(3, 4, 4)
    nothing[0] = 1
    clean, attacked = (KeptImage(torch.zeros(3, 4, 4), logits) for logits in (right, nothing))
    outlines = meaning.outlines(0, clean, attacked)
    assert [outline.kind for outline in outlines] == ["true", "clean", "attacked"]
    assert np.array_equal(outlines[0].mask, mask[0]) and np.array_equal(outlines[1].mask, mask[0])
    assert not outlines[2].mask.any() and len(meaning.outlines(0, clean, None)) == 2
    assert meaning.clean(0, clean).text == "Dice 1.000"
    assert meaning.attacked(0, clean, attacked).text == f"Dice {2 * 10 / 26 / 3:.3f}, nothing predicted"
    assert "1 lung, 2 heart" in meaning.notes[0]
