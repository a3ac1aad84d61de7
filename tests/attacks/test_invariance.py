"""Changes that must not matter to an attack: of the logits' precision and shift, class order, layout, and batch."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advmia.attacks.common import Objective
from advmia.data.loading import EvaluationLoader
from advmia.evaluation.loop import EvaluationOptions, evaluate
from advmia.losses import cross_entropy
from advmia.runtime.rng import SampleRng
from advmia.tasks import MULTI_LABEL, SEGMENTATION, SINGLE_LABEL, Task
from tests.support.attacks import EPS, TRAITS, build, is_steady, slow_marked, success, within_eps
from tests.support.networks import CPU, Wrapped, image_data, network, pixels, share_equal, streams, targets, trained

pytestmark = pytest.mark.usefixtures("few_queries")


@pytest.mark.parametrize("attack", slow_marked(TRAITS))
def test_half_precision_logits(attack: str) -> None:
    """Fails if an in-place operation mixes half-precision logits with float32, or a loss is in half precision."""
    dtypes: set[torch.dtype] = set()
    task_objective = SINGLE_LABEL.attacks.get(attack, cross_entropy)

    def objective(logits: Tensor, y: Tensor) -> Tensor:
        loss = task_objective(logits, y)
        dtypes.add(loss.dtype)
        return loss

    model = trained()
    x, y = pixels(32)
    full = build(attack)(model, x, y, rng=streams(32))
    for dtype in (torch.bfloat16, torch.float16):
        half = Wrapped(model, partial(Tensor.to, dtype=dtype))
        x_adv = build(attack, objective=objective)(half, x, y, rng=streams(32))
        assert x_adv.dtype == torch.float32
        assert dtypes == (set() if TRAITS[attack].own_losses else {torch.float32})
        assert within_eps(attack, x_adv, x)
        assert abs(success(model, x_adv, y) - success(model, full, y)) <= 3


@pytest.mark.parametrize("attack", slow_marked(TRAITS))
def test_a_constant_added_to_the_logits_changes_nothing(attack: str) -> None:
    """Fails for losses of single logits, like that of torchattacks' CW. A softmax does not depend on the constant."""
    model = trained()
    x, y = pixels(32)
    x_adv = build(attack)(model, x, y, rng=streams(32))
    assert 0 < success(model, x_adv, y) < 32
    for constant in (64.0, -1000.0):
        shifted_model = Wrapped(model, partial(torch.add, other=constant))
        shifted = build(attack)(shifted_model, x, y, rng=streams(32))
        assert abs(success(model, shifted, y) - success(model, x_adv, y)) <= 1
        if is_steady(attack):
            assert share_equal(shifted, x_adv) > 0.99


@pytest.mark.parametrize("attack", slow_marked(name for name, traits in TRAITS.items() if traits.scale_blind))
def test_large_logits_hide_nothing(attack: str) -> None:
    """Fails for losses that saturate: at logits times 1e4 the cross-entropy has no gradient, and PGD finds nothing."""
    for classes in (2, 3, 4):
        model = trained(classes)
        x, y = pixels(32, classes=classes)
        x_adv = build(attack)(model, x, y, rng=streams(32))
        x_scaled = build(attack)(Wrapped(model, lambda logits: logits * 1e4), x, y, rng=streams(32))
        assert within_eps(attack, x_scaled, x)
        assert success(model, x, y) + 5 <= success(model, x_adv, y) <= success(model, x_scaled, y), classes


@pytest.mark.parametrize("attack", slow_marked(TRAITS))
def test_the_order_of_the_classes_changes_nothing(attack: str) -> None:
    """Fails if class numbers are confused with ranks, or the last class is left out."""
    for order in ([1, 0], [1, 2, 0], [3, 1, 0, 2]):
        model = trained(len(order))
        x, y = pixels(48, classes=len(order))
        permuted = Wrapped(model, partial(torch.index_select, dim=1, index=torch.tensor(order)))
        y_permuted = torch.tensor([order.index(label) for label in y.tolist()])
        x_adv = build(attack)(model, x, y, rng=streams(48))
        x_permuted = build(attack)(permuted, x, y_permuted, rng=streams(48))
        assert 0 < success(model, x_adv, y) < 48
        assert abs(success(model, x_permuted, y) - success(model, x_adv, y)) <= 1
        if is_steady(attack):
            assert share_equal(x_permuted, x_adv) > 0.99


@pytest.mark.parametrize("attack", slow_marked(TRAITS))
def test_memory_layout_changes_nothing(attack: str) -> None:
    """Fails if noise is drawn in memory order: the loader's images are channels-last, but a user's may not be."""
    model = trained()
    x, y = pixels(16)
    x_last = x.contiguous(memory_format=torch.channels_last)
    assert x.stride() != x_last.stride()
    x_adv = build(attack)(model, x, y, rng=streams(16))
    x_adv_last = build(attack)(model, x_last, y, rng=streams(16))
    assert abs(success(model, x_adv_last, y) - success(model, x_adv, y)) <= 1
    if is_steady(attack):
        assert share_equal(x_adv_last, x_adv) > 0.98


@pytest.mark.parametrize("attack", slow_marked(TRAITS))
def test_batch_size_and_order_change_no_outcome(attack: str) -> None:
    """Fails if noise is drawn for the batch at once, or an image's attack depends on the others in its batch.

    A cheap version of test_equal_outcomes.py, on more images of one small network.
    """
    count = 18 if TRAITS[attack].slow else 66
    expected, x_expected = outcomes_and_images(attack, np.arange(count), 16)
    predicted, x_adv = outcomes_and_images(attack, np.random.default_rng(3).permutation(count), 7)
    assert 0 < (expected != image_data(count).samples.labels).sum() < count
    assert torch.equal(predicted, expected)
    if is_steady(attack):
        assert share_equal(x_adv, x_expected) > 0.99


def outcomes_and_images(attack: str, order: np.ndarray, batch_size: int) -> tuple[Tensor, Tensor]:
    """Attacks the list in the given order; returns predictions and x_adv in the list's own order."""
    parts: list[Tensor] = []
    built = build(attack)

    def recording(model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor:
        parts.append(built(model, x, y, rng=rng))
        return parts[-1]

    loader = EvaluationLoader(replace(image_data(len(order)), indices=order), batch_size, CPU)
    evaluation = evaluate(trained(), loader, SINGLE_LABEL, recording, options=EvaluationOptions((0, attack, EPS)))
    back = torch.from_numpy(np.argsort(order))
    return evaluation.outcomes[back], torch.cat(parts)[back]


@pytest.mark.parametrize(
    ("task", "attack", "objective"),
    [(task, name, objective) for task in (MULTI_LABEL, SEGMENTATION) for name, objective in task.attacks.items()],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_neighbours_change_no_attack(task: Task, attack: str, objective: Objective) -> None:
    """Fails if a loss is taken over the batch, like the survey's soft Dice, whose denominator holds all images."""
    model = network("small" if task is MULTI_LABEL else "small-segmenter").eval()
    x, _ = pixels(6)
    y = targets(task, 6, 16, classes=3)
    y[1:] = y[1:] if task is MULTI_LABEL else 0  # one mask with a lesion, the others without
    together = build(attack, objective=objective)(model, x, y, rng=streams(6))
    alone = build(attack, objective=objective)(model, x[:1], y[:1], rng=streams(1))
    assert share_equal(together[:1], alone) > 0.99
    losses_alone = torch.cat([objective(model(x[i : i + 1]), y[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(objective(model(x), y), losses_alone)
