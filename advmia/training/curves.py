"""Draws the training curves: the picture beside a checkpoint that shows the loss and the scores of its epochs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from advmia.checkpoints.paths import picture_path
from advmia.runtime import distributed
from advmia.runtime.files import atomic_write
from advmia.runtime.terminal import say
from advmia.training.loop import Epoch

REDRAW_SECONDS = 10.0  # the shortest time between two drawings
REDRAW_FACTOR = 20  # and this many times what the last drawing took, so that drawing needs at most 5 % of the time
DPI = 120
MOST_DOTS = 30  # on a curve; more would overlap
TITLE_LENGTH = 90  # characters in a line of the title


@dataclass(frozen=True)
class Frame:
    """What the picture of a training shows beside its epochs."""

    title: str
    selection: str  # the score to draw
    score_name: str  # the score by which the best epoch is chosen, for the legend
    epochs: int  # of the whole training
    base_rate: float  # the score of an answer that is the same for every image


class TrainingCurves:
    """Keeps the picture of a training up to date: a context manager that redraws it now and then, and at its end.

    If the picture cannot be drawn, it prints a message once, and the training continues.
    """

    def __init__(
        self,
        checkpoint: Path,
        frame: Frame,
        earlier: Sequence[Epoch] = (),
        best: int = 0,
        *,
        drawn: Callable[[Path], None] = lambda _: None,
    ) -> None:
        """`earlier`: the epochs before a training was resumed. `best`: the number of the best of them; 0 for none.

        `drawn` is called with the picture each time that it was drawn.
        """
        self._path, self._frame, self._drawn = picture_path(checkpoint), frame, drawn
        self._epochs, self._best = list(earlier), best
        self._next = time.monotonic() + REDRAW_SECONDS  # a shorter training is drawn only once, at its end
        self._has_failed = False

    def __enter__(self) -> TrainingCurves:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._draw()

    def add(self, epoch: Epoch, best: int) -> None:
        """Adds an epoch, and redraws the picture if it is time. `best`: the number of the best epoch so far."""
        self._epochs.append(epoch)
        self._best = best
        start = time.monotonic()
        if start >= self._next:
            self._draw()
            end = time.monotonic()
            self._next = end + max(REDRAW_SECONDS, REDRAW_FACTOR * (end - start))

    def _draw(self) -> None:
        if not self._epochs or self._has_failed or not distributed.is_main():
            return
        try:
            with atomic_write(self._path) as temporary:
                draw_curves(self._epochs, self._best, self._frame, temporary)
            self._drawn(self._path)
        except Exception as error:  # a picture is never worth losing a training
            self._has_failed = True
            say(f"no training curves at {self._path}: {' '.join(str(error).split())[:200]}")


def draw_curves(epochs: list[Epoch], best: int, frame: Frame, path: Path) -> None:
    """Writes a PNG: the mean training loss, and below it the clean and, if there is one, the robust score.

    Scores have a point for each epoch that was validated. A vertical line marks the epoch `best`, a horizontal one the
    base rate. Epochs that have not been trained yet are shaded, and the title says how many of them there are.
    """
    from matplotlib.figure import Figure  # a late import: it takes a second. Without pyplot, no window is opened
    from matplotlib.ticker import MaxNLocator

    numbers, selection = [epoch.number for epoch in epochs], frame.selection
    clean = [(epoch.number, epoch.clean[selection]) for epoch in epochs if epoch.clean]
    robust = [(epoch.number, epoch.robust[selection]) for epoch in epochs if epoch.robust]
    is_unfinished = numbers[-1] < frame.epochs
    figure = Figure(figsize=(7.2, 6.0), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    style = "o-" if len(epochs) <= MOST_DOTS else "-"
    above.plot(numbers, [epoch.loss for epoch in epochs], style, color="#333333", markersize=4)
    dots = len(clean) <= MOST_DOTS
    if clean:
        below.plot(*zip(*clean, strict=True), "o-" if dots else "-", color="#0072b2", label="clean")
    if robust:
        label = "robust" + frame.score_name.removeprefix(selection)  # "robust under PGD-20"
        below.plot(*zip(*robust, strict=True), "s--" if dots else "--", color="#d55e00", markersize=4, label=label)
    warned = [(epoch.number, epoch.clean[selection]) for epoch in epochs if epoch.clean and epoch.warning]
    if warned:
        below.plot(*zip(*warned, strict=True), "x", color="#cc0000", label="predictions without skill", zorder=3)
    below.axhline(frame.base_rate, color="#666666", linestyle=(0, (1, 3)), label=f"guessing: {frame.base_rate:.4f}")
    for axes in (above, below):
        if best:  # 0 if no epoch has a score
            label = f"best {frame.score_name}: epoch {best}"
            axes.axvline(best, color="#009e73", linestyle=":", linewidth=2, label=label)
        if is_unfinished:
            axes.axvspan(numbers[-1], frame.epochs, color="#dddddd", label="not trained yet")
        axes.grid(alpha=0.3)
    above.set_ylabel("mean training loss")
    below.set(xlabel="epoch", ylabel=selection, ylim=(-0.03, 1.03))
    below.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    below.legend(fontsize="small")
    unfinished = f"\nunfinished: {numbers[-1]} of {frame.epochs} epochs" if is_unfinished else ""
    figure.suptitle(_in_lines(frame.title) + unfinished, fontsize="small")
    figure.savefig(path, format="png", dpi=DPI)


def _in_lines(name: str) -> str:
    """Breaks a long name, which has no spaces, into lines that fit the picture."""
    return "\n".join(name[start : start + TITLE_LENGTH] for start in range(0, len(name), TITLE_LENGTH))
