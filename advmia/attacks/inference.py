"""The network as attacks see it: a frozen copy in eval mode, with batch norms folded into convolutions, run in blocks.

In eval mode a batch norm scales and shifts each channel by fixed numbers, which the convolution before it can do
instead. The copy computes the same function up to rounding, and is faster without the batch norms: attacks run it many
times. Adversarial images are always scored on the network itself.
"""

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

# The number of images in a block on a CPU, for images of up to 64 x 64 pixels. Blocks of larger images have as many
# pixels, but at least two images. Blocks of 16 were 3 to 5 % faster than blocks of 8, but need up to twice the copies
# to be filled up.
_FILLED_BLOCK, _UNFILLED_BLOCK, _BLOCK_SIDE = 8, 16, 64
_MEMORY_SHARE = 0.6  # of a GPU's free memory, which `fitting_batch` uses
_TOLERANCE = 1e-3  # how much the copy's outputs may differ from the network's, as a share of the largest


def inference_copy(model: nn.Module, x: Tensor) -> nn.Module:
    """Returns the copy of `model` that attacks run on, with the model's current weights.

    The copy is made once for each model, and refreshed when weights or running statistics have changed. x: images
    (B, C, H, W), on which a new copy is compared with the model. If their outputs differ, some batch norm does not run
    right after the convolution that is registered before it; then nothing is folded.
    """
    model_copy = _COPIES.get(model)
    if model_copy is None:
        compiled = model in _TO_COMPILE
        model_copy = _COPIES[model] = _Copy(model, fold=True, compiled=compiled)
        try:
            agrees = model_copy.agrees_with(model, x)
        except RuntimeError:  # as for weights that are computed from others
            agrees = False
        if not agrees:
            model_copy = _COPIES[model] = _Copy(model, fold=False, compiled=compiled)
    return model_copy.refreshed(model)


def compile_copies(model: nn.Module) -> None:
    """Makes attacks on `model` run on a compiled copy from now on (see `Compiled`)."""
    _TO_COMPILE.add(model)
    _COPIES.pop(model, None)


def fitting_batch(model: nn.Module, x: Tensor, limit: int) -> int:
    """Returns how many images like x (B, C, H, W) an attack's batch may have: on a GPU B to `limit`, on a CPU B.

    Measures the memory of one forward and backward pass on x, and uses a part of the free memory.
    """
    if x.device.type != "cuda":
        return len(x)
    torch.cuda.synchronize(x.device)
    torch.cuda.reset_peak_memory_stats(x.device)
    before = torch.cuda.memory_allocated(x.device)
    network = inference_copy(model, x)
    with torch.enable_grad():
        leaf = x.detach().requires_grad_(True)
        torch.autograd.grad(network(leaf).float().sum(), leaf)
    memory_per_image = (torch.cuda.max_memory_allocated(x.device) - before) / len(x)
    free, _ = torch.cuda.mem_get_info(x.device)
    free += torch.cuda.memory_reserved(x.device) - before
    return max(len(x), min(limit, int(_MEMORY_SHARE * free / memory_per_image)))


