"""Progress bars that count images. There are none if standard error is not a terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, Protocol, TypeVar

from tqdm import tqdm

NOTE_SECONDS = 0.5  # least time between two notes: computing one may wait for the GPU, or rank all outcomes
_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"


class _Sized(Protocol):
    def __len__(self) -> int: ...


Batch = TypeVar("Batch", bound=_Sized)


class ProgressBar(Generic[Batch]):
    """Yields the batches and shows a bar over all images: the rate, the time left, and a note.

    `total`: the number of images. `note`: takes the number of images so far and returns the text behind the bar.
    `initial`: images that an earlier run has processed; they are counted in `total` but not among the batches.
    `size`: returns a batch's number of images.
    """

    def __init__(
        self,
        batches: Iterable[Batch],
        total: int,
        title: str,
        note: Callable[[int], str],
        *,
        initial: int = 0,
        size: Callable[[Batch], int] = len,
    ) -> None:
        self._batches, self._total, self._title, self._note = batches, total, title, note
        self._initial, self._size = initial, size
        self._bar: tqdm | None = None
        self._note_time = -math.inf  # when the note was last computed, by time.monotonic

    def __iter__(self) -> Iterator[Batch]:
        options = {"unit": " images", "bar_format": _FORMAT, "disable": None, "leave": False}
        with tqdm(total=self._total, initial=self._initial, desc=self._title, **options) as self._bar:
            for batch in self._batches:
                yield batch
                self._bar.update(self._size(batch))
                self.refresh()

    def refresh(self) -> None:
        """Computes the note again if it is older than `NOTE_SECONDS`. Call it within batches that take long."""
        bar = self._bar
        if bar is not None and not bar.disable and time.monotonic() - self._note_time >= NOTE_SECONDS:
            bar.set_postfix_str(self._note(bar.n))
            self._note_time = time.monotonic()
