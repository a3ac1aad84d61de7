"""A frozen network with its weights in float32 and, for autocast, rounded to bfloat16 once and not in every pass."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from advmia.attacks.inference.fused import Fused
from advmia.runtime.terminal import say

_CAST = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)  # the layers whose weights autocast casts


class ByPrecision(nn.Module):
    """A frozen network, in eval mode, that runs under autocast to bfloat16 on a copy with weights in bfloat16.

    The first such pass makes the copy, and keeps it if its outputs are equal to the network's under autocast, which
    casts the same weights to the same numbers in every pass. On CUDA, both run on fused layers if `fuses`, see `Fused`.
    """

    def __init__(self, network: nn.Module, *, fuses: bool) -> None:
        super().__init__()
        self.network, self._fuses = network, fuses
        self._say_once = _SayOnce()  # that fused layers do not work
        self._exact: list[Tensor] = []  # the network's weights that the copy has rounded, and
        self._rounded: list[Tensor] = []  # the copy's
        # What runs without and with autocast to bfloat16. Not as submodules: whoever asks for this module's layers
        # means those of the network.
        self._forms: dict[bool, nn.Module] = {}
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Returns the network's outputs (B, ...) for images x (B, C, H, W)."""
        if not len(x):  # nothing by which forms could be checked
            return self.network(x)
        kind = x.device.type
        in_bf16 = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.bfloat16
        if in_bf16 not in self._forms:
            self._forms[in_bf16] = self._form(x, in_bf16=in_bf16)
        return self._forms[in_bf16](x)

    @torch.no_grad()
    def refresh(self) -> None:
        """Follows a change of the network's weights."""
        if self._rounded:
            torch._foreach_copy_(self._rounded, self._exact)
        for form in self._forms.values():
            if isinstance(form, Fused):
                form.refresh()

    def _form(self, x: Tensor, *, in_bf16: bool) -> nn.Module:
        network = self._in_bf16(x) if in_bf16 else self.network
        # Without rounded weights, fused layers would have to cast them too.
        fuses = self._fuses and x.is_cuda and not (in_bf16 and network is self.network)
        return Fused(network, self._say_once) if fuses else network

    @torch.no_grad()
    def _in_bf16(self, x: Tensor) -> nn.Module:
        """Returns the copy with rounded weights, which shares all else with the network, or the network itself."""
        layers = [module for module in self.network.modules() if type(module) in _CAST]
        exact = {id(weight): weight for layer in layers for weight in layer.parameters(recurse=False)}
        rounded = {key: nn.Parameter(weight.bfloat16(), requires_grad=False) for key, weight in exact.items()}
        shared = {id(each): each for each in (*self.network.parameters(), *self.network.buffers())}
        network = copy.deepcopy(self.network, {**shared, **rounded})
        if not bool((network(x[:2]) == self.network(x[:2])).all()):  # some weights are used in other ways too
            return self.network
        self._exact, self._rounded = list(exact.values()), list(rounded.values())
        return network


class _SayOnce:
    """Says the first line that it is called with."""

    is_over = False

    def __call__(self, line: str) -> None:
        if not self.is_over:
            say(line)
        self.is_over = True
