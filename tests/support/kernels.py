"""Checks the Triton kernels of the fused copy without a GPU.

    TRITON_INTERPRET=1 python -m tests.support.kernels
    python -m tests.support.kernels

The first compares them, interpreted on a CPU, with torch's operators, and prints a line for each case: its name, and
the largest difference as a share of the largest number. The second compiles them for a GPU, and prints their sizes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch
import triton
import triton.backends.compiler
from torch import Tensor

from advmia.attacks.inference import kernels, operators

# Channels, height, width, height and width of the kernel, stride, padding.
DEPTHWISE = (
    (3, 4, 5, (3, 3), (1, 1), (1, 1)),
    (33, 4, 3, (3, 3), (2, 2), (1, 1)),
    (64, 1, 37, (3, 3), (1, 1), (1, 1)),
    (5, 5, 4, (5, 3), (2, 1), (0, 2)),
)
DTYPES = (torch.float32, torch.bfloat16)


def rectified(generator: torch.Generator, *shape: int, dtype: torch.dtype) -> Tensor:
    """Returns random numbers of which half are 0, in channels-last layout."""
    return drawn(generator, *shape, dtype=dtype).relu_()


def drawn(generator: torch.Generator, *shape: int, dtype: torch.dtype) -> Tensor:
    made = torch.randn(*shape, generator=generator).to(dtype)
    return made.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else made


def cases() -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yields the name of a case, what the kernel computes, and what torch does."""
    generator = torch.Generator().manual_seed(0)
    for dtype in DTYPES:
        out = rectified(generator, 2, 3, 5, 7, dtype=dtype)
        out[0, 0, 0] = torch.nan  # passes on the gradient, as torch's ReLU does
        first, second = (drawn(generator, *out.shape, dtype=dtype) for _ in range(2))
        for further in (None, second):
            expected = operators.masked_sum(first, further, out)
            yield f"masked_sum {dtype}", kernels.masked_sum(first, further, out), expected
        for channels, height, width, kernel, *geometry in DEPTHWISE if dtype is torch.float32 else DEPTHWISE[1:2]:
            name = f"{channels}x{height}x{width} {kernel} {geometry} {dtype}"
            x = rectified(generator, 2, channels, height, width, dtype=dtype)
            weight, bias = (drawn(generator, channels, *rest, dtype=dtype) for rest in ((1, *kernel), ()))
            out = operators.depthwise_relu(x, weight, bias, *geometry)
            found = kernels.depthwise_relu(torch.empty_like(out), x, weight, bias, *geometry)
            yield f"depthwise_relu {name}", found, out
            gradient = drawn(generator, *out.shape, dtype=dtype)
            found = kernels.depthwise_relu_backward(gradient, out, x, weight, *geometry)
            expected = operators.depthwise_relu_backward(gradient, out, x, weight, *geometry)
            yield f"depthwise_relu_backward {name}", found, expected


def compile_for_gpus() -> None:
    """Compiles all kernels for an A100, which needs no GPU."""
    numbers = {"stride": 2, "pad": 1, "kernel": 3, "width_block": 32, "channel_block": 32, "block": 1024, "has": True}
    for kernel in (kernels._masked_sum, kernels._depthwise_relu, kernels._depthwise_relu_backward):
        for dtype in ("fp32", "bf16"):
            constants = {
                parameter.name: number
                for parameter in kernel.params
                if parameter.is_constexpr
                for start, number in numbers.items()
                if parameter.name.startswith(start)
            }
            sizes = ("count", "channels", "height", "width", "out_height", "out_width")
            types = {name: "i32" if name in sizes else f"*{dtype}" for name in kernel.arg_names}
            types |= dict.fromkeys(constants, "constexpr")
            source = triton.compiler.ASTSource(fn=kernel, signature=types, constexprs=constants)
            compiled = triton.compile(source, target=triton.backends.compiler.GPUTarget("cuda", 80, 32))
            print(f"{kernel.__name__} {dtype}: {len(compiled.asm['cubin'])} bytes")


def compare() -> None:
    for name, found, expected in cases():
        assert found.shape == expected.shape and found.is_contiguous(memory_format=torch.channels_last), name
        found, expected = found.double(), expected.double()
        assert torch.equal(found.isnan(), expected.isnan()), name
        difference, largest = ((tensor.nan_to_num()).abs().max() for tensor in (found - expected, expected))
        print(f"{name}: {float(difference / largest):.1e}")


if __name__ == "__main__":
    compare() if os.environ.get("TRITON_INTERPRET") == "1" else compile_for_gpus()
