"""Progress bars. If standard error is not a terminal, a line a minute takes their place."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, Protocol, TypeVar

from tqdm import tqdm

from advmia.runtime.terminal import say

LINE_SECONDS = 60.0  # time between two lines where there is no terminal
NOTE_SECONDS = 0.5  # least time between two notes: computing one may wait for the GPU, or rank all outcomes
_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"


class _Sized(Protocol):
    def __len__(self) -> int: ...


Batch = TypeVar("Batch", bound=_Sized)


class Bar(tqdm):
    """A bar of tqdm. Without a terminal it prints a line a minute instead, and nothing in loops of under a minute."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options, disable=None)
        self._title, self._unit = options.get("desc", ""), str(options.get("unit", "it")).strip()
        self._start = self._line_time = time.monotonic()

    def __iter__(self) -> Iterator[Any]:
        if not self.disable:
            yield from super().__iter__()
            return
        for item in self.iterable:
            yield item
            self.update()

    def update(self, n: float | None = 1) -> bool | None:
        shown = self.count(n)
        self.say_if_due()
        return shown

    def count(self, n: float | None = 1) -> bool | None:
        """Updates the bar as tqdm does; without a terminal it only counts, and prints nothing."""
        if not self.disable:
            return super().update(n)
        self.n += n or 0
        return None

    def say_if_due(self, note: Callable[[], str] = str) -> None:
        """Prints a line if there is no terminal, and the last line is a minute ago. `note`: what it says at its end."""
        now = time.monotonic()
        if self.disable and now - self._line_time >= LINE_SECONDS:
            self._line_time = now
            total = f" of {self.total}" if self.total is not None else ""
            text = f"{self._title}: {self.n}{total} {self._unit} after {(now - self._start) // 60:.0f} min"
            say(", ".join(filter(None, [text, note()])))


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
        self._bar: Bar | None = None
        self._note_time = -math.inf  # when the note was last computed, by time.monotonic

    def __iter__(self) -> Iterator[Batch]:
        options = {"unit": " images", "bar_format": _FORMAT, "leave": False}
        with Bar(total=self._total, initial=self._initial, desc=self._title, **options) as self._bar:
            for batch in self._batches:
                yield batch
                self._bar.count(self._size(batch))
                self.refresh()

    def refresh(self) -> None:
        """Computes the note again if it is older than `NOTE_SECONDS`. Call it within batches that take long."""
        bar = self._bar
        if bar is None:
            return
        if bar.disable:
            bar.say_if_due(lambda: self._note(bar.n) if bar.n else "")
        elif time.monotonic() - self._note_time >= NOTE_SECONDS:
            bar.set_postfix_str(self._note(bar.n))
            self._note_time = time.monotonic()
