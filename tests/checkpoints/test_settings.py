"""The settings of a training: their JSON keys, their budgets, and the checkpoint names made of them."""

from __future__ import annotations

import pytest

from advmia.budgets import Budget, pgd_budget, training_budget
from advmia.checkpoints.settings import classification_name, segmentation_name
from tests.checkpoints.settings import pgdat

KEYS = (
    *("dataset", "model", "method", "classes", "eps", "steps", "step_size", "beta", "gamma", "hat_step", "helper"),
    *("epochs", "batch_size", "lr", "weight_decay", "init", "seed", "size", "precision", "val_fraction", "processes"),
    *("train_data", "test_data"),
)


def test_json_keys() -> None:
    """Fails if a key of records and state files is renamed or moves: earlier trainings could not be resumed."""
    content = pgdat(helper_sha256="ab", world_size=2).to_json()
    assert tuple(content) == KEYS
    assert tuple(pgdat(awp=0.01, awp_warm_up=0, ema=0.995).to_json()) == (*KEYS, "awp", "awp_warm_up", "ema")
    assert tuple(pgdat(validate_every=5).to_json()) == (*KEYS, "validate_every")
    assert tuple(pgdat(generator="splitmix64").to_json()) == (*KEYS, "generator")
    assert (content["eps"], content["step_size"], content["helper"], content["processes"]) == (2.0, 0.5, "ab", 2)


def test_budgets() -> None:
    """Fails if the steps and the step size that run are not those that the record states."""
    assert pgdat().budget == training_budget(2)
    assert pgdat(steps=7, grey_step_size=1.0).budget == Budget(2 / 255, 7, 1 / 255)
    assert pgdat().validation_budget == pgd_budget(2)
    assert pgdat(method="nat", grey_eps=0.0, steps=0, grey_step_size=0.0).validation_budget is None


@pytest.mark.parametrize(
    ("method", "classification", "segmentation"),
    [
        (
            "nat",
            "MobileNetV2_melBin_nat_class2_maxLR0.01_weightDecay0.001",
            "MobileNetV2_melBin_NAT_CrossEntropyLoss_Adam",
        ),
        (
            "pgdat",
            "MobileNetV2_melBin_pgdat_beta0_class2_ADV2-255_10_05-255_maxLR0.01_weightDecay0.001",
            "MobileNetV2_melBin_PGDAT_CrossEntropyLoss_Adam_eps2-255_step10_stepSize05-255",
        ),
    ],
)
def test_names(method: str, classification: str, segmentation: str) -> None:
    """Fails if a checkpoint's name is not the one that the published scripts use, or does not say what they lack."""
    settings = pgdat(method=method)
    assert (classification_name(settings), segmentation_name(settings)) == (classification, segmentation)
    settings = pgdat(method=method, awp=0.005, awp_warm_up=10, ema=0.995)
    assert classification_name(settings) == f"{classification}_awp0.005_ema0.995"
    assert segmentation_name(settings) == f"{segmentation}_awp0.005_ema0.995"
    assert classification_name(pgdat(method=method, ema=0.9)) == f"{classification}_ema0.9"


def test_names_of_methods_that_the_published_code_lacks() -> None:
    """Fails if trainings with other settings have one name."""
    tail = "CrossEntropyLoss_Adam_eps2-255_step10_stepSize05-255"
    assert segmentation_name(pgdat(method="trades", beta=6.0)) == f"MobileNetV2_melBin_TRADES_beta6_{tail}"
    assert segmentation_name(pgdat(attack_loss="segpgd")) == f"MobileNetV2_melBin_PGDAT_segpgd_{tail}"
    maadvt = pgdat(method="maadvt", beta=8.0, grey_eps=4.0, steps=9, grey_step_size=1.785)
    head, tail = "MobileNetV2_melBin_maadvt_beta8_class2", "maxLR0.01_weightDecay0.001"
    assert classification_name(maadvt) == f"{head}_ADV4-255_9_1.785-255_{tail}"
