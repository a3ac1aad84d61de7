"""Operators of the fused copy that torch has none for, each one pass over memory on CUDA.

On a CPU they are computed by torch's operators, which say what they compute; on CUDA by the kernels of
`advmia.attacks.inference.kernels`, which need the package triton. Images and maps are in channels-last layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def _operator(name: str, parameters: str) -> Any:
    """Returns a decorator that registers what an operator computes on a CPU, which later calls add CUDA's kernel to."""
    schema = f"{parameters} -> Tensor"  # stated, because torch 2.6 does not infer it from types of the standard library
    return torch.library.custom_op(f"advmia::{name}", mutates_args=(), device_types="cpu", schema=schema)


@_operator("masked_sum", "(Tensor first, Tensor? second, Tensor out)")
def masked_sum(first: Tensor, second: Tensor | None, out: Tensor) -> Tensor:
    """Returns the sum of the gradients of a ReLU's output `out` where that is above 0, and 0 elsewhere.

    All have one shape, (B, C, H, W). This is the backward pass of a ReLU whose output has one or two users.
    """
    total = first if second is None else first + second
    return torch.ops.aten.threshold_backward(total, out, 0)


@_operator("depthwise_relu", "(Tensor x, Tensor weight, Tensor bias, int[] stride, int[] padding)")
def depthwise_relu(x: Tensor, weight: Tensor, bias: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """Returns the ReLU of a depthwise convolution: x (B, C, H, W), weight (C, 1, h, w), bias (C,)."""
    return torch.conv2d(x, weight, bias, stride, padding, groups=len(weight)).relu_()


@_operator(
    "depthwise_relu_backward", "(Tensor gradient, Tensor out, Tensor x, Tensor weight, int[] stride, int[] padding)"
)
def depthwise_relu_backward(
    gradient: Tensor, out: Tensor, x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    """Returns the gradient with respect to what x is the ReLU of, from that of `out`, `depthwise_relu` of x.

    The gradient is masked twice, by out > 0 and by x > 0, and goes back through the convolution in between.
    """
    masked = torch.ops.aten.threshold_backward(gradient, out, 0)
    of_x = input_gradient(masked, x, weight, (stride, padding, (1, 1), len(weight)))
    return torch.ops.aten.threshold_backward(of_x, x, 0)


def input_gradient(
    gradient: Tensor, x: Tensor, weight: Tensor, geometry: tuple[Sequence[int], Sequence[int], Sequence[int], int]
) -> Tensor:
    """Returns the gradient with respect to x of a convolution, whose numbers are not read, only its shape and layout.

    `geometry`: stride, padding, dilation and groups.
    """
    stride, padding, dilation, groups = geometry
    backward = torch.ops.aten.convolution_backward
    asked = (True, False, False)  # for x, the weight, the bias
    return backward(gradient, x, weight, None, stride, padding, dilation, False, (0, 0), groups, asked)[0]


@masked_sum.register_fake
def _(first: Tensor, second: Tensor | None, out: Tensor) -> Tensor:
    return torch.empty_like(out)


@depthwise_relu.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    return _empty_output(x, weight, stride, padding)


@depthwise_relu_backward.register_fake
def _(
    gradient: Tensor, out: Tensor, x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    return torch.empty_like(x)


def _empty_output(x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """Returns memory for the output of a depthwise convolution."""
    sides = [
        (side + 2 * pad - kernel) // step + 1
        for side, pad, kernel, step in zip(x.shape[2:], padding, weight.shape[2:], stride, strict=True)
    ]
    shape = (*x.shape[:2], *sides)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


@masked_sum.register_kernel("cuda")
def _(first: Tensor, second: Tensor | None, out: Tensor) -> Tensor:
    from advmia.attacks.inference import kernels

    with torch.cuda.device_of(out):
        return kernels.masked_sum(first, second, out)


@depthwise_relu.register_kernel("cuda")
def _(x: Tensor, weight: Tensor, bias: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    from advmia.attacks.inference import kernels

    with torch.cuda.device_of(x):
        return kernels.depthwise_relu(_empty_output(x, weight, stride, padding), x, weight, bias, stride, padding)


@depthwise_relu_backward.register_kernel("cuda")
def _(
    gradient: Tensor, out: Tensor, x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    from advmia.attacks.inference import kernels

    with torch.cuda.device_of(x):
        return kernels.depthwise_relu_backward(gradient, out, x, weight, stride, padding)
