"""A frozen network whose passes are recorded as CUDA graphs, and replayed: one launch forward, and one backward.

An attack runs the same pass hundreds of times. Launching its operators one by one takes the host 5 us each or more,
which a GPU waits for if the network is deep or the images are few: chexnet has 691 launches a step.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from advmia.attacks.inference.guard import difference, first_line, results_of
from advmia.attacks.inference.waits import NoWaits
from advmia.runtime.terminal import say

_MOST_GRAPHS = 64  # kinds of passes of a copy: up to 14 batch sizes of 32 images, with and without a gradient and tf32
_MEMORY_SHARE = 0.5  # of the memory that nothing has needed so far, for what a graph keeps
_TOLERANCE = 0.01  # how much the first replay may differ from a plain pass, see `difference`


class Captured(nn.Module):
    """A frozen network on a CUDA device, whose passes are CUDA graphs from their second time on.

    There is a graph for each shape of the images, precision and use of the gradient; one that is met once is not worth
    it. With a gradient there are two, forward and backward, so that the objective stays outside. The gradient is that
    of the images only, and can be taken once, since the graphs of a copy share their memory: until it is taken or
    the outputs are dropped, other passes run without graphs.

    A graph keeps the memory of its pass. It is made if this is at most half of what nothing has needed so far. It reads
    the weights where they were, so they must be changed in place.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.eval()
        self.training = False
        self.paused = False  # no further graphs, as long as it is not known how much memory the rest of a step needs
        self._passes: OrderedDict[tuple[object, ...], _Pass | None] = OrderedDict()  # by use; None: met once
        self._too_large: set[tuple[object, ...]] = set()
        self._memory: _Memory | None = None
        self._works = True

    def forward(self, x: Tensor) -> Tensor:
        """Returns the network's outputs (B, ...) for images x (B, C, H, W)."""
        captured = self._pass_for(x) if self._works and x.device.type == "cuda" and len(x) else None
        return self.network(x) if captured is None else captured(x)

    def drop_graphs(self) -> None:
        """Frees the memory of all graphs. Passes that are still used are recorded again."""
        self._passes.clear()
        self._too_large.clear()
        self._memory = None

    def _pass_for(self, x: Tensor) -> _Pass | None:
        """Returns the recorded pass for images x, recorded now if this is the second time; None for a plain pass."""
        with_gradient = torch.is_grad_enabled() and x.requires_grad
        key = (
            *(x.shape, x.stride(), x.dtype, with_gradient),
            *(torch.is_autocast_enabled(x.device.type), torch.get_autocast_dtype(x.device.type)),
            *(torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32),
        )
        if key in self._too_large or (self._memory is not None and self._memory.is_in_use()):
            return None
        is_first = key not in self._passes
        captured = self._passes.pop(key, None)
        if captured is None and not is_first and not self.paused:
            captured = self._capture(x, with_gradient)
            if captured is None:
                self._too_large.add(key)
                return None
        self._passes[key] = captured
        if len(self._passes) > _MOST_GRAPHS:
            self._passes.popitem(last=False)
        return captured

    def _capture(self, x: Tensor, with_gradient: bool) -> _Pass | None:
        """Records the pass on images x. Returns None if it does not fit into memory, or does not work here."""
        memory = self._memory or _Memory(x.device)
        try:
            with memory.on_stream(), NoWaits():
                expected, needed = memory.of_pass(lambda: results_of(self.network, x, with_gradient=with_gradient))
            if not memory.has_room(needed):
                return None
            captured = _Pass.record(self.network, x, with_gradient, memory)
            if not bool(difference(results_of(captured, x, with_gradient=with_gradient), expected) <= _TOLERANCE):
                raise RuntimeError("a graph's numbers differ from the network's")
        except torch.OutOfMemoryError:
            return None
        except Exception as error:  # what CUDA forbids in a graph raises different exceptions
            say(f"CUDA graphs do not work here ({first_line(error)}); continuing without CUDA graphs")
            self.drop_graphs()
            self._works = False
            return None
        memory.kept = max(memory.kept, needed)
        self._memory = memory
        return captured


def without_graphs(network: nn.Module) -> nn.Module:
    """Returns the network itself of a `Captured`, whose graphs are dropped; any other network as it is."""
    if not isinstance(network, Captured):
        return network
    network.drop_graphs()
    return network.network


