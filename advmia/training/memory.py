"""Estimates the memory of a training step before the first one: the bytes that its passes keep for the gradient.

Nothing is computed: the pass runs on torch's `meta` device, where tensors have a shape and no content. For mv2 at 299
pixels it counts 1.1 GiB per image, so that a batch of 32 needs 71 GiB in TRADES, which keeps two passes at once. On a
CPU, each further image took between 0.91 and 1.05 times the count (mv2, 64 pixels, 8 and 16 images; nat, TRADES).
"""

from __future__ import annotations

import copy
from collections.abc import Set
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.optim import Optimizer

from advmia.attacks.inference.folding import Folding
from advmia.runtime import distributed, machine
from advmia.training.loop import Training
from advmia.training.recomputation import Call, Recomputation, blocks_of, replaced_calls

_USABLE = 0.9  # the share of the memory that a suggested batch may need, since the estimate is a little low


@dataclass(frozen=True)
class StepMemory:
    """What a training step needs beside the network, in bytes: for each image of its batch, and whatever the batch."""

    per_image: int
    fixed: int

    def of(self, images: int) -> int:
        """Returns the bytes of a step with this number of images."""
        return self.per_image * images + self.fixed

    def fitting(self, memory: int) -> int:
        """Returns how many images fit into this memory, with some room left; 0 if not even one does."""
        return max(int((_USABLE * memory - self.fixed) // self.per_image), 0)


def saved_bytes(model: nn.Module, x: Tensor) -> int:
    """Returns the bytes of the tensors that a pass over images x (B, C, H, W) in train mode keeps for its gradient.

    The parameters do not count, since they are there in any case. Runs on a copy of the model without content, and
    draws no random numbers. Raises what the model raises if it cannot run without content.
    """
    network = _without_content(model, x)
    return _Kept().of_pass(network, x).bytes(_own(network))


def recomputed_bytes(model: nn.Module, x: Tensor) -> tuple[int, int]:
    """Returns the bytes that a pass keeps when activations are recomputed, and those of the largest block again.

    See `saved_bytes`. The second part is there only while that block's gradient is computed.
    """
    network = _without_content(model, x)
    kept, own, blocks = _Kept(), _own(network), list[_Kept]()

    def counting(_: nn.Module, call: Call) -> Call:
        def run(*arguments: Any, **options: Any) -> Any:
            inputs = [value for value in (*arguments, *options.values()) if isinstance(value, Tensor)]
            for value in inputs:
                kept.keep(value)
            blocks.append(_Kept())
            with saved_tensors_hooks(blocks[-1].keep, lambda value: value):
                return call(*arguments, **options)

        return run

    with replaced_calls(Recomputation(network).blocks, counting):
        kept.of_pass(network, x)
    return kept.bytes(own), max(block.bytes(own | kept.storages.keys()) for block in blocks)


def attack_bytes(model: nn.Module, x: Tensor) -> int:
    """Returns the bytes that a pass of an attack keeps: over the frozen, folded network, for a gradient by images x."""
    network = _without_content(model, x).eval().requires_grad_(False)
    Folding(network)
    return _Kept().of_pass(network, x.detach().requires_grad_()).bytes(_own(network))


class _Kept:
    """The tensors that are kept for a gradient. One that is kept twice takes memory once."""

    def __init__(self) -> None:
        self.storages: dict[int, torch.UntypedStorage] = {}  # by address

    def keep(self, value: Tensor) -> Tensor:
        self.storages[value.untyped_storage()._cdata] = value.untyped_storage()
        return value

    def of_pass(self, network: nn.Module, x: Tensor) -> _Kept:
        """Adds what a pass over images x keeps."""
        with torch.random.fork_rng(devices=[]), saved_tensors_hooks(self.keep, lambda value: value):
            network(x.to("meta"))
        return self

    def bytes(self, without: Set[int]) -> int:
        return sum(storage.nbytes() for address, storage in self.storages.items() if address not in without)


def _without_content(model: nn.Module, x: Tensor) -> nn.Module:
    return copy.deepcopy(model).to(device="meta", dtype=x.dtype).train()


def _own(network: nn.Module) -> set[int]:
    """Returns the addresses of what a network holds in any case."""
    return {value.untyped_storage()._cdata for value in (*network.parameters(), *network.buffers())}


def step_memory(training: Training, size: int) -> StepMemory:
    """Returns the memory of a step of a training on images of `size` pixels a side.

    A method keeps the tensors of a term's passes until its gradient is computed, and says in `passes` how many it has.
    The attack keeps less than these, but it may keep more than what remains of them where activations are recomputed.
    """
    dtype = torch.bfloat16 if training.precision.name == "bf16" else torch.float32
    images = 2  # batch norm refuses a single image where the maps are 1 x 1
    x = torch.empty(images, 3, size, size, dtype=dtype, device="meta")
    passes = getattr(training.method, "passes", 1)
    if training.recomputation is None:
        per_image = saved_bytes(training.model, x) * passes // images
    else:
        kept, largest = recomputed_bytes(training.model, x)
        of_attack = attack_bytes(training.model, x) if hasattr(training.method, "budget") else 0
        per_image = max(kept * passes + largest, of_attack) // images
    weights = sum(value.numel() * value.element_size() for value in training.model.parameters())
    copies = 1 + averages_of(training.optimizer) + (training.perturbation is not None)  # beside the gradient
    return StepMemory(max(per_image, 1), weights * copies)


def averages_of(optimizer: Optimizer) -> int:
    """Returns how many averages, of the size of the weights, an optimizer keeps: one for SGD, two for Adam."""
    return 1 if "momentum" in optimizer.defaults else 2


@dataclass(frozen=True)
class Estimate:
    """What a step of a training needs of the memory that it has, in bytes, and the --bs that fits; 0 for none."""

    needed: int
    free: int
    fitting: int


def estimate(training: Training, size: int) -> Estimate | None:
    """Estimates a step on images of `size` pixels; None where the memory or the network's need is unknown."""
    loader, ranks = training.loader, distributed.world_size()
    free = machine.free_memory(loader.device)
    if free is None:
        return None
    try:
        need = step_memory(training, size)
    except RuntimeError:  # from torch, for a network that computes with the content of its tensors
        return None
    batch = min(loader.batch_size, len(loader.data))
    # Processes on a CPU share the memory; each GPU has its own.
    sharing = distributed.local_world_size() if loader.device.type == "cpu" else 1
    images = -(-batch // ranks) * sharing
    others = need.fixed * (sharing - 1)
    return Estimate(need.of(images) + others, free, need.fitting(free - others) // sharing * ranks)


def shortage(training: Training, size: int) -> str:
    """Returns a line that says that a step will not fit into the memory, and which --bs does; "" if it fits.

    Also returns "" where the memory or the network's need is unknown.
    """
    found = estimate(training, size)
    if found is None or found.needed <= found.free:
        return ""
    place = "the machine" if training.loader.device.type == "cpu" else "the GPU"
    needed = f"a step with --bs {training.loader.batch_size} needs about {_gib(found.needed)}"
    return f"{needed}, and {place} has {_gib(found.free)} free: {advice(training, size, found.fitting)}"


def advice(training: Training, size: int, fitting: int) -> str:
    """Returns what to do where a step does not fit. `fitting`: the --bs that does; 0 for none."""
    text = f"--bs {fitting} fits" if fitting else "not even one image fits, so take a smaller --imgSize"
    if training.recomputation is None and blocks_of(training.model):
        found = estimate(replace(training, recomputation=Recomputation(training.model)), size)
        if found is not None and found.needed <= found.free:
            text += f"; with --checkpointActivations, --bs {training.loader.batch_size} does"
    return text


def _gib(size: int) -> str:
    return f"{size / 2**30:.3g} GiB"
