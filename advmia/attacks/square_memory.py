"""What Square has found for each image, so that a test of both AutoAttack and Square runs it once."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Hashable, Sequence

import numpy as np
import torch
from torch import Tensor


class SquareMemory:
    """Results of Square on images of one list, on one network.

    AutoAttack and Square by itself draw from the same random streams, so that Square does the same in both to an image
    that both attack. Whichever attacks it second gets the result of the first one, which is forgotten then. An image of
    224 pixels takes at most 19 KB.
    """

    def __init__(self) -> None:
        self._found: dict[Hashable, tuple[bytes, int]] = {}  # the signs, see `_packed`, and the number of queries

    def complete(
        self, keys: Sequence[Hashable], x: Tensor, eps: float, search: Callable[[Tensor], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Returns x_adv, like x (B, C, H, W), and the number of queries of each image, (B,) int64.

        `keys`: equal for images and budgets for which Square does the same. `search`: runs Square on the images at some
        indices, (n,) int64, and returns both for these.
        """
        new = [index for index, key in enumerate(keys) if key not in self._found]
        x_adv, queries = x.detach().clone(), torch.zeros(len(x), dtype=torch.int64, device=x.device)
        for index, key in enumerate(keys):
            if key in self._found:
                signs, queries[index] = self._found.pop(key)
                x_adv[index] = _unpacked(signs, x[index], eps)
        if new:
            indices = torch.tensor(new, device=x.device)
            found, used = search(indices)
            x_adv[indices], queries[indices] = found, used
            results = zip(new, _packed(found, x[indices]), used.tolist(), strict=True)
            self._found |= {keys[index]: (signs, count) for index, signs, count in results}
        return x_adv, queries


def shifted(x: Tensor, signs: Tensor, eps: float) -> Tensor:
    """Returns x plus eps where signs are 1 and minus eps where they are -1, clamped to [0, 1]."""
    return (x + eps * signs).clamp(0, 1)


def _packed(x_adv: Tensor, x: Tensor) -> list[bytes]:
    """Returns the compressed signs of each image, of which `_unpacked` makes x_adv again; b"" where x_adv is x.

    Of a value that clamping has put back to 0 or 1, the sign is that which leads there.
    """
    bits = np.packbits(torch.where(x_adv == x, x >= 0.5, x_adv > x).flatten(1).cpu().numpy(), axis=1)
    is_changed = (x_adv != x).flatten(1).any(dim=1).tolist()
    return [zlib.compress(row.tobytes(), 1) if changed else b"" for row, changed in zip(bits, is_changed, strict=True)]


def _unpacked(signs: bytes, x: Tensor, eps: float) -> Tensor:
    """Returns x_adv of one image x (C, H, W)."""
    if not signs:
        return x
    bits = np.unpackbits(np.frombuffer(zlib.decompress(signs), np.uint8), count=x.numel())
    is_above = torch.from_numpy(bits).to(x.device, torch.bool).view(x.shape)
    return shifted(x, torch.where(is_above, 1.0, -1.0), eps)
