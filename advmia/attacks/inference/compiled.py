"""A frozen network that `torch.compile` compiles where it can."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from advmia.attacks.inference.guard import first_line, results_of
from advmia.runtime.terminal import say


class Compiled(nn.Module):
    """A frozen network, compiled by `torch.compile` for the largest batch size that it has met.

    All batches but a list's last have that size. Compiling takes 10 to 77 s a graph on a CPU, so smaller batches run
    uncompiled, and so do all batches if compiling fails. There is a graph for passes with a gradient and one for those
    without, and on a GPU each of them with and without tf32.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._compiled: Callable[[Tensor], Tensor] | None = torch.compile(network, dynamic=False)
        self._shape: torch.Size | None = None
        self._graphs: set[tuple[bool, ...]] = set()  # those compiled for that shape

    def forward(self, x: Tensor) -> Tensor:
        """Returns the network's outputs (B, ...) for images x (B, C, H, W)."""
        if self._compiled is not None and (self._shape is None or len(x) > self._shape[0]):
            self._shape, self._graphs = x.shape, set()
        if self._compiled is None or x.shape != self._shape:
            return self.network(x)
        graph = (
            torch.is_grad_enabled() and x.requires_grad,
            torch.is_autocast_enabled(x.device.type),
            torch.backends.cudnn.allow_tf32,
        )
        if graph not in self._graphs:
            self._graphs.add(graph)
            self._compile(x)
        return self.network(x) if self._compiled is None else self._compiled(x)

    def _compile(self, x: Tensor) -> None:
        """Compiles the passes that x asks for now, so that an error leads to a warning and not to the run's end."""
        assert self._compiled is not None
        try:
            results_of(self._compiled, x, with_gradient=torch.is_grad_enabled() and x.requires_grad)
        except Exception as error:  # compilers raise different exceptions, by version and machine
            say(f"--compile: torch.compile does not work here ({first_line(error)}); continuing without it")
            self._compiled = None
