"""`Blocks`: it computes the network's function, on a few images at a time."""

from __future__ import annotations

import pytest
import torch

from advmia.attacks.common import value_and_gradient
from advmia.attacks.inference import Blocks
from advmia.data.loading import EvaluationLoader
from advmia.losses import cross_entropy
from tests.support.networks import CPU, image_data, trained

BLOCK = 8  # images of up to 64 x 64 pixels


@pytest.mark.parametrize("count", [1, BLOCK, 2 * BLOCK + 1])
def test_blocks_are_the_network(count: int) -> None:
    """Fails if outputs or input gradients differ from the network's, or those of the filling images are returned."""
    model = trained()
    data = image_data(count)
    x = next(iter(EvaluationLoader(data, count, CPU))).x
    plain, blocks = x.clone().requires_grad_(True), x.clone().requires_grad_(True)
    expected, actual = model(plain), Blocks(model)(blocks)
    torch.testing.assert_close(actual, expected)
    expected.square().sum().backward()
    actual.square().sum().backward()
    torch.testing.assert_close(blocks.grad, plain.grad)


def test_only_blocks_reach_the_network() -> None:
    """Fails if a short batch reaches the network without filling, so that it is rounded differently."""
    sizes: list[int] = []
    model = trained()
    model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    for count in (1, BLOCK + 2, 2 * BLOCK):
        Blocks(model)(torch.rand(count, 3, 16, 16))
    assert sizes == [BLOCK] * 5


def test_blocks_of_training() -> None:
    """Fails if blocks in training are filled up, or smaller or larger than documented."""
    sizes: list[int] = []
    model = trained()
    model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    for count, side in ((3, 16), (18, 16), (5, 128)):
        assert Blocks(model, filled=False)(torch.rand(count, 3, side, side)).shape == (count, 3)
    assert sizes == [3, 16, 2, 4, 1]


def test_a_graph_is_kept_of_one_block_at_a_time() -> None:
    """Fails if the graphs of several blocks are kept at once, or gradients are returned in another order."""
    model = trained().eval()
    x = next(iter(EvaluationLoader(image_data(2 * BLOCK + 3), 64, CPU))).x
    y = torch.arange(len(x)) % 3
    passes: list[str] = []
    model.register_forward_pre_hook(lambda module, inputs: passes.append(f"forward {len(inputs[0])}"))
    model.register_full_backward_hook(lambda *_: passes.append("backward"))
    expected = value_and_gradient(model, x, y, cross_entropy)
    passes.clear()
    actual = value_and_gradient(Blocks(model), x, y, cross_entropy)
    assert passes == ["forward 8", "backward"] * 3
    for values, expected_values in zip(actual, expected, strict=True):
        torch.testing.assert_close(values, expected_values)


def test_blocks_off_the_cpu() -> None:
    """Fails if a GPU gets more than `gpu_block_size` images at a time, or blocks are filled up there."""
    sizes: list[int] = []
    model = trained().to("meta")
    model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    assert Blocks(model, 32)(torch.empty(70, 3, 16, 16, device="meta")).shape == (70, 3)
    assert sizes == [32, 32, 6]
