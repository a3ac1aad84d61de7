"""CUDA graphs, streams and the memory of graphs on the pretended GPU (`tests.support.pretended_gpu`).

While a graph is recorded, operators do not count as launches, and the numbers that they compute are spoilt at the end,
since CUDA computes none. A replay runs them again, in the same memory and with the tf32 of the recording, and counts as
one launch. As on CUDA, waiting for the device is an error while a graph is recorded, and graphs of one pool share the
memory that they need only while they run: a replay spoils that of the others, except for tensors that were alive when
it was recorded. Not pretended: that a pool reuses memory within a graph, so that its bytes are more than on CUDA.
"""

from __future__ import annotations

import itertools
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tests.support.gpu_records import Launch, line_of_the_package
from tests.support.gpu_rounding import mapped, rounded_to_tf32

if TYPE_CHECKING:
    from tests.support.pretended_gpu import PretendedGpu


@dataclass
class Operator:
    """An operator as a graph runs it: with the tensors (on the CPU) that it reads and writes."""

    func: Callable[..., Any]
    name: str
    args: Sequence[Any]
    kwargs: dict[str, Any]
    found: list[Tensor]  # its results when it was recorded

    def tensors(self) -> Iterator[Tensor]:
        return tensors_in([self.args, *self.kwargs.values(), self.found])

    def run(self) -> None:
        if any(each.is_meta for each in self.found):
            return
        found = self.func(*rounded_to_tf32(self.name, self.args), **self.kwargs)
        for old, new in zip(self.found, tensors_in(found), strict=True):
            if _storage(old) != _storage(new):  # neither a view nor changed in place
                old.copy_(new)


@dataclass(eq=False)
class Graph:
    """Stands for `torch.cuda.CUDAGraph`."""

    gpu: PretendedGpu
    operators: list[Operator] = field(default_factory=list)
    launches: list[Launch] = field(default_factory=list)
    tf32: tuple[bool, bool] = (False, False)
    own: dict[int, Tensor] = field(default_factory=dict)  # memory that it allocated, by its storage
    spoils: list[Tensor] = field(default_factory=list)  # memory of earlier graphs of the pool
    later: weakref.WeakSet[Graph] = field(default_factory=weakref.WeakSet)  # graphs of the pool

    def record(self, func: Callable[..., Any], name: str, args: Sequence[Any], kwargs: Any, found: Any) -> None:
        args = mapped(_alias, args)
        kwargs = {key: _alias(value) for key, value in kwargs.items()}
        results = [_alias(each) for each in tensors_in([found])]
        given = set(map(_storage, tensors_in([*args, *kwargs.values()])))
        for each in results:
            if _storage(each) not in given:
                self.own.setdefault(_storage(each), each)
        self.operators.append(Operator(func, name, args, kwargs, results))

    def replay(self) -> None:
        assert self.gpu.graph is None, "a graph is replayed while one is recorded"
        spoil([*self.spoils, *(each for graph in self.later for each in graph.own.values())])
        tf32 = _tf32()
        _allow_tf32(*self.tf32)
        with torch.no_grad():
            for each in self.operators:
                each.run()
        _allow_tf32(*tf32)
        flop, bytes_moved = (sum(getattr(each, name) for each in self.launches) for name in ("flop", "bytes"))
        self.gpu.launches.append(Launch("graph", line_of_the_package(), flop, bytes_moved))

    def unused(self) -> Iterator[Tensor]:
        """Yields the memory of this graph that nothing but it holds."""
        held = Counter(_storage(each) for operator in self.operators for each in operator.tensors())
        for key, each in self.own.items():
            storage = each.untyped_storage()  # whose Python object is one more
            if torch._C._storage_Use_Count(storage._cdata) <= held[key] + 1:
                yield each


def _tf32() -> tuple[bool, bool]:
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


def _allow_tf32(cudnn: bool, matmul: bool) -> None:
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = cudnn, matmul


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _alias(value: Any) -> Any:
    """Returns a tensor of its own in the same memory, so that `unused` can count who else has it."""
    return value.detach() if isinstance(value, Tensor) else value


class Forbidden(list[Any]):
    """The list of waits while a graph is recorded."""

    def append(self, wait: Any) -> None:
        raise RuntimeError(f"operation not permitted when stream is capturing ({wait.kind} at {wait.place})")


@contextmanager
def recording(gpu: PretendedGpu, graph: Graph, pool: weakref.WeakSet[Graph]) -> Iterator[None]:
    """Stands for `torch.cuda.graph`."""
    torch.cuda.synchronize()
    assert gpu.graph is None and not graph.launches, "one graph at a time, and each once"
    graph.spoils = [each for earlier in pool for each in earlier.unused()]
    graph.tf32 = _tf32()
    launches, waits = gpu.launches, gpu.waits
    gpu.graph, gpu.launches, gpu.waits = graph, graph.launches, Forbidden()
    try:
        yield
    finally:
        gpu.graph, gpu.launches, gpu.waits = None, launches, waits
    for earlier in pool:
        earlier.later.add(graph)
    pool.add(graph)
    spoil(graph.own.values())


def spoil(memory: Iterable[Tensor]) -> None:
    """Writes what nobody computed."""
    for each in memory:
        if not each.is_meta:
            whole = torch.empty(0, dtype=each.dtype).set_(each.untyped_storage())
            whole.fill_(torch.nan if each.is_floating_point() else 0)  # an index must not lead out of its tensor


def tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    """Yields the tensors among the values and in lists of them."""
    for value in [values] if isinstance(values, Tensor) else values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(value)


class Stream:
    """Stands for `torch.cuda.Stream`: there is one."""

    def __init__(self, device: object = None) -> None:
        pass

    def wait_stream(self, stream: Stream) -> None:
        pass


def graph_functions(gpu: PretendedGpu) -> dict[str, Any]:
    """Returns what stands for the parts of `torch.cuda` that graphs need, by name."""
    memory = gpu.memory
    numbers = itertools.count()
    pools: dict[int, weakref.WeakSet[Graph]] = {}

    def graph(graph: Graph, pool: int, stream: Stream, capture_error_mode: str = "global") -> Any:
        return recording(gpu, graph, pools.setdefault(pool, weakref.WeakSet()))

    return {
        "Stream": Stream,
        "stream": lambda stream: nullcontext(),
        "current_stream": lambda device=None: Stream(),
        "CUDAGraph": lambda: Graph(gpu),
        "graph": graph,
        "graph_pool_handle": lambda: next(numbers),
        "max_memory_reserved": lambda device=None: memory.peak,
    }
