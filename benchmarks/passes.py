"""Counts how many images go through networks, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from advmia.attacks.inference import Blocks


@dataclass
class Passes:
    """Numbers of images, each counted as often as it went through a network."""

    forward: int = 0
    backward: int = 0  # gradients with respect to the input
    by_parameters: int = 0  # gradients with respect to the parameters

    @property
    def work(self) -> int:
        """The cost in forward passes: each of the two gradients costs about as much as one."""
        return self.forward + self.backward + self.by_parameters

    def per_image(self, images: int) -> dict[str, float]:
        """Returns all counts divided by `images`, by name."""
        names = ("forward", "backward", "by_parameters", "work")
        return {name: getattr(self, name) / images for name in names}


@contextmanager
def count_passes(*networks: nn.Module) -> Iterator[Passes]:
    """Counts the passes through `networks` inside the `with` block; yields the counts.

    The networks must run in float32: under autocast, weights are cast, which hides the gradients of the parameters.
    """
    passes = Passes()

    def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        count = len(inputs[0])
        passes.forward += count
        node = output.grad_fn  # of the last layer: if its bias gets a gradient, all parameters get one
        if node is None:
            return
        is_parameter = [type(source).__name__ == "AccumulateGrad" for source, _ in node.next_functions]

        def count_parameters(gradients: Sequence[Tensor | None], _: object) -> None:
            pairs = zip(is_parameter, gradients, strict=True)
            if any(parameter and gradient is not None for parameter, gradient in pairs):
                passes.by_parameters += count

        node.register_hook(count_parameters)

    handles = [network.register_forward_pre_hook(_backward_counter(passes)) for network in networks]
    handles += [network.register_forward_hook(after) for network in networks]
    try:
        yield passes
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def count_requests() -> Iterator[Passes]:
    """Counts the images that attacks pass to `advmia.attacks.inference.Blocks`, inside the `with` block.

    The copies with which `Blocks` fills a short batch up are not counted. Yields the counts.
    """
    passes = Passes()
    count_backward = _backward_counter(passes)

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(module, Blocks):
            passes.forward += len(inputs[0])
            count_backward(module, inputs)

    handle = register_module_forward_pre_hook(before)
    try:
        yield passes
    finally:
        handle.remove()


def _backward_counter(passes: Passes) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """Returns a forward pre-hook that counts the gradients with respect to the module's input."""

    def count(gradient: Tensor) -> None:
        passes.backward += len(gradient)

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].requires_grad:
            inputs[0].register_hook(count)

    return before
