"""Progress bars, counted in images; there are none where standard error is no terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

from tqdm import tqdm

NOTE_SECONDS = 0.5  # between notes: one may wait for the GPU, or rank all outcomes so far
_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"


class _Countable(Protocol):
    def __len__(self) -> int: ...


Batch = TypeVar("Batch", bound=_Countable)


def watched(batches: Iterable[Batch], images: int, title: str, note: Callable[[int], str]) -> Iterator[Batch]:
    """The batches, with a bar over all `images`: how many a second, the time left and `note(images so far)`."""
    noted = -math.inf
    with tqdm(total=images, desc=title, unit=" images", bar_format=_FORMAT, disable=None, leave=False) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch))
            if not bar.disable and time.monotonic() - noted >= NOTE_SECONDS:
                bar.set_postfix_str(note(bar.n))
                noted = time.monotonic()
