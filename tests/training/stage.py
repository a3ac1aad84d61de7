"""A network to which a training method is applied once, to compare the loss with that of a plain implementation."""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import Tensor

from advmia.budgets import Budget
from advmia.runtime.rng import SampleRng
from advmia.tasks import SEGMENTATION, SINGLE_LABEL, Task
from advmia.training.methods import Method
from tests.support.networks import Call, SmallSegmenter, pixels, record_calls, streams, targets, trained

IMAGES = 20
EPS, STEPS, STEP = 8 / 255, 3, 2 / 255
BUDGET = Budget(EPS, STEPS, STEP)


def split(calls: list[Call]) -> tuple[list[Tensor], list[Tensor]]:
    """Returns the inputs of a network in train mode (by the loss) and in eval mode (by the attack)."""
    return [call.x for call in calls if "" in call.training], [call.x for call in calls if "" not in call.training]


def whole_batches(blocks: list[Tensor]) -> list[Tensor]:
    """Joins blocks of sixteen images into the batches that they are of."""
    count = -(-IMAGES // 16)
    return [torch.cat(blocks[start : start + count]) for start in range(0, len(blocks), count)]


def _with_name(name: str, text: str) -> str:
    return f"{name}: {text}"


class Stage:
    """A network in training, a method applied to it once, and the inputs of the network's passes."""

    def __init__(
        self,
        method: Method,
        classes: int = 3,
        rng: SampleRng | None = None,
        dropout: float = 0.2,
        task: Task = SINGLE_LABEL,
    ) -> None:
        self.model = (SmallSegmenter(classes) if task is SEGMENTATION else trained(classes)).train()
        self.model.dropout.p = dropout
        self.x, self.y = pixels(IMAGES, classes=classes, seed=2)
        self.y = self.y if task is SINGLE_LABEL else targets(task, IMAGES, 16, classes)
        self.original = copy.deepcopy(self.model)
        calls = record_calls(self.model)
        torch.manual_seed(0)  # dropout
        self.loss = method(self.model, self.x, self.y, rng=rng or streams(IMAGES))
        self.loss.backward()
        self.calls = calls
        self.in_train, blocks = split(calls)
        self.in_eval = whole_batches(blocks)

    def logits(self) -> list[Tensor]:
        """Returns the original network's logits on the loss's inputs, in the same order and with the same dropout."""
        torch.manual_seed(0)
        return [self.original(x).double() for x in self.in_train]

    def assert_loss_is(self, expected: Tensor) -> None:
        """Compares the value, and the gradient of every parameter."""
        assert self.loss.shape == ()
        torch.testing.assert_close(self.loss.double(), expected, rtol=1e-5, atol=1e-6)
        expected.backward()
        gradients = {name: value.grad for name, value in self.original.named_parameters()}
        scale = max(float(gradient.abs().max()) for gradient in gradients.values() if gradient is not None)
        for name, value in self.model.named_parameters():
            torch.testing.assert_close(
                value.grad, gradients[name], rtol=1e-3, atol=1e-4 * scale, msg=partial(_with_name, name)
            )
