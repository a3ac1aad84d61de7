"""A frozen network that runs on fused layers on a GPU, where these work.

By count, most of an attack's step on a GPU moves maps between memory and the chip: 52 GB with res18, of which adding
biases, ReLU and adding shortcuts take 35 (224 pixels, batch 32, tf32). The layers of
`advmia.attacks.inference.fused_layers` do these in the pass of the convolution before or after, and move 31 GB.
`torch.compile` would fuse them with each other but not into the convolutions, and move about 0.71 of the 52 GB, by a
count on paper. Nothing of this was measured.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from advmia.attacks.inference.fused_graph import fuse
from advmia.attacks.inference.fused_layers import FusedConvolution, checking
from advmia.attacks.inference.guard import difference, first_line, results_of

# How much results on fused layers may differ from those of the plain network (see `difference`), in each precision.
# Fused layers round less often.
_TOLERANCES = {"fp32": 1e-3, "tf32": 0.1, "bf16": 0.5}


class Fused(nn.Module):
    """A frozen network, in eval mode, on fused layers wherever it can be traced and these give the same results.

    The first pass of each kind (size of the images, precision, with or without a gradient) is compared with the plain
    network on two images. After an error or a difference, passes of that kind stay plain.
    """

    def __init__(self, network: nn.Module, tell: Callable[[str], None]) -> None:
        """Takes what is called with a line that says of such an error or difference."""
        super().__init__()
        self.network, self._tell = network, tell
        self._fused = fuse(network)
        self._works: dict[tuple[object, ...], bool] = {}

    def refresh(self) -> None:
        """Follows a change of the network's weights."""
        for module in self._fused.modules() if self._fused is not None else ():
            if isinstance(module, FusedConvolution):
                module.refresh()

    def forward(self, x: Tensor) -> Tensor:
        """Returns the network's outputs (B, ...) for images x (B, C, H, W)."""
        if self._fused is None:
            return self.network(x)
        kind = (x.shape[1:], x.dtype, _precision_of(x), torch.is_grad_enabled() and x.requires_grad)
        if kind not in self._works:
            fault = self._fault(x[:2], with_gradient=kind[-1])
            if fault:
                self._tell(f"fused operators do not work here ({fault}); attacks run on torch's own, one by one")
            self._works[kind] = not fault
        return self._fused(x) if self._works[kind] else self.network(x)

    def _fault(self, x: Tensor, *, with_gradient: bool) -> str:
        """Returns why the fused layers must not be used for images x; "" if they run and agree with the network."""
        assert self._fused is not None
        try:
            expected = results_of(self.network, x, with_gradient=with_gradient)
            with checking():
                actual = results_of(self._fused, x, with_gradient=with_gradient)
        except Exception as error:  # kernels and their compilers raise different exceptions, by version and machine
            return first_line(error)
        differs = difference(actual, expected)
        is_right = bool(differs <= _TOLERANCES[_precision_of(x)])
        return "" if is_right else f"results differ by {float(differs):.2g} of their norm"


def _precision_of(x: Tensor) -> str:
    if torch.is_autocast_enabled(x.device.type):
        return "bf16"
    return "tf32" if torch.backends.cudnn.allow_tf32 else "fp32"
