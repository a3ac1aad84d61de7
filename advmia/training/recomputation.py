"""Recomputing activations, so that a training of a large network fits into the memory (--checkpointActivations).

Chen et al., Training Deep Nets with Sublinear Memory Cost, arXiv 1604.06174: of a block of layers, only the input is
kept for the gradient; the block is run again when its gradient is computed. A step costs up to one more forward pass of
the loss; the attack's passes keep less and stay as they are. Results are the same to the bit where the same operators
on the same numbers give the same results, as on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from advmia.errors import UserError

Call = Callable[..., Any]
Block = tuple[nn.Module, str]  # a module and its method that runs the block
Buffers = dict[str, Tensor | None]
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def blocks_of(network: nn.Module) -> list[Block]:
    """Returns the blocks of a network: the innermost modules that run several layers; [] if there are none.

    A module that contains a list of blocks is none itself. A network whose layers are in no modules of their own may
    name methods that run a block each in an attribute `block_methods`.
    """
    methods = getattr(network, "block_methods", ())
    if methods:
        return [(network, name) for name in methods]
    blocks: list[Block] = []
    for child in network.children():
        blocks += [(child, "forward")] if _is_block(child) else blocks_of(child)
    return blocks


def _is_block(module: nn.Module) -> bool:
    children = list(module.children())
    layers = [child for child in children if not list(child.children())]
    learning = sum(any(True for _ in layer.parameters()) for layer in layers)
    if isinstance(module, _CONTAINERS):
        return isinstance(module, nn.Sequential) and len(layers) == len(children) > 1 and learning > 0
    return learning > 0 and len(children) > 1 and not any(map(_has_blocks, children))


def _has_blocks(module: nn.Module) -> bool:
    """Returns whether a module is a list of at least two modules that have layers of their own."""
    return (
        isinstance(module, _CONTAINERS) and sum(any(True for _ in child.children()) for child in module.children()) > 1
    )


class Recomputation:
    """The blocks of a network, whose activations are recomputed for a gradient of passes made in `applied`."""

    def __init__(self, network: nn.Module) -> None:
        """Raises `UserError` if the network has no blocks."""
        self.blocks = blocks_of(network)
        if not self.blocks:
            raise UserError(
                f"--checkpointActivations: {type(network).__name__} has no modules of several layers whose activations"
                " could be computed again; leave the flag out, or take a smaller --bs or --imgSize"
            )

    def applied(self) -> AbstractContextManager[None]:
        """Returns a context in which passes of the network keep only the blocks' inputs for the gradient."""
        return replaced_calls(self.blocks, _recomputing)


@contextmanager
def replaced_calls(blocks: list[Block], replacement: Callable[[nn.Module, Call], Call]) -> Iterator[None]:
    """Replaces each block's method during the `with` block by what `replacement` makes of its module and the method."""
    own = [vars(module).get(name) for module, name in blocks]  # a network may have such a replacement of its own
    for module, name in blocks:
        setattr(module, name, replacement(module, getattr(module, name)))
    try:
        yield
    finally:
        for (module, name), earlier in zip(blocks, own, strict=True):
            delattr(module, name)
            if earlier is not None:
                setattr(module, name, earlier)


def _recomputing(module: nn.Module, call: Call) -> Call:
    """Returns `call`, which runs a block of the module, so that only its arguments are kept for the gradient."""

    def run(*arguments: Any, **options: Any) -> Any:
        if not torch.is_grad_enabled():
            return call(*arguments, **options)
        inputs = [value for value in (*arguments, *options.values()) if isinstance(value, Tensor)]
        versions = [value._version for value in inputs]
        contexts = partial(_contexts, module)
        found = checkpoint(partial(call, **options), *arguments, use_reentrant=False, context_fn=contexts)
        if versions != [value._version for value in inputs]:
            raise UserError(
                f"--checkpointActivations: {type(module).__name__} changes its input in place, so that it cannot be"
                " computed again; leave the flag out"
            )
        return found

    return run


def _contexts(module: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Returns the contexts of a block's first pass, which begins now, and of its second one."""
    stateful = [part for part in module.modules() if part._buffers and not _is_constant(part)]
    states = {part: _clones(part) for part in stateful if not _is_overwritten(part)}
    return nullcontext(), _without_traces(stateful, states)


def _is_constant(part: nn.Module) -> bool:
    """Returns whether a pass leaves a module's buffers as they are, as far as is known."""
    return isinstance(part, _BatchNorm) and not part.training


def _is_overwritten(part: nn.Module) -> bool:
    """Returns whether a module's output does not depend on its buffers: running statistics in train mode."""
    return isinstance(part, _BatchNorm) and part.training and part.momentum is not None


def _clones(part: nn.Module) -> Buffers:
    return {name: None if value is None else value.clone() for name, value in part._buffers.items()}


@contextmanager
def _without_traces(stateful: list[nn.Module], states: dict[nn.Module, Buffers]) -> Iterator[None]:
    """Lets a block run again as it did at first, and leaves the network's buffers, such as running statistics, alone.

    Meanwhile the modules have other buffers: those in `states`, of the first pass, or empty ones.
    """
    current = [(part, dict(part._buffers)) for part in stateful]
    for part, buffers in current:
        empty = {name: None if value is None else torch.empty_like(value) for name, value in buffers.items()}
        part._buffers.update(states.get(part, empty))
    try:
        yield
    finally:
        for part, buffers in current:
            part._buffers.update(buffers)