class _Memory:
    """The memory that the graphs of a copy share.

    What a pass needs only while it runs is overwritten by the next pass. So the forward graph of another pass, or of
    the same, must not run between the forward and the backward graph of a pass.
    """

    def __init__(self, device: torch.device) -> None:
        self.pool = torch.cuda.graph_pool_handle()
        self.kept = 0  # bytes, of the largest pass
        self._device, self._stream = device, torch.cuda.Stream(device)
        self._buffers: dict[tuple[object, ...], Tensor] = {}
        self._run: weakref.ref[_Run] | None = None

    def begin(self) -> _Run:
        """Returns a forward pass whose backward pass may follow."""
        run = _Run()
        self._run = weakref.ref(run)
        return run

    def is_in_use(self) -> bool:
        """Returns whether a backward pass may still follow."""
        run = None if self._run is None else self._run()
        return run is not None and not run.is_over

    def buffer(self, purpose: str, x: Tensor) -> Tensor:
        """Returns memory for a tensor like x, the same for all batches: the first of them are a smaller batch."""
        strides = torch.empty_like(x).stride()
        key = (purpose, x.shape[1:], strides, x.dtype)
        if key not in self._buffers or len(self._buffers[key]) < len(x):
            self._buffers[key] = torch.empty_strided(x.shape, strides, dtype=x.dtype, device=x.device)
        return self._buffers[key][: len(x)]

    @contextmanager
    def on_stream(self) -> Iterator[None]:
        """Runs the block on the stream on which graphs are recorded: what torch sets up once for a stream is ready."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            yield
        current.wait_stream(self._stream)

    @contextmanager
    def recording(self, graph: torch.cuda.CUDAGraph) -> Iterator[None]:
        """Records the operators of the block instead of running them."""
        # Where recording fails, `torch.cuda.graph` would leave its stream as the current one. Other threads, which
        # load images, may go on using the device.
        with (
            torch.cuda.stream(torch.cuda.current_stream(self._device)),
            torch.cuda.graph(graph, pool=self.pool, stream=self._stream, capture_error_mode="thread_local"),
        ):
            yield

    def of_pass(self, run: Callable[[], list[Tensor]]) -> tuple[list[Tensor], int]:
        """Returns the results of a pass, and how many bytes it needed at most."""
        _note_reserved(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        results = run()
        return results, torch.cuda.max_memory_allocated(self._device) - before

    def has_room(self, needed: int) -> bool:
        """Returns whether a graph may keep so many bytes."""
        free, _ = torch.cuda.mem_get_info(self._device)
        unused = free + torch.cuda.memory_reserved(self._device) - _note_reserved(self._device)
        return needed - self.kept <= _MEMORY_SHARE * unused


_MOST_RESERVED: dict[torch.device, int] = {}


def _note_reserved(device: torch.device) -> int:
    """Returns the most bytes that torch has ever reserved: it may need them again."""
    most = max(_MOST_RESERVED.get(device, 0), torch.cuda.max_memory_reserved(device))
    _MOST_RESERVED[device] = most
    return most


class _Run:
    """A forward pass by a graph, as long as its outputs are alive."""

    is_over = False  # its gradient was taken

    def end(self) -> None:
        if self.is_over:
            raise RuntimeError("the gradient of a CUDA graph can be taken once: the backward pass has overwritten it")
        self.is_over = True


@dataclass
class _Pass:
    """A recorded pass, and the memory that its graphs read and write."""

    memory: _Memory
    images: Tensor
    outputs: Tensor
    graph: torch.cuda.CUDAGraph
    backward: tuple[torch.cuda.CUDAGraph, Tensor, Tensor] | None = None  # graph, gradients of outputs and of images

    @classmethod
    def record(cls, network: nn.Module, x: Tensor, with_gradient: bool, memory: _Memory) -> _Pass:
        images = memory.buffer("images", x)
        # A new leaf, because autocast keeps the cast of one that it has met: the graph would not read the images.
        leaf = images.detach().requires_grad_(with_gradient)
        graph, backward = torch.cuda.CUDAGraph(), None
        with memory.recording(graph):
            outputs = network(leaf)
        if with_gradient:
            given, gradient = torch.empty_like(outputs, requires_grad=False), memory.buffer("gradient", x)
            backward_graph = torch.cuda.CUDAGraph()
            with memory.recording(backward_graph):
                gradient.copy_(torch.autograd.grad(outputs, leaf, given)[0])
            backward = backward_graph, given, gradient
        return cls(memory, images, outputs.detach(), graph, backward)

    def __call__(self, x: Tensor) -> Tensor:
        return self.run_forward(x) if self.backward is None else _Replay.apply(x, self)

    def run_forward(self, x: Tensor) -> Tensor:
        self.images.copy_(x)
        self.graph.replay()
        return self.outputs.clone()

    def run_backward(self, outputs_gradient: Tensor) -> Tensor:
        assert self.backward is not None
        graph, given, gradient = self.backward
        given.copy_(outputs_gradient)
        graph.replay()
        return gradient.clone()


class _Replay(torch.autograd.Function):
    """Joins the two graphs of a pass with a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, captured: _Pass) -> Tensor:
        ctx.captured, ctx.run = captured, captured.memory.begin()
        return captured.run_forward(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.run.end()
        return ctx.captured.run_backward(gradient), None
