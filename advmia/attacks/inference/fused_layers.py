"""Layers of the fused copy: convolution, bias, ReLU and addition in one pass over memory, forward and backward.

Weights are frozen: the backward passes compute gradients with respect to maps only. A ReLU's mask is the sign of its
output. Layers read the weights of the convolutions that they stand for, and cast their inputs to these weights' dtype.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advmia.attacks.inference.operators import (
    depthwise_relu,
    depthwise_relu_backward,
    input_gradient,
    masked_sum,
)

_IS_CHECKED = [False]
_MOST_ELEMENTS = 2**31 - 1  # of a map in a fused convolution; torch divides larger ones among plain convolutions only


@contextmanager
def checking() -> Iterator[None]:
    """Makes each convolution with ReLU run twice during the block, the second time into memory full of NaN.

    torch gives cuDNN the memory of the output as a term of the sum that counts zero times. If cuDNN reads it, what the
    memory held before can show, at random.
    """
    _IS_CHECKED[0] = True
    try:
        yield
    finally:
        _IS_CHECKED[0] = False


class FusedConvolution(nn.Module):
    """A layer that stands for a convolution and what follows it."""

    def __init__(self, convolution: nn.Conv2d, further_bias: Tensor | None = None) -> None:
        """Takes a bias that is added too, that of another convolution of the same sum."""
        super().__init__()
        self._weight = convolution.weight.detach()
        self.weight = channels_last(self._weight)  # another tensor only if the network has another layout
        self._biases = [bias.detach() for bias in (convolution.bias, further_bias) if bias is not None]
        is_single = len(self._biases) == 1
        self.bias = self._biases[0] if is_single else self.weight.new_zeros(convolution.out_channels)
        self.stride, self.padding = _pair(convolution.stride), _pair(convolution.padding)
        self.geometry = (self.stride, self.padding, _pair(convolution.dilation), convolution.groups)
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Follows a change of the convolutions' weights."""
        if self.weight is not self._weight:
            self.weight.copy_(self._weight)
        if len(self._biases) == 2:
            torch.add(*self._biases, out=self.bias)

    def cast(self, x: Tensor) -> Tensor:
        """Returns x in the weights' dtype and in channels-last layout."""
        return channels_last(x.to(self.weight.dtype))


class ConvolutionReLU(FusedConvolution):
    """relu(convolution(x) + z), or without z. `users`: how many times the output is used.

    So many outputs are returned, which share memory; the backward pass adds their gradients and masks them in one pass.
    With `masks` off, the gradient comes masked by the sign of the output already.
    """

    users, masks = 1, True

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor | tuple[Tensor, ...]:
        out = _ConvolutionReLU.apply(self.cast(x), None if z is None else self.cast(z), self)
        if not self.masks:
            return out
        outputs = _Mask.apply(out, self.users)
        return outputs if self.users > 1 else outputs[0]


class DepthwiseReLU(FusedConvolution):
    """relu(convolution(x)) for a depthwise convolution of maps x that are themselves the output of a ReLU.

    The gradient with respect to x is masked by the sign of x.
    """

    def forward(self, x: Tensor) -> Tensor:
        return _DepthwiseReLU.apply(self.cast(x), self)


class Pointwise(FusedConvolution):
    """A 1x1 convolution with a bias, as the matrix product that it is in channels-last layout."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.cast(x).permute(0, 2, 3, 1)  # (B, H, W, C)
        out = F.linear(rows.reshape(-1, rows.shape[-1]), self.weight.flatten(1), self.bias)
        return out.view(*rows.shape[:-1], len(self.bias)).permute(0, 3, 1, 2)


class Biasless(FusedConvolution):
    """A convolution whose bias another one of the same sum adds."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(self.cast(x), self.weight, None, *self.geometry)


class _ConvolutionReLU(torch.autograd.Function):
    """The gradient of its output must be masked by the sign of the output."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, z: Tensor | None, layer: ConvolutionReLU) -> Tensor:
        def convolved() -> Tensor:
            if x.numel() // x.shape[1] * max(x.shape[1], len(layer.weight)) > _MOST_ELEMENTS:
                out = torch.conv2d(x, layer.weight, layer.bias, *layer.geometry)
                return (out if z is None else out.add_(z)).relu_()
            if z is None:
                return torch.cudnn_convolution_relu(x, layer.weight, layer.bias, *layer.geometry)
            return torch.cudnn_convolution_add_relu(x, layer.weight, z, 1, layer.bias, *layer.geometry)

        out = convolved()
        if _IS_CHECKED[0]:
            out.fill_(torch.nan)
            del out
            out = convolved()
        ctx.save_for_backward(x, layer.weight)
        ctx.geometry = layer.geometry
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        gradient = channels_last(gradient)
        of_x = input_gradient(gradient, x, weight, ctx.geometry) if ctx.needs_input_grad[0] else None
        return of_x, gradient if ctx.needs_input_grad[1] else None, None


class _Mask(torch.autograd.Function):
    """Returns the output of a ReLU for each user; the sum of their gradients is masked. It frees them earlier than the
    function of the convolution could, which needs memory of its own."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, users: int) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(out)
        return tuple(out.view_as(out) for _ in range(users))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None]:
        (out,) = ctx.saved_tensors
        given = [channels_last(gradient) for gradient in gradients if gradient is not None]
        if not given:
            return None, None
        first, second = given[0], given[1] if len(given) > 1 else None
        for further in given[2:]:
            first = first + further
        return masked_sum(first, second, out), None


class _DepthwiseReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: DepthwiseReLU) -> Tensor:
        out = depthwise_relu(x, layer.weight, layer.bias, layer.stride, layer.padding)
        ctx.save_for_backward(x, out, layer.weight)
        ctx.layer = layer
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x, out, weight = ctx.saved_tensors
        gradient = channels_last(gradient)
        return depthwise_relu_backward(gradient, out, x, weight, ctx.layer.stride, ctx.layer.padding), None


def channels_last(x: Tensor) -> Tensor:
    """Returns x (B, C, H, W) in channels-last layout; x itself if it is."""
    return x.contiguous(memory_format=torch.channels_last)


def _pair(value: Any) -> tuple[int, int]:
    first, second = value
    return int(first), int(second)
