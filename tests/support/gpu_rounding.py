"""How the pretended GPU (`tests.support.pretended_gpu`) rounds: to tf32, and under `torch.autocast("cuda")` to bf16."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tests.support.gpu_records import CONVOLUTIONS, FUSED_CONVOLUTIONS, PRODUCTS

BACKEND = "pretended"  # what torch calls the device inside
# Autocast's lists, as far as the package and its networks use them (aten/src/ATen/autocast_mode.h).
_IN_BF16 = ("conv2d", "conv_transpose2d.input", "linear", "matmul", "mm", "bmm", "addmm")
_IN_FP32 = (
    *("softmax.int", "log_softmax.int", "nll_loss", "nll_loss_nd", "cross_entropy_loss", "kl_div", "exp", "log"),
    *("log10", "log1p", "log2", "expm1", "pow.Tensor_Scalar", "rsqrt", "reciprocal", "norm.Scalar", "sum"),
    *("norm.ScalarOpt_dim", "sum.dim_IntList", "prod", "cumsum", "cosine_similarity", "logsumexp"),
    "binary_cross_entropy_with_logits",
)  # fmt: skip


_KEY = "AutocastPrivateUse1"  # of torch's dispatcher

_CASTS: dict[int, tuple[Tensor, Tensor]] = {}  # of weights that learn: id -> (weight, its cast)


class Autocast(torch.autocast):
    """Stands for `torch.autocast`."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(BACKEND if device_type == "cuda" else device_type, *args, **kwargs)

    def __exit__(self, *error: Any) -> Any:
        left = super().__exit__(*error)
        if not torch.is_autocast_enabled(self.device):
            _CASTS.clear()
        return left


def _autocast_kernel(op: Any, dtype: torch.dtype) -> Callable[..., Any]:
    """Returns the operator as autocast runs it: on floating-point tensors cast to `dtype`."""
    key = torch._C._parse_dispatch_key(_KEY)
    assert key is not None
    keys = torch._C.DispatchKeySet(key)

    def cast(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_cuda or value.dtype not in (torch.float32, torch.bfloat16):
            return value
        if value.dtype == dtype:
            return value
        learns = value.requires_grad and value.is_leaf and dtype == torch.bfloat16
        if learns and id(value) in _CASTS:
            return _CASTS[id(value)][1]
        made = value.to(dtype)
        if learns:
            _CASTS[id(value)] = (value, made)
        return made

    def kernel(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(keys):
            return op(*mapped(cast, args), **{name: cast(value) for name, value in kwargs.items()})

    return kernel


def register_casts() -> list[torch.library.Library]:
    """Registers the casts, once for the process; the libraries must be kept."""
    every_op, library = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    every_op.fallback(torch.library.fallthrough_kernel, _KEY)
    for names, dtype in ((_IN_BF16, torch.bfloat16), (_IN_FP32, torch.float32)):
        for name in names:
            op, _, overload = name.partition(".")
            kernel = _autocast_kernel(getattr(getattr(torch.ops.aten, op), overload or "default"), dtype)
            library.impl(name, kernel, _KEY)
    return [every_op, library]


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """Maps an argument or result, or each part of a list or tuple of them."""
    if isinstance(value, list | tuple):
        return type(value)(mapped(function, part) for part in value)
    return function(value)


def rounded_to_tf32(name: str, args: Sequence[Any]) -> Sequence[Any]:
    """Returns an operator's arguments as the device's matrix units read them."""
    allowed = name in CONVOLUTIONS and torch.backends.cudnn.allow_tf32
    if not allowed and not (name in PRODUCTS and torch.backends.cuda.matmul.allow_tf32):
        return args
    read = args[:2] if name in FUSED_CONVOLUTIONS else args  # further terms of their sums are added in float32
    # What has one dimension is a bias, which is added in float32.
    rounded = [_to_tf32(each) if isinstance(each, Tensor) and each.dim() > 1 else each for each in read]
    return [*rounded, *args[len(read) :]]


def _to_tf32(tensor: Tensor) -> Tensor:
    """Rounds float32 to 10 bits of mantissa, to nearest with ties away from zero."""
    if tensor.dtype != torch.float32 or tensor.is_meta:
        return tensor
    return ((tensor.view(torch.int32) + 0x1000) & -0x2000).view(torch.float32)
