"""The network as attacks see it: a frozen copy in eval mode, batch norm folded into the convolutions before it.

In eval mode batch norm is a fixed scale and shift of each channel, so the convolution before it can do its work. The
copy computes the same function up to rounding; an attack, which runs it many times over, is saved the passes over
memory that batch norm costs. What attacks find is always scored on the network itself."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import cast
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn

from advmia.runtime.precision import fp32_only
from advmia.runtime.terminal import say

# Images a block of `Blocks` on a CPU, of up to 64 pixels a side; of larger ones fewer, so that a block has no more
# pixels, but two at least. Blocks of 16 were 3 to 5 % faster than of 8, but then twice as many copies fill them up.
_FILLED, _UNFILLED, _SIDE = 8, 16, 64
_USED_SHARE = 0.6  # of a GPU's free memory, by `fitting_batch`
# How far the copy's outputs may be from the network's, as a share of the largest.
_ROUNDING = 1e-3


def inference_copy(model: nn.Module, x: Tensor) -> nn.Module:
    """The copy of `model` for attacks, with the weights that the model has now.

    The copy is made once for each model and refreshed when weights or running statistics have changed since. `x`:
    images (B, C, H, W) on which a new copy is compared with the model; where they differ (a batch norm that is
    registered after a convolution, but not fed by it), nothing is folded.
    """
    known = _COPIES.get(model)
    if known is None:
        compiled = model in _TO_COMPILE
        known = _COPIES[model] = _Copy(model, fold=True, compiled=compiled)
        if not known.agrees_with(model, x):
            known = _COPIES[model] = _Copy(model, fold=False, compiled=compiled)
    return known.refreshed(model)


def compile_copies(model: nn.Module) -> None:
    """From now on attacks on `model` run on a copy that is compiled, see `Compiled`."""
    _TO_COMPILE.add(model)
    _COPIES.pop(model, None)


def fitting_batch(model: nn.Module, x: Tensor, most: int) -> int:
    """How many images like x (B, C, H, W) an attack on a GPU may take at a time, len(x) to `most`; on a CPU len(x).

    Memory is measured on one forward and backward pass over x; a part of it is left alone.
    """
    if x.device.type != "cuda":
        return len(x)
    torch.cuda.synchronize(x.device)
    torch.cuda.reset_peak_memory_stats(x.device)
    before = torch.cuda.memory_allocated(x.device)
    attacked = inference_copy(model, x)
    with torch.enable_grad():
        probe = x.detach().requires_grad_(True)
        torch.autograd.grad(attacked(probe).float().sum(), probe)
    each = (torch.cuda.max_memory_allocated(x.device) - before) / len(x)
    free, _ = torch.cuda.mem_get_info(x.device)
    free += torch.cuda.memory_reserved(x.device) - before
    return max(len(x), min(most, int(_USED_SHARE * free / each)))


class Blocks(nn.Module):
    """A network that is run on a few images at a time, however many it is given.

    On a CPU all blocks have one size, whatever the loader's batch, so that an image's outputs depend on that image
    alone: convolutions and matrix products choose their algorithm, and so their rounding, by the shape of the batch,
    and an attack that takes signs of gradients makes much of a last bit. A block that is short is filled up, and what
    that gives is thrown away. On a GPU, where small blocks would be slow, a block has at most `at_most` images.
    """

    def __init__(
        self,
        network: nn.Module,
        at_most: int | None = None,
        passed: Callable[[int], None] | None = None,
        *,
        filled: bool = True,
    ) -> None:
        """`passed` is told the number of images after each pass. Without `filled`, blocks on a CPU are larger, and
        short ones stay short: where an image depends on its batch anyhow, as in training."""
        super().__init__()
        self.network, self._at_most, self._passed, self._filled = network, at_most, passed, filled

    def forward(self, x: Tensor) -> Tensor:
        """Images x (B, C, H, W) to the network's outputs, (B, ...)."""
        blocks = list(x.split(self.at_once(x)))
        if x.device.type == "cpu":
            missing = self.at_once(x) - len(blocks[-1])
            if missing and self._filled:
                blocks[-1] = torch.cat([blocks[-1], x[-1:].detach().expand(missing, -1, -1, -1)])
            blocks = [block.contiguous(memory_format=torch.channels_last) for block in blocks]
        outputs = torch.cat([self.network(block) for block in blocks])[: len(x)]
        if self._passed is not None:
            self._passed(len(x))
        return outputs

    def at_once(self, x: Tensor) -> int:
        """How many of the images x make a block. Who keeps a graph, which takes memory, should pass no more than so."""
        if x.device.type == "cpu":
            most = _FILLED if self._filled else _UNFILLED
            return min(max(most * _SIDE**2 // math.prod(x.shape[2:]), 2), most)
        return self._at_most or max(len(x), 1)


class Compiled(nn.Module):
    """A frozen network, compiled by `torch.compile` for the largest batches that it meets.

    That is the shape of all batches but a list's last; compiling takes so long (10 to 77 s a graph on a CPU) that
    smaller ones, and machines on which it fails, run the network as it is.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._compiled: Callable[[Tensor], Tensor] | None = torch.compile(network, dynamic=False)
        self._shape: torch.Size | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Images x (B, C, H, W) to the network's outputs, (B, ...)."""
        if self._compiled is not None and (self._shape is None or len(x) > self._shape[0]):
            self._shape = x.shape
            self._try(x)
        return self._compiled(x) if self._compiled is not None and x.shape == self._shape else self.network(x)

    def _try(self, x: Tensor) -> None:
        """Compiles a forward and a backward pass, and says so if that fails: later it would end the run."""
        assert self._compiled is not None
        try:
            with torch.enable_grad():
                probe = x.detach().requires_grad_(True)
                torch.autograd.grad(self._compiled(probe).sum(), probe)
        except Exception as error:  # whatever the compilers raise, which differs by version and machine
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            say(f"--compile: torch.compile does not work here ({reason[:200]}); going on without it")
            self._compiled = None


class _Copy:
    """The copy of one network. It holds no reference to the network, which would keep it in memory for ever."""

    def __init__(self, model: nn.Module, *, fold: bool, compiled: bool) -> None:
        self._network = copy.deepcopy(model).requires_grad_(False)
        self._folds = [_Fold(self._network, *names) for names in list(_fed_batch_norms(self._network))] if fold else []
        self._network.eval()
        self._runs = Compiled(self._network) if compiled else self._network
        self._versions: list[tuple[int, int]] = []

    @torch.no_grad()
    def refreshed(self, model: nn.Module) -> nn.Module:
        weights = model.state_dict()
        versions = [(tensor.data_ptr(), tensor._version) for tensor in weights.values()]
        if versions != self._versions:
            for name, tensor in self._network.state_dict().items():
                if name in weights:
                    tensor.copy_(weights[name])
            for fold in self._folds:
                fold.refresh(weights)
            self._versions = versions
        return self._runs

    @torch.no_grad()
    def agrees_with(self, model: nn.Module, x: Tensor) -> bool:
        """Whether both compute the same, unrounded, and with batch norms that do more than a new network's."""
        other = copy.deepcopy(model).eval()
        generator = torch.Generator().manual_seed(0)
        for norm in other.modules():
            if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None:
                scale, shift = torch.rand(2, norm.num_features, generator=generator).to(norm.running_mean)
                norm.running_mean += norm.running_var.sqrt() * (shift - 0.5)
                norm.running_var *= scale + 0.5
        with fp32_only(x.device):
            self.refreshed(other)
            expected, found = other(x[:2]), self._network(x[:2])
        return bool((found - expected).abs().max() <= _ROUNDING * expected.abs().max())


class _Fold:
    """A convolution that takes over the batch norm behind it."""

    def __init__(self, network: nn.Module, conv: str, norm: str) -> None:
        self._conv_name, self._norm_name = conv, norm
        self._conv = cast(nn.Conv2d, network.get_submodule(conv))
        batch_norm = cast(nn.BatchNorm2d, network.get_submodule(norm))
        self._epsilon = batch_norm.eps
        if self._conv.bias is None:
            self._conv.bias = nn.Parameter(self._conv.weight.new_zeros(self._conv.out_channels), requires_grad=False)
        parent, _, child = norm.rpartition(".")
        setattr(network.get_submodule(parent), child, nn.Identity())

    def refresh(self, weights: dict[str, Tensor]) -> None:
        """y = (conv(x) - mean) * scale + bias, in float64: it is done once and used many times."""

        def read(name: str, default: float) -> Tensor:
            mean = weights[f"{self._norm_name}.running_mean"]
            return weights.get(name, torch.full_like(mean, default)).double()

        scale = read(f"{self._norm_name}.weight", 1.0)
        scale = scale / torch.sqrt(read(f"{self._norm_name}.running_var", 1.0) + self._epsilon)
        shift = read(f"{self._conv_name}.bias", 0.0) - read(f"{self._norm_name}.running_mean", 0.0)
        assert self._conv.bias is not None
        self._conv.weight.copy_(weights[f"{self._conv_name}.weight"].double() * scale[:, None, None, None])
        self._conv.bias.copy_(shift * scale + read(f"{self._norm_name}.bias", 0.0))


def _fed_batch_norms(network: nn.Module) -> Iterator[tuple[str, str]]:
    """(convolution, batch norm) names: registered one after the other in the same module, as in all our networks."""
    for path, module in network.named_modules():
        for (name, first), (next_name, second) in pairwise(module.named_children()):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d) and second.running_mean is not None:
                prefix = f"{path}." if path else ""
                yield prefix + name, prefix + next_name


_COPIES: WeakKeyDictionary[nn.Module, _Copy] = WeakKeyDictionary()
_TO_COMPILE: WeakSet[nn.Module] = WeakSet()
