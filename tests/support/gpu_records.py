"""What the pretended GPU (`tests.support.pretended_gpu`) records: launches, waits and the memory in use."""

from __future__ import annotations

import math
import sys
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import advmia

FUSED_CONVOLUTIONS = ("cudnn_convolution_relu", "cudnn_convolution_add_relu")  # with bias, addition and ReLU
CONVOLUTIONS = ("convolution", "convolution_backward", *FUSED_CONVOLUTIONS)
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot")
_MOST_TENSORS_OF_CAT = 128
_MOST_TENSORS, _MOST_CHUNKS, _CHUNK = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}, 320, 65536  # of a foreach operator
_ROOT = f"{Path(advmia.__file__).parent}/"


@dataclass(frozen=True)
class Launch:
    """An operator that ran on the device."""

    op: str
    place: str  # the line of the package that caused it, see `line_of_the_package`
    flop: float  # of convolutions and matrix products; 0 for others
    bytes: int  # read and written


@dataclass(frozen=True)
class Wait:
    """A point where the host waited for the device."""

    kind: str
    place: str
    ahead: int = 0  # operators that were launched after what it waits for: the device has them to do meanwhile


@dataclass
class Memory:
    """The bytes of all tensors on the device that are alive, and the most that there were."""

    total: int
    live: int = 0
    peak: int = 0
    _known: set[int] = field(default_factory=set)  # storages, by their addresses
    _is_backward: bool = False
    _error: torch.OutOfMemoryError | None = None  # of a backward pass

    def add(self, tensor: Tensor) -> None:
        """Counts the tensor's storage until it is freed. Raises `torch.OutOfMemoryError` if it does not fit."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        if self.live + size > self.total:
            self._error = torch.OutOfMemoryError(f"CUDA out of memory: {self.live} + {size} of {self.total} bytes")
            if not self._is_backward:
                raise self._taken()
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._remove, key, size).atexit = False

    def at_its_end(self, run_backward: Callable[..., Any]) -> Callable[..., Any]:
        """Returns a backward pass that raises the errors of `add` at its end: inside, they would end the process."""

        def run(*args: Any, **kwargs: Any) -> Any:
            self._is_backward, self._error = True, None
            try:
                found = run_backward(*args, **kwargs)
            finally:
                self._is_backward = False
            if self._error is not None:
                raise self._taken()
            return found

        return run

    def _taken(self) -> torch.OutOfMemoryError:
        """Returns the error and forgets it: the frames of its traceback would keep the graph alive."""
        error, self._error = self._error, None
        assert error is not None
        return error

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def line_of_the_package() -> str:
    """Returns where the package is, such as "advmia/losses.py:21 cross_entropy"; "" outside the package."""
    frame = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(_ROOT):
            return f"advmia/{path[len(_ROOT) :]}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return ""


def bytes_of(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def kernels_of(name: str, args: Sequence[Any]) -> int:
    """Returns how many kernels CUDA launches for an operator, as far as known here: 1, or more for long lists.

    The limits are those of aten/src/ATen/native/cuda/MultiTensorApply.cuh and Shape.cu: 128 tensors in a launch of
    `cat`; in one of a foreach operator or a fused optimizer, 320 chunks of 65,536 elements of at most 110 tensors, of
    64 in each of two lists, and so on. Foreach operators on lists that do not match launch a kernel for each tensor.
    `repeat_interleave` sums the counts first.
    """
    if name == "repeat_interleave":
        return 2
    if name == "cat":
        return -(-len(args[0]) // _MOST_TENSORS_OF_CAT)
    lists = [each for each in args if isinstance(each, list | tuple) and each and isinstance(each[0], Tensor)]
    if not name.startswith(("_foreach_", "_fused_")) or not lists:
        return 1
    if name.startswith("_foreach_") and (
        any(len({each.dtype for each in tensors}) > 1 for tensors in lists)
        or any(len({(each.shape, each.stride()) for each in group}) > 1 for group in zip(*lists, strict=True))
    ):
        return len(lists[0])
    depth = len(lists) + (not name.endswith("_"))  # a list of results
    chunks = sum(-(-tensor.numel() // _CHUNK) for tensor in lists[0])
    return max(-(-len(lists[0]) // _MOST_TENSORS[depth]), -(-chunks // _MOST_CHUNKS))


def flop_of(name: str, args: Sequence[Any], inputs: Sequence[Tensor], results: Sequence[Tensor]) -> float:
    """Returns the FLOP of an operator; 0 for other than convolutions and matrix products."""
    if name in PRODUCTS:
        return 2.0 * results[0].numel() * inputs[-1].shape[max(inputs[-1].dim() - 2, 0)]
    if name not in CONVOLUTIONS:
        return 0.0
    backward = name == "convolution_backward"
    x, weight = args[1:3] if backward else args[:2]
    out = args[0] if backward else results[0]
    is_transposed = name not in FUSED_CONVOLUTIONS and args[7 if backward else 6]
    passes = sum(args[10][:2]) if backward else 1  # gradients of x and of the weight
    return 2.0 * passes * (x if is_transposed else out).numel() * math.prod(weight.shape[1:])
