"""Training settings for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from advmia.checkpoints.settings import TrainingSettings

PGDAT = TrainingSettings(
    dataset="melBin",
    model="mv2",
    method="pgdat",
    classes=2,
    grey_eps=2.0,
    steps=10,
    grey_step_size=0.5,
    beta=0.0,
    gamma=0.0,
    hat_step=0.0,
    helper_sha256=None,
    epochs=3,
    batch_size=8,
    lr=0.01,
    weight_decay=0.001,
    init="random",
    seed=0,
    size=16,
    precision="fp32",
    val_fraction=None,
    world_size=1,
    train_data={"images": 18},
    test_data={"images": 6},
)


def pgdat(**changes: Any) -> TrainingSettings:
    return replace(PGDAT, **changes)
