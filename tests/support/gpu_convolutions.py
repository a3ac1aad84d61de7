"""Convolutions as the pretended GPU (`tests.support.pretended_gpu`) computes them, also those that CUDA alone has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from tests.support.gpu_records import bytes_of


def _convolution_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    return _laid_out(torch.conv2d(x, weight, bias, stride, padding, dilation, groups), x, weight).relu_()


def _convolution_add_relu(
    x: Tensor, weight: Tensor, z: Tensor, alpha: float | None, bias: Tensor | None, *geometry: Any
) -> Tensor:
    total = _laid_out(torch.conv2d(x, weight, None, *geometry), x, weight)
    if z.shape != total.shape:
        raise RuntimeError(f"expected z of shape {tuple(total.shape)}, got {tuple(z.shape)}")  # cuDNN's would not fit
    wide = total.float() + (1 if alpha is None else alpha) * z  # cuDNN rounds once, at the end
    return (wide if bias is None else wide + bias.view(-1, 1, 1)).relu_().to(x.dtype)


def _convolution(x: Tensor, weight: Tensor, *others: Any) -> Tensor:
    return _laid_out(torch.ops.aten.convolution(x, weight, *others), x, weight)


def _convolution_backward(gradient: Tensor, x: Tensor, weight: Tensor, *others: Any) -> tuple[Tensor | None, ...]:
    of_x, *further = torch.ops.aten.convolution_backward(gradient, x, weight, *others)
    return None if of_x is None else _laid_out(of_x, x, weight), *further


def _laid_out(made: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Returns a tensor without numbers in the layout that cuDNN chooses; tensors with numbers have it already."""
    if made.is_meta and torch.channels_last in map(suggest_memory_format, (x, weight)):
        return made.contiguous(memory_format=torch.channels_last)
    return made


# By the operator's name. One launch each, and of a convolution's bias.
STAND_INS: dict[str, Callable[..., Any]] = {
    "convolution": _convolution,
    "convolution_backward": _convolution_backward,
    "cudnn_convolution_relu": _convolution_relu,
    "cudnn_convolution_add_relu": _convolution_add_relu,
}


def bytes_read(name: str, args: Sequence[Any], inputs: Sequence[Tensor]) -> int:
    """Returns the bytes that an operator reads: all of its inputs, except what only says a shape."""
    read = sum(map(bytes_of, inputs))
    if name == "convolution_backward" and not args[10][1]:  # the gradient of the weight, which alone needs x
        read -= bytes_of(args[1])
    return read
