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
