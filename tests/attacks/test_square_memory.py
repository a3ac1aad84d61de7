"""Square does the same to an image by itself and within AutoAttack, and a test of both runs it once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from advmia.attacks.auto_attack import AutoAttack, remembering
from advmia.attacks.common import EvaluationAttack, notes_of
from advmia.attacks.gradient import pgd
from advmia.attacks.square_attack import Square
from advmia.attacks.square_memory import SquareMemory
from advmia.budgets import Budget
from advmia.losses import cross_entropy
from tests.support.networks import SmallNet, pixels, record_calls, streams

EPS, QUERIES, IMAGES = 8 / 255, 40, 24


@dataclass(frozen=True)
class Scene:
    model: SmallNet
    x: Tensor
    y: Tensor


@pytest.fixture
def scene() -> Scene:
    """Images with many black and white pixels, and a network near whose boundaries they are; some it has wrong."""
    torch.manual_seed(0)
    x, _ = pixels(IMAGES)
    x = ((x - 0.5) * 3 + 0.5).clamp(0, 1)
    model = SmallNet(3).eval()
    with torch.no_grad():
        model.linear.bias.sub_(model(x).mean(dim=0))
        logits = model(x)
    y = logits.argmax(dim=1)
    y[::6] = logits[::6].argmin(dim=1)
    return Scene(model, x, y)


def attacks() -> dict[str, EvaluationAttack]:
    """Returns Square, and an AutoAttack of PGD and Square."""
    budget = Budget(EPS, QUERIES, 0)
    first = pgd(Budget(EPS / 8, 1, EPS / 8), cross_entropy)  # fools few images, and draws numbers
    return {"aa": AutoAttack({"pgd": first, "square": Square(budget)}), "square": Square(budget)}


def results(
    scene: Scene, order: Sequence[str], memory: SquareMemory | None
) -> tuple[dict[str, tuple[Tensor, dict[str, Tensor]]], int]:
    """Runs attacks in this order on batches that differ; returns images and notes of each, and the images passed."""
    built, calls, found = attacks(), record_calls(scene.model), {}
    for number, name in enumerate(order):
        attack = built[name] if memory is None else remembering(built[name], memory)
        parts = torch.arange(IMAGES).split(IMAGES if number else 7)
        images, notes = [], []
        for part in parts:
            rng = streams(IMAGES, "aa").take(part)
            images.append(attack(scene.model, scene.x[part], scene.y[part], rng=rng))
            notes.append(dict(notes_of(attack)))
        found[name] = torch.cat(images), {key: torch.cat([each[key] for each in notes]) for key in notes[0]}
    passed = sum(len(call.x) for call in calls)
    calls.clear()
    return found, passed


@pytest.mark.parametrize("order", [("aa", "square"), ("square", "aa")])
def test_square_runs_once(order: Sequence[str], scene: Scene) -> None:
    """Fails if an image or a note is another one than without the memory, in the last bit, or Square runs twice."""
    expected, alone = results(scene, order, None)
    memory = SquareMemory()
    found, together = results(scene, order, memory)
    for name in order:
        assert torch.equal(found[name][0], expected[name][0]), name
        assert found[name][1].keys() == expected[name][1].keys()
        assert all(torch.equal(values, expected[name][1][note]) for note, values in found[name][1].items()), name
    fooled_by, queries = expected["aa"][1]["fooled_by"], expected["square"][1]["queries"]
    shared = (queries > 0) & (fooled_by != 0)
    assert torch.equal(expected["aa"][1]["queries"][shared], queries[shared])
    assert shared.any() and (fooled_by == 0).any() and (fooled_by == 1).any() and (queries == QUERIES).any()
    assert alone - together == int((queries + 1)[shared].sum())
    assert len(memory._found) == int((~shared).sum())


def test_other_budgets_are_not_mixed(scene: Scene) -> None:
    """Fails if results of another number of queries are taken from the memory."""
    memory = SquareMemory()
    for queries in (3, QUERIES):
        attack = Square(Budget(EPS, queries, 0))
        expected = attack(scene.model, scene.x, scene.y, rng=streams(IMAGES))
        found = remembering(attack, memory)(scene.model, scene.x, scene.y, rng=streams(IMAGES))
        assert torch.equal(found, expected), queries
    assert len(memory._found) == 2 * IMAGES
