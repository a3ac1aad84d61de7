"""Runs a network on blocks of a few images, so that an image's outputs do not depend on its batch."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

# The number of images in a block on a CPU, for images of up to 64 x 64 pixels. Blocks of larger images have as many
# pixels, but at least two images. Blocks of 16 were 3 to 5 % faster than blocks of 8, but need up to twice the copies
# to be filled up.
_FILLED_BLOCK, _UNFILLED_BLOCK, _BLOCK_SIDE = 8, 16, 64


class Blocks(nn.Module):
    """A network that runs on blocks of a few images, however large the batch.

    On a CPU all blocks have one size, and a short block is filled up with copies of its last image, whose outputs are
    dropped. So an image's outputs do not depend on its batch: convolutions and matrix products choose their algorithm,
    and with it the rounding, by the batch size, and attacks that take signs of gradients turn a last bit into a large
    difference. On a GPU, where small blocks would be slow, a block has at most `gpu_block_size` images. A smaller one
    is filled up to the next of 1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40 and so on, by less than a quarter.
    So what cuDNN plans and `Captured` records for a size is used again, while attacks drop images.
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

        Without `filled`, short blocks stay short, and blocks on a CPU are larger. Training uses this, because there an
        image depends on its batch anyway. Without `gpu_block_size`, a block on a GPU is the batch as it is.
        """
        super().__init__()
        self.network, self._gpu_block_size, self._callback, self._filled = network, gpu_block_size, callback, filled

    def forward(self, x: Tensor) -> Tensor:
        """Returns the network's outputs (B, ...) for images x (B, C, H, W)."""
        blocks = list(x.split(self.block_size(x)))
        missing = self._filled_size(blocks[-1]) - len(blocks[-1])
        if missing:
            blocks[-1] = torch.cat([blocks[-1], x[-1:].detach().expand(missing, -1, -1, -1)])
        if x.device.type == "cpu":
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

    def _filled_size(self, block: Tensor) -> int:
        """Returns the number of images of a block with the copies that fill it up."""
        if not self._filled:
            return len(block)
        if block.device.type == "cpu":
            return self.block_size(block)
        return min(_rounded_up(len(block)), self._gpu_block_size or len(block))


def _rounded_up(count: int) -> int:
    """Returns the smallest size of a block on a GPU for so many images: above 8 four sizes for each power of 2."""
    unit = 2 ** (count.bit_length() - 3) if count > 8 else 1 + (count > 4)
    return -(-count // unit) * unit
