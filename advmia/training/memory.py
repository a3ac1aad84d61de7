"""Estimates the memory of a training step before the first one: the bytes that its passes keep for the gradient.

Nothing is computed: the pass runs on torch's `meta` device, where tensors have a shape and no content. For mv2 at 299
pixels it counts 1.1 GiB per image, so that a batch of 32 needs 71 GiB in TRADES, which keeps two passes at once. On a
CPU, each further image took between 0.91 and 1.05 times the count (mv2, 64 pixels, 8 and 16 images; nat, TRADES).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from advmia.runtime import distributed, machine
from advmia.training.loop import Training

_COPIES_OF_WEIGHTS = 4  # the weights, their gradient and up to two averages of the optimizer; AWP and EMA have one each
_USABLE = 0.9  # the share of the memory that a suggested batch may need, since the estimate is a little low


@dataclass(frozen=True)
class StepMemory:
    """What a training step needs, in bytes: for each image of its batch, and whatever the batch."""

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
    network = copy.deepcopy(model).to(device="meta", dtype=x.dtype).train()
    own = {value.untyped_storage()._cdata for value in (*network.parameters(), *network.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}  # by address; a tensor that is kept twice takes memory once

    def keep(value: Tensor) -> Tensor:
        kept[value.untyped_storage()._cdata] = value.untyped_storage()
        return value

    with torch.random.fork_rng(devices=[]), saved_tensors_hooks(keep, lambda value: value):
        output = network(x.to("meta"))
    del output
    return sum(storage.nbytes() for address, storage in kept.items() if address not in own)


def step_memory(training: Training, size: int) -> StepMemory:
    """Returns the memory of a step of a training on images of `size` pixels a side.

    A method keeps the tensors of a term's passes until its gradient is computed, and says in `passes` how many it has.
    """
    dtype = torch.bfloat16 if training.precision.name == "bf16" else torch.float32
    images = 2  # batch norm refuses a single image where the maps are 1 x 1
    x = torch.empty(images, 3, size, size, dtype=dtype, device="meta")
    per_image = saved_bytes(training.model, x) * getattr(training.method, "passes", 1) // images
    weights = sum(value.numel() * value.element_size() for value in training.model.parameters())
    further = (training.perturbation is not None) + (training.average is not None)
    return StepMemory(max(per_image, 1), weights * (_COPIES_OF_WEIGHTS + further))


def shortage(training: Training, size: int) -> str:
    """Returns a line that says that a step will not fit into the memory, and which --bs does; "" if it fits.

    Also returns "" where the memory or the network's need is unknown.
    """
    loader, ranks = training.loader, distributed.world_size()
    memory = machine.free_memory(loader.device)
    if memory is None:
        return ""
    try:
        need = step_memory(training, size)
    except RuntimeError:  # from torch, for a network that computes with the content of its tensors
        return ""
    batch = min(loader.batch_size, len(loader.data))
    # Processes on a CPU share the memory; each GPU has its own.
    sharing = distributed.local_world_size() if loader.device.type == "cpu" else 1
    images = -(-batch // ranks) * sharing
    total = need.of(images) + need.fixed * (sharing - 1)
    if total <= memory:
        return ""
    fitting = need.fitting(memory - need.fixed * (sharing - 1)) // sharing * ranks
    advice = f"--bs {fitting} fits" if fitting else "not even one image fits, so take a smaller --imgSize"
    place = "the machine" if loader.device.type == "cpu" else "the GPU"
    needed = f"a step with --bs {loader.batch_size} needs about {_gib(total)}"
    return f"{needed}, and {place} has {_gib(memory)} free: {advice}"


def _gib(size: int) -> str:
    return f"{size / 2**30:.3g} GiB"
