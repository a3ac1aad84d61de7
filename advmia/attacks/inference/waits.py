"""Finds operators that a CUDA graph cannot record, by a pass before its recording.

If CUDA itself refuses one, torch before 2.12 takes the recording as unfinished, and from then on frees no cached memory
when it needs some (https://github.com/pytorch/pytorch/pull/180395).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_COPYING = ("_to_copy", "copy_", "lift_fresh")  # the last is how `torch.tensor` ends
_INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")
# The shape of their result, or the result itself, is for the host.
_WAITING = (
    *("_local_scalar_dense", "equal", "nonzero", "masked_select", "bincount"),
    *("_unique2", "unique_dim", "unique_consecutive"),
)


class NoWaits(TorchDispatchMode):
    """Raises `RuntimeError`, during the block, at an operator that makes the host wait for a GPU."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = str(func.overloadpacket).rpartition(".")[2]
        if _waits(name, args, [each for each in tree_leaves((args, kwargs, result)) if isinstance(each, Tensor)]):
            raise RuntimeError(f"{name} makes the host wait for the GPU")
        return result


def _waits(name: str, args: tuple[Any, ...], tensors: list[Tensor]) -> bool:
    """Returns whether an operator waits. `tensors`: those that it takes and returns."""
    if not any(tensor.is_cuda for tensor in tensors):
        return False
    if name in _COPYING:
        return name == "lift_fresh" or not all(tensor.is_cuda for tensor in tensors)
    if name in _INDEXING:
        indices = [index for index in args[1] if index is not None]
        return any(not index.is_cuda or index.dtype in (torch.bool, torch.uint8) for index in indices)
    return name in _WAITING
