"""The choice of the best epoch: ties, and networks that predict one class."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from advmia.checkpoints.best import BestCheckpoint
from advmia.evaluation.guessing import base_rate
from advmia.tasks import SINGLE_LABEL
from advmia.training.loop import Epoch
from advmia.training.selection import Selection
from advmia.training.validation import Validation, epoch_line
from tests.checkpoints.settings import PGDAT
from tests.evaluation.probes import loader
from tests.support.networks import Wrapped, trained

# Robust accuracy, clean accuracy, loss, whether the network predicts one class.
Facts = tuple[float | None, float, float, bool]


def best_of(folder: Path, epochs: list[Facts], images: int = 40) -> int:
    """Returns the number of the epoch of which the weights are kept."""
    selection = Selection("accuracy", images)
    best = BestCheckpoint(folder / "a", PGDAT, {}, torch.nn.Linear(1, 1), selection.is_better)
    for number, (robust, clean, loss, one_class) in enumerate(epochs, start=1):
        entry: dict[str, Any] = {"number": number, "loss": loss, "clean": {"accuracy": clean}, "one_class": one_class}
        entry["robust"] = None if robust is None else {"accuracy": robust}
        assert best.offer(entry, selection.value(entry)) == (best.epoch == number)
    return best.epoch


@pytest.mark.parametrize(
    ("epochs", "best"),
    [
        # Of 40 images, the 95 % interval of 20 correct ones begins at 0.352, that of 30 at 0.598.
        ([(0.5, 0.5, 0.7, False), (0.5, 0.6, 0.9, False), (0.5, 0.6, 0.9, False), (0.4, 0.9, 0.1, False)], 2),
        ([(0.5, 0.6, 0.7, False), (0.5, 0.6, 0.6, False), (0.5, 0.5, 0.1, False)], 2),
        ([(None, 0.5, 0.7, False), (None, 0.5, 0.6, False), (None, 0.5, 0.6, False)], 2),
        ([(0.5, 0.5, 0.7, True), (0.36, 0.63, 0.7, False), (0.5, 0.5, 0.6, True), (0.36, 0.95, 0.7, False)], 4),
        ([(0.5, 0.5, 0.7, True), (0.35, 0.63, 0.7, False)], 1),
        ([(0.35, 0.63, 0.7, False), (0.5, 0.5, 0.7, True), (0.36, 0.63, 0.7, False)], 3),
        ([(0.4, 0.63, 0.7, False), (0.75, 0.75, 0.7, True), (0.59, 0.63, 0.7, False)], 2),
        ([(0.5, 0.5, 0.7, True), (0.5, 0.5, 0.6, True)], 2),
        ([(math.nan, 0.9, 0.7, False), (0.1, 0.1, 0.7, True), (math.nan, 0.9, 0.7, False)], 2),
    ],
    ids=[
        *("higher clean score", "lower loss", "natural", "one class in the interval", "one class above the interval"),
        *("later skill in the interval", "too late", "only one class", "undefined"),
    ],
)
def test_choice(epochs: list[Facts], best: int, tmp_path: Path) -> None:
    """Fails if a tie goes to the first epoch although another is better, or to a later one that is not; if a network
    that predicts one class is kept while another is within the interval of its score, or is never kept."""
    assert best_of(tmp_path, epochs) == best


def test_a_state_of_an_earlier_version(tmp_path: Path) -> None:
    """Fails if epochs without `one_class` cannot be compared with new ones after a resumption."""
    selection = Selection("accuracy", 40)
    old = [{"number": 1, "loss": 0.7, "clean": {"accuracy": 0.5}, "robust": {"accuracy": 0.5}}]
    best = BestCheckpoint(tmp_path / "a", PGDAT, {}, torch.nn.Linear(1, 1), selection.is_better)
    state = best.state_dict() | {"epochs": json.dumps(old), "epoch": 1, "score": 0.5}
    best.load_state_dict(state)
    assert not best.offer({**old[0], "number": 2, "one_class": False}, 0.5)
    assert best.offer({**old[0], "number": 3, "loss": 0.6, "one_class": False}, 0.5) and best.epoch == 3


def test_validation_tells_a_network_that_predicts_one_class() -> None:
    """Fails if the attacked images are looked at, the answer of an earlier validation stays, or the line of an epoch
    does not say it before the scores."""
    model = trained()
    constant = Wrapped(model, lambda z: z * 1e-9 + torch.arange(3))
    for network, expected in ((model, False), (constant, True)):
        validation = Validation(SINGLE_LABEL, network, loader(), PGDAT, base_rate(SINGLE_LABEL, loader().data))
        assert validation.images == 40 and not validation.one_class
        clean, _ = validation()
        assert validation.one_class == expected, clean
        epoch = Epoch(3, 0.5, 0.1, 61.24, clean, {"accuracy": 0.25}, 9.75, validation.warning)
        warning = " [predicts class 2 for all 40 images]" if expected else ""
        scores = f"clean accuracy {clean['accuracy']:.4f} robust accuracy 0.2500"
        assert epoch_line(SINGLE_LABEL, epoch, 9, is_best=True) == (
            f"epoch 3/9 loss 0.5000{warning} {scores} training 61.2 s, validation 9.8 s (best so far)"
        )
