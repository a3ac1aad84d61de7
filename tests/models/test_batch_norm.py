"""The smallest batch that a network can train on."""

from __future__ import annotations

import pytest
import torch

from advmia.models import build_model
from advmia.models.batch_norm import smallest_batch


@pytest.mark.parametrize(
    ("name", "size", "smallest"),
    [
        ("mv2", 8, 2),
        ("mv2", 16, 1),
        ("res18", 8, 2),
        pytest.param("chexnet", 32, 2, marks=pytest.mark.slow),
        ("wrn", 4, 2),
        ("wrn", 8, 1),
        ("unet", 16, 2),
        ("unet", 32, 1),
    ],
)
def test_smallest_batch(name: str, size: int, smallest: int, small_networks: None) -> None:
    """Fails if the number is not the smallest batch that torch trains on, or if the network is changed."""
    model = build_model(name, 2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.layer_that_stays_frozen = torch.nn.BatchNorm2d(1).eval()
    assert smallest_batch(model, size) == smallest
    assert model.training and not model.layer_that_stays_frozen.training
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    for batch in (1, 2):
        if batch < smallest:
            with pytest.raises(ValueError, match="more than 1 value per channel"):
                model(torch.rand(batch, 3, size, size))
        else:
            model(torch.rand(batch, 3, size, size)).sum().backward()
