"""Progress bars, counted in images; there are none where standard error is no terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, Protocol, TypeVar

from tqdm import tqdm

NOTE_SECONDS = 0.5  # between notes: one may wait for the GPU, or rank all outcomes so far
_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"


class _Countable(Protocol):
    def __len__(self) -> int: ...


Batch = TypeVar("Batch", bound=_Countable)


class ProgressBar(Generic[Batch]):
    """Batches, with a bar over all `images`: how many a second, the time left and `note(images so far)`."""

    def __init__(
        self,
        batches: Iterable[Batch],
        images: int,
        title: str,
        note: Callable[[int], str],
        *,
        done: int = 0,
        size: Callable[[Batch], int] = len,
    ) -> None:
        """`done`: images that an earlier run has seen to; they are not among the batches. `size`: a batch's images."""
        self._batches, self._images, self._title, self._note = batches, images, title, note
        self._done, self._size = done, size
        self._bar: tqdm | None = None
        self._noted = -math.inf

    def __iter__(self) -> Iterator[Batch]:
        form = {"unit": " images", "bar_format": _FORMAT, "disable": None, "leave": False}
        with tqdm(total=self._images, initial=self._done, desc=self._title, **form) as self._bar:
            for batch in self._batches:
                yield batch
                self._bar.update(self._size(batch))
                self.refresh()

    def refresh(self) -> None:
        """Renews the note, if it is old: a batch may take hours."""
        bar = self._bar
        if bar is not None and not bar.disable and time.monotonic() - self._noted >= NOTE_SECONDS:
            bar.set_postfix_str(self._note(bar.n))
            self._noted = time.monotonic()
