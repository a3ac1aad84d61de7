"""Frozen copies of networks, in eval mode, one for each network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn

from advmia.attacks.inference.by_precision import ByPrecision
from advmia.attacks.inference.captured import Captured, without_graphs
from advmia.attacks.inference.compiled import Compiled
from advmia.attacks.inference.folding import Folding
from advmia.runtime.machine import memory_format_of
from advmia.runtime.precision import fp32_only

_MEMORY_SHARE = 0.6  # of a GPU's free memory, which `fitting_batch` uses
_TOLERANCE = 1e-3  # how much the copy's outputs may differ from the network's, as a share of the largest


def inference_copy(model: nn.Module, x: Tensor, *, in_training: bool = False) -> nn.Module:
    """Returns the copy of `model` that attacks run on, with the model's current weights.

    The copy is made once for each model, and refreshed when weights or running statistics have changed. It is made
    again when the model has got other tensors, as by `.to(device)`. x: images (B, C, H, W), on which a new copy is
    compared with the model. If their outputs differ, some batch norm does not run right after the convolution that is
    registered before it; then nothing is folded.

    On CUDA, passes of the copy are replayed as CUDA graphs (see `Captured`). `in_training`: only once the weights have
    been updated, because it is not known before how much memory an update needs.
    """
    model_copy = _COPIES.get(model)
    if model_copy is None or not model_copy.has_memory_of(model):
        is_compiled, is_plain = model in _TO_COMPILE, model in _PLAIN
        fuses = not is_plain and memory_format_of(model) is torch.channels_last
        form = Compiled if is_compiled else partial(ByPrecision, fuses=fuses)
        captured = x.device.type == "cuda" and not is_compiled and not is_plain
        model_copy = _COPIES[model] = _Copy(model, fold=_can_be_folded(model, x), form=form, captured=captured)
    return model_copy.refreshed(model, in_training=in_training)


def compile_copies(model: nn.Module) -> None:
    """Makes attacks on `model` run on a compiled copy from now on (see `Compiled`)."""
    _TO_COMPILE.add(model)
    _COPIES.pop(model, None)


def plain_kernels(model: nn.Module) -> None:
    """Makes attacks on `model` run on torch's own operators, one by one, from now on; on a CPU they always do."""
    _PLAIN.add(model)
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
    network = without_graphs(inference_copy(model, x))
    with torch.enable_grad():
        leaf = x.detach().requires_grad_(True)
        torch.autograd.grad(network(leaf).float().sum(), leaf)
    memory_per_image = (torch.cuda.max_memory_allocated(x.device) - before) / len(x)
    free, _ = torch.cuda.mem_get_info(x.device)
    free += torch.cuda.memory_reserved(x.device) - before
    return max(len(x), min(limit, int(_MEMORY_SHARE * free / memory_per_image)))


class _Copy:
    """The copy of one network. It holds no reference to the network, which would then never be freed.

    What is not folded is not copied: the copy's tensors are in the memory of the network's.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        fold: bool,
        form: Callable[[nn.Module], nn.Module] = lambda network: network,
        captured: bool = False,
    ) -> None:
        """Takes the `form` in which the copy runs, such as `Compiled`."""
        self._tensors = [tensor.detach() for tensor in _tensors_of(model)]
        shared = {
            id(tensor): nn.Parameter(alias, requires_grad=False) if isinstance(tensor, nn.Parameter) else alias
            for tensor, alias in zip(_tensors_of(model), self._tensors, strict=True)
        }
        # `deepcopy` takes what is in its memo instead of copying it.
        self._network = copy.deepcopy(model, shared).requires_grad_(False)
        self._folding = Folding(self._network) if fold else None
        self._network.eval()
        self._form = form(self._network)
        self._graphs = Captured(self._form) if captured else None
        self._versions: list[int] = []
        self._versions_before_training: list[int] | None = None

    def has_memory_of(self, model: nn.Module) -> bool:
        """Returns whether the model still has the tensors that this copy was made of, whatever their values."""
        pointers = [tensor.data_ptr() for tensor in _tensors_of(model)]
        return pointers == [tensor.data_ptr() for tensor in self._tensors]

    def refreshed(self, model: nn.Module, *, in_training: bool = False) -> nn.Module:
        """Folds again if the model's weights have changed since the last call, and returns the network to call."""
        versions = [tensor._version for tensor in _tensors_of(model)]
        if versions != self._versions:
            if self._folding is not None:
                self._folding.refresh()
            if isinstance(self._form, ByPrecision):
                self._form.refresh()
            self._versions = versions
        if in_training and self._versions_before_training is None:
            self._versions_before_training = versions
        if self._graphs is not None:
            self._graphs.paused = versions == self._versions_before_training
        return self._form if self._graphs is None else self._graphs


def _tensors_of(model: nn.Module) -> Iterator[Tensor]:
    return chain(model.parameters(), model.buffers())


@torch.no_grad()
def _can_be_folded(model: nn.Module, x: Tensor) -> bool:
    """Returns whether a folded copy gives the same outputs as the model up to rounding, in float32.

    The comparison draws new running statistics, because a new network's batch norms do nothing.
    """
    try:
        other = copy.deepcopy(model).eval()
        generator = torch.Generator().manual_seed(0)
        for norm in other.modules():
            if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None:
                scale, shift = torch.rand(2, norm.num_features, generator=generator).to(norm.running_mean)
                norm.running_mean += norm.running_var.sqrt() * (shift - 0.5)
                norm.running_var *= scale + 0.5
        with fp32_only(x.device):
            folded = _Copy(other, fold=True).refreshed(other)
            expected, actual = other(x[:2]), folded(x[:2])
    except RuntimeError:  # as for tensors that are computed from others
        return False
    return bool((actual - expected).abs().max() <= _TOLERANCE * expected.abs().max())


_COPIES: WeakKeyDictionary[nn.Module, _Copy] = WeakKeyDictionary()
_TO_COMPILE: WeakSet[nn.Module] = WeakSet()
_PLAIN: WeakSet[nn.Module] = WeakSet()
