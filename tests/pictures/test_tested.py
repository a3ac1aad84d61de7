"""Images that are attacked again are those that were scored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from advmia.data.datasets import DATASETS
from advmia.data.loading import EvaluationLoader, ImageData
from advmia.evaluation.attacked import AttackRun, evaluation_options
from advmia.evaluation.loop import AttackedBatch, evaluate
from advmia.losses import log_odds
from advmia.pictures.tested import NetworkUnderTest, kept_images
from advmia.results.rows import ResultRow
from advmia.runtime.precision import FP32
from advmia.tasks import MULTI_LABEL, SINGLE_LABEL, Task
from tests.support.networks import CPU, image_data, network, targets, trained

CHOSEN = [17, 2, 9]
pytestmark = pytest.mark.usefixtures("few_steps")


def findings_data(count: int) -> ImageData:
    """Returns the images of `image_data` with findings."""
    data = image_data(count)
    spec = replace(DATASETS["xray_multilabel"].at_size(16), findings=("Mass", "Edema", "Hernia"))
    labels = targets(MULTI_LABEL, count, 16, 3)
    return replace(data, samples=replace(data.samples, spec=spec, labels=labels))


def cases() -> Iterator[tuple[str, Task, nn.Module, nn.Module | None, AttackRun]]:
    """Yields a name, the task, the target, the source and an attack."""
    yield "pgd", SINGLE_LABEL, trained(), None, AttackRun.of("pgd", 8)
    yield "restarts and transfer", SINGLE_LABEL, trained(hardened=6), trained(), AttackRun.of("cw", 4, 2)
    yield "early stopping", SINGLE_LABEL, trained(), None, AttackRun.of("apgd-ce", 2)
    yield "findings", MULTI_LABEL, network("small"), None, AttackRun.of("pgd-finding", 8)


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case[0])
def test_they_are_equal(case: tuple[str, Task, nn.Module, nn.Module | None, AttackRun]) -> None:
    """Fails if an image that is attacked again, among other images and in another batch, differs in a bit from the one
    that the evaluation of the whole list has scored, or if its logits do."""
    _, task, target, source, run = case
    data = findings_data(20) if task is MULTI_LABEL else image_data(20)
    tested = NetworkUnderTest(task, target, source, EvaluationLoader(data, 6, CPU), FP32, seed=3)
    scored: dict[int, tuple[list[Tensor], Tensor]] = {}

    def keep(attacked: AttackedBatch) -> None:
        for position, index in enumerate(attacked.batch.index.tolist()):
            scored[index] = [images[position] for images in attacked.images], attacked.logits[position]

    options = replace(evaluation_options(run, 3, FP32), keep=keep)
    evaluate(target, tested.loader, task, run.build(task), source=source, options=options)
    for number in range(len(scored[0][0])):
        kept = kept_images(tested, run, CHOSEN, shown=lambda index, number=number: number)  # type: ignore[misc]
        assert list(kept) == CHOSEN
        for index, image in kept.items():
            assert torch.equal(image.x, scored[index][0][number]) and torch.equal(image.logits, scored[index][1])
    assert not torch.equal(kept[2].x, kept_images(tested, None, [2])[2].x), "the attack changes the image"


def test_another_outcome_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Fails if images whose outcomes are not those of the result row get no word, or equal ones get one."""
    tested = NetworkUnderTest(SINGLE_LABEL, trained(), None, EvaluationLoader(image_data(20), 6, CPU), FP32, seed=0)
    run = AttackRun.of("fgsm", 8)
    found = evaluate(
        tested.target, tested.loader, SINGLE_LABEL, run.build(SINGLE_LABEL), options=evaluation_options(run, 0, FP32)
    )
    row = ResultRow("fgsm", 8.0, 1, 8.0, 20, {}, 1.0, found.outcomes.tolist())
    kept_images(tested, run, CHOSEN, row=row)
    assert capsys.readouterr().err == ""
    row.outcomes[9] += 1
    kept_images(tested, run, CHOSEN, row=row)
    assert "fgsm eps 8: 1 of 3 images that were attacked again have another outcome" in capsys.readouterr().err


def test_clean_log_odds() -> None:
    """Fails if the log odds of the true class are not in the list's order, or not those of the clean images."""
    tested = NetworkUnderTest(SINGLE_LABEL, trained(), None, EvaluationLoader(image_data(7), 3, CPU), FP32, seed=0)
    (batch,) = EvaluationLoader(tested.data, 7, CPU)
    with torch.no_grad():
        expected = log_odds(tested.target(batch.x), batch.y)
    torch.testing.assert_close(tested.clean_log_odds.float(), expected)