class Blocks(nn.Module):
    """A network that runs on blocks of a few images, however large the batch.

    On a CPU all blocks have one size, and a short block is filled up with copies of its last image, whose outputs are
    dropped. So an image's outputs do not depend on its batch: convolutions and matrix products choose their algorithm,
    and with it the rounding, by the batch size, and attacks that take signs of gradients turn a last bit into a large
    difference. On a GPU, where small blocks would be slow, a block has at most `gpu_block_size` images.
    """

    def __init__(
        self,
        network: nn.Module,
        gpu_block_size: int | None = None,
        callback: Callable[[int], None] | None = None,
        *,
        filled: bool = True,
    ) -> None:
        """Takes a `callback` that is called with the number of images after each forward pass.

        Without `filled`, blocks on a CPU are larger, and short ones stay short. Training uses this, because there an
        image depends on its batch anyway.
        """
        super().__init__()
        self.network, self._gpu_block_size, self._callback, self._filled = network, gpu_block_size, callback, filled

    def forward(self, x: Tensor) -> Tensor:
        """Returns the network's outputs (B, ...) for images x (B, C, H, W)."""
        blocks = list(x.split(self.block_size(x)))
        if x.device.type == "cpu":
            missing = self.block_size(x) - len(blocks[-1])
            if missing and self._filled:
                blocks[-1] = torch.cat([blocks[-1], x[-1:].detach().expand(missing, -1, -1, -1)])
            blocks = [block.contiguous(memory_format=torch.channels_last) for block in blocks]
        outputs = torch.cat([self.network(block) for block in blocks])[: len(x)]
        if self._callback is not None:
            self._callback(len(x))
        return outputs

    def block_size(self, x: Tensor) -> int:
        """Returns the number of images per block. Callers that keep the graph should pass at most this many."""
        if x.device.type == "cpu":
            largest = _FILLED_BLOCK if self._filled else _UNFILLED_BLOCK
            return min(max(largest * _BLOCK_SIDE**2 // math.prod(x.shape[2:]), 2), largest)
        return self._gpu_block_size or max(len(x), 1)


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
            outputs = self._compiled(x.detach().requires_grad_(x.requires_grad))
            if outputs.requires_grad:
                outputs.sum().backward()
        except Exception as error:  # compilers raise different exceptions, by version and machine
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            say(f"--compile: torch.compile does not work here ({reason[:200]}); continuing without it")
            self._compiled = None


class _Copy:
    """The copy of one network. It holds no reference to the network, which would then never be freed."""

    def __init__(self, model: nn.Module, *, fold: bool, compiled: bool) -> None:
        self._network = copy.deepcopy(model).requires_grad_(False)
        self._folds = [_Fold(self._network, *names) for names in list(_foldable(self._network))] if fold else []
        self._network.eval()
        self._callable = Compiled(self._network) if compiled else self._network
        self._versions: list[tuple[int, int]] = []

    @torch.no_grad()
    def refreshed(self, model: nn.Module) -> nn.Module:
        """Copies the model's weights if they have changed since the last call, and returns the network to call."""
        weights = model.state_dict()
        versions = [(tensor.data_ptr(), tensor._version) for tensor in weights.values()]
        if versions != self._versions:
            for name, tensor in self._network.state_dict().items():
                if name in weights:
                    tensor.copy_(weights[name])
            for fold in self._folds:
                fold.refresh(weights)
            self._versions = versions
        return self._callable

    @torch.no_grad()
    def agrees_with(self, model: nn.Module, x: Tensor) -> bool:
        """Returns whether the copy and the model give the same outputs up to rounding, in float32.

        The comparison draws new running statistics, because a new network's batch norms do nothing.
        """
        other = copy.deepcopy(model).eval()
        generator = torch.Generator().manual_seed(0)
        for norm in other.modules():
            if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None:
                scale, shift = torch.rand(2, norm.num_features, generator=generator).to(norm.running_mean)
                norm.running_mean += norm.running_var.sqrt() * (shift - 0.5)
                norm.running_var *= scale + 0.5
        with fp32_only(x.device):
            self.refreshed(other)
            expected, actual = other(x[:2]), self._network(x[:2])
        return bool((actual - expected).abs().max() <= _TOLERANCE * expected.abs().max())


class _Fold:
    """A convolution of the copy that also does the work of the batch norm after it."""

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
        """Sets the convolution's weights to those of y = (conv(x) - mean) * scale + bias, computed in float64."""

        def read(name: str, default: float) -> Tensor:
            mean = weights[f"{self._norm_name}.running_mean"]
            return weights.get(name, torch.full_like(mean, default)).double()

        scale = read(f"{self._norm_name}.weight", 1.0)
        scale = scale / torch.sqrt(read(f"{self._norm_name}.running_var", 1.0) + self._epsilon)
        shift = read(f"{self._conv_name}.bias", 0.0) - read(f"{self._norm_name}.running_mean", 0.0)
        assert self._conv.bias is not None
        self._conv.weight.copy_(weights[f"{self._conv_name}.weight"].double() * scale[:, None, None, None])
        self._conv.bias.copy_(shift * scale + read(f"{self._norm_name}.bias", 0.0))


def _foldable(network: nn.Module) -> Iterator[tuple[str, str]]:
    """Yields the names of a convolution and the batch norm that is registered next in the same module."""
    for path, module in network.named_modules():
        for (name, first), (next_name, second) in pairwise(module.named_children()):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d) and second.running_mean is not None:
                prefix = f"{path}." if path else ""
                yield prefix + name, prefix + next_name


_COPIES: WeakKeyDictionary[nn.Module, _Copy] = WeakKeyDictionary()
_TO_COMPILE: WeakSet[nn.Module] = WeakSet()
