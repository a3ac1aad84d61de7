"""Compares the Triton kernels of the fused copy, interpreted on a CPU, with torch's operators.

    TRITON_INTERPRET=1 python -m tests.support.kernels

Prints a line for each case: its name, and the largest difference as a share of the largest number.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from advmia.attacks.inference import kernels, operators

# Channels, height, width, height and width of the kernel, stride, padding.
DEPTHWISE = (
    (3, 5, 7, (3, 3), (1, 1), (1, 1)),
    (3, 8, 6, (3, 3), (2, 2), (1, 1)),
    (33, 7, 5, (3, 3), (2, 2), (1, 1)),
    (64, 3, 37, (3, 3), (1, 1), (1, 1)),
    (5, 9, 4, (5, 3), (2, 1), (0, 2)),
    (70, 1, 1, (3, 3), (1, 1), (1, 1)),
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
            arguments = (first, further, out)
            yield f"masked_sum {dtype}", kernels.masked_sum(*arguments), operators.masked_sum(*arguments)
        for channels, height, width, kernel, *geometry in DEPTHWISE:
            name = f"{channels}x{height}x{width} {kernel} {geometry} {dtype}"
            x = rectified(generator, 2, channels, height, width, dtype=dtype)
            weight, bias = (drawn(generator, channels, *rest, dtype=dtype) for rest in ((1, *kernel), ()))
            out = operators.depthwise_relu(x, weight, bias, *geometry)
            yield f"depthwise_relu {name}", kernels.depthwise_relu(x, weight, bias, *geometry), out
            arguments = (drawn(generator, *out.shape, dtype=dtype), out, x, weight, *geometry)
            found = kernels.depthwise_relu_backward(*arguments)
            yield f"depthwise_relu_backward {name}", found, operators.depthwise_relu_backward(*arguments)


def main() -> None:
    for name, found, expected in cases():
        assert found.shape == expected.shape and found.is_contiguous(memory_format=torch.channels_last), name
        found, expected = found.double(), expected.double()
        assert torch.equal(found.isnan(), expected.isnan()), name
        difference, largest = ((tensor.nan_to_num()).abs().max() for tensor in (found - expected, expected))
        print(f"{name}: {float(difference / largest):.1e}")


if __name__ == "__main__":
    main()
