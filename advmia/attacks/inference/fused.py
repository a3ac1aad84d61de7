"""A frozen network that runs on fused layers on a GPU, where these work.

Most of an attack's step on a GPU moves maps between memory and the chip: by count, adding biases, ReLU and adding
shortcuts take 35 of res18's 56 GB (224 pixels, batch 32, tf32). The layers of `advmia.attacks.inference.fused_layers`
do these in the pass of the convolution before or after: then a step moves 30 GB. `torch.compile` would fuse them with
each other but not into the convolutions, and move about 0.71 of the 56 GB. All this is counted, not measured.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from advmia.attacks.inference.fused_graph import fuse
from advmia.attacks.inference.fused_layers import FusedConvolution, checking
from advmia.attacks.inference.guard import attempt, results_of

# How much outputs and gradients on fused layers may differ from those of the plain network, as a share of their norm:
# in float32, in tf32 and in bfloat16. Fused layers round less often.
_TOLERANCES = {"fp32": 1e-3, "tf32": 0.1, "bf16": 0.5}


class Fused(nn.Module):
    """A frozen network, in eval mode, on fused layers wherever it can be traced and these give the same results.

    The first pass of each kind (size of the images, precision, with or without a gradient) is compared with the plain
    network on two images. After an error or a difference, of which a line is made, passes of that kind stay plain.
    """

    def __init__(self, network: nn.Module, tell: Callable[[str], None]) -> None:
        """Takes what is called with each such line."""
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
        precision = _precision_of(x)
        kind = (x.shape[1:], x.dtype, precision, torch.is_grad_enabled() and x.requires_grad)
        if kind not in self._works:
            self._works[kind] = self._is_right(x[:2], precision)
        return self._fused(x) if self._works[kind] else self.network(x)

    def _is_right(self, x: Tensor, precision: str) -> bool:
        """Returns whether the fused layers run and agree with the plain network; says if they do not."""

        def tell(reason: str) -> None:
            self._tell(f"fused operators do not work here ({reason}); attacks run on torch's own, one by one")

        assert self._fused is not None
        with checking():
            found = attempt(self._fused, x, tell)
        for expected, actual in zip(results_of(self.network, x), found or (), strict=found is not None):
            difference, size = (expected.float() - actual.float()).norm(), expected.float().norm()
            if not bool(difference <= _TOLERANCES[precision] * size):
                tell(f"results differ by {float(difference / size):.2g} of their norm")
                return False
        return found is not None


def _precision_of(x: Tensor) -> str:
    if torch.is_autocast_enabled(x.device.type):
        return "bf16"
    return "tf32" if torch.backends.cudnn.allow_tf32 else "fp32"
