"""Triton kernels of `advmia.attacks.inference.operators`, for tensors in channels-last layout.

Import this late: it needs the package triton, which torch's packages for CUDA on Linux bring along. Sums are in float32
and rounded once. With TRITON_INTERPRET=1 the kernels also run on a CPU, for tests.
"""

# mypy: disallow-untyped-defs=False
# Parameters of kernels have no types: the compiler would look for the names of types on the device.

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

_ELEMENTS = 1024  # that one program computes


def masked_sum(first: Tensor, second: Tensor | None, out: Tensor) -> Tensor:
    """Returns `operators.masked_sum`. All tensors are dense and have one layout."""
    result, count = torch.empty_like(out), out.numel()
    grid = (triton.cdiv(count, _ELEMENTS),)
    _masked_sum[grid](first, first if second is None else second, out, result, count, second is not None, _ELEMENTS)
    return result


def depthwise_relu(
    out: Tensor, x: Tensor, weight: Tensor, bias: Tensor, stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    """Writes `operators.depthwise_relu` to `out` and returns it."""
    grid, block = _tiles(out)
    sizes = (*x.shape[1:], *out.shape[2:])
    _depthwise_relu[grid](x, weight.contiguous(), bias, out, *sizes, *stride, *padding, *weight.shape[2:], *block)
    return out


def depthwise_relu_backward(
    gradient: Tensor, out: Tensor, x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    """Returns `operators.depthwise_relu_backward`."""
    result = torch.empty_like(x)
    grid, block = _tiles(x)
    sizes = (*x.shape[1:], *out.shape[2:])
    geometry = (*stride, *padding, *weight.shape[2:])
    _depthwise_relu_backward[grid](gradient, out, x, weight.contiguous(), result, *sizes, *geometry, *block)
    return result


def _tiles(made: Tensor) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns the grid that covers a map (B, C, H, W), and how many pixels of a row and channels a program computes."""
    count, channels, height, width = made.shape
    channel_block = min(64 if channels % 64 == 0 else 32, triton.next_power_of_2(channels))
    width_block = min(_ELEMENTS // channel_block, triton.next_power_of_2(width))
    # The first dimension is the one that may have more than 65,535 programs.
    return (count * height * triton.cdiv(width, width_block), triton.cdiv(channels, channel_block)), (
        width_block,
        channel_block,
    )


@triton.jit
def _masked_sum(first, second, out, result, count, has_second: tl.constexpr, block: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = at < count
    total = tl.load(first + at, inside).to(tl.float32)
    if has_second:
        total += tl.load(second + at, inside).to(tl.float32)
    is_off = tl.load(out + at, inside).to(tl.float32) <= 0
    tl.store(result + at, tl.where(is_off, 0.0, total), inside)


@triton.jit
def _depthwise_relu(
    x,
    weight,
    bias,
    out,
    channels,
    height,
    width,
    out_height,
    out_width,
    stride_h: tl.constexpr,
    stride_w: tl.constexpr,
    pad_h: tl.constexpr,
    pad_w: tl.constexpr,
    kernel_h: tl.constexpr,
    kernel_w: tl.constexpr,
    width_block: tl.constexpr,
    channel_block: tl.constexpr,
):
    """A program computes `width_block` pixels of one row of `out` in `channel_block` channels."""
    tiles = tl.cdiv(out_width, width_block)
    row = tl.program_id(0) // tiles  # of all images' rows
    image, out_h = (row // out_height).to(tl.int64), row % out_height
    out_w = (tl.program_id(0) % tiles) * width_block + tl.arange(0, width_block)
    channel = tl.program_id(1) * channel_block + tl.arange(0, channel_block)
    is_channel = channel < channels
    total = tl.zeros((width_block, channel_block), tl.float32)
    for i in tl.static_range(kernel_h):
        h = out_h * stride_h - pad_h + i
        for j in tl.static_range(kernel_w):
            w = out_w * stride_w - pad_w + j
            inside = ((h >= 0) & (h < height) & (w >= 0) & (w < width))[:, None] & is_channel[None, :]
            at = (((image * height + h) * width + w) * channels)[:, None] + channel[None, :]
            factor = tl.load(weight + (channel * kernel_h + i) * kernel_w + j, is_channel, 0.0).to(tl.float32)
            total += tl.load(x + at, inside, 0.0).to(tl.float32) * factor[None, :]
    total += tl.load(bias + channel, is_channel, 0.0).to(tl.float32)[None, :]
    at = ((row.to(tl.int64) * out_width + out_w) * channels)[:, None] + channel[None, :]
    tl.store(out + at, tl.where(total <= 0, 0.0, total), (out_w < out_width)[:, None] & is_channel[None, :])


@triton.jit
def _depthwise_relu_backward(
    gradient,
    out,
    x,
    weight,
    result,
    channels,
    height,
    width,
    out_height,
    out_width,
    stride_h: tl.constexpr,
    stride_w: tl.constexpr,
    pad_h: tl.constexpr,
    pad_w: tl.constexpr,
    kernel_h: tl.constexpr,
    kernel_w: tl.constexpr,
    width_block: tl.constexpr,
    channel_block: tl.constexpr,
):
    """A program computes `width_block` pixels of one row of the gradient in `channel_block` channels."""
    tiles = tl.cdiv(width, width_block)
    row = tl.program_id(0) // tiles
    image, h = (row // height).to(tl.int64), row % height
    w = (tl.program_id(0) % tiles) * width_block + tl.arange(0, width_block)
    channel = tl.program_id(1) * channel_block + tl.arange(0, channel_block)
    is_channel = channel < channels
    total = tl.zeros((width_block, channel_block), tl.float32)
    for i in tl.static_range(kernel_h):
        down = h + pad_h - i  # stride times the row of `out` that reads row h by row i of the kernel
        out_h = down // stride_h
        is_row = (down >= 0) & (down % stride_h == 0) & (out_h < out_height)
        for j in tl.static_range(kernel_w):
            right = w + pad_w - j
            out_w = right // stride_w
            is_read = is_row & (right >= 0) & (right % stride_w == 0) & (out_w < out_width)
            inside = is_read[:, None] & is_channel[None, :]
            at = (((image * out_height + out_h) * out_width + out_w) * channels)[:, None] + channel[None, :]
            is_off = tl.load(out + at, inside, 0.0).to(tl.float32) <= 0
            masked = tl.where(is_off, 0.0, tl.load(gradient + at, inside, 0.0).to(tl.float32))
            factor = tl.load(weight + (channel * kernel_h + i) * kernel_w + j, is_channel, 0.0).to(tl.float32)
            total += masked * factor[None, :]
    inside = (w < width)[:, None] & is_channel[None, :]
    at = ((row.to(tl.int64) * width + w) * channels)[:, None] + channel[None, :]
    is_off = tl.load(x + at, inside, 0.0).to(tl.float32) <= 0
    tl.store(result + at, tl.where(is_off, 0.0, total), inside)
