"""The picture beside a checkpoint: the training loss and the validation scores of each epoch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from advmia.checkpoints.paths import picture_path
from advmia.runtime import distributed
from advmia.runtime.files import atomic_write
from advmia.runtime.terminal import say
from advmia.training.loop import Epoch

REDRAW_SECONDS = 10.0  # least time between two drawings; it is longer where drawing would take over 5 % of the time
DPI = 120


class TrainingCurves:
    """Draws loss and selection score over the epochs: from time to time, and at the end of its `with` block.

    If drawing fails, it reports that once and the training goes on without a picture. Only the main process draws.
    """

    def __init__(
        self, checkpoint: Path, selection: str, score_name: str, earlier: Sequence[Epoch] = (), best: int = 0
    ) -> None:
        """`selection`: the score that is drawn. `score_name`: the score that chooses the best epoch, for the legend.

        `earlier`: the epochs of a resumed training before it was stopped. `best`: the number of the best of them.
        """
        self._path, self._title = picture_path(checkpoint), checkpoint.name
        self._selection, self._score_name = selection, score_name
        self._epochs, self._best = list(earlier), best
        self._next_drawing = time.monotonic() + REDRAW_SECONDS  # a short training is drawn only at its end
        self._works = True

    def __enter__(self) -> TrainingCurves:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._draw()

    def add(self, epoch: Epoch, best: int) -> None:
        """Adds an epoch. `best`: the number of the best epoch so far."""
        self._epochs.append(epoch)
        self._best = best
        start = time.monotonic()
        if start >= self._next_drawing:
            self._draw()
            end = time.monotonic()
            self._next_drawing = end + max(REDRAW_SECONDS, 20 * (end - start))

    def _draw(self) -> None:
        if not self._epochs or not self._works or not distributed.is_main():
            return
        try:
            with atomic_write(self._path) as temporary:
                draw_curves(self._epochs, self._best, self._selection, self._score_name, self._title, temporary)
        except Exception as error:  # no fault of a picture may end a training
            self._works = False
            say(f"no training curves at {self._path}: {' '.join(str(error).split())[:200]}")


def draw_curves(epochs: list[Epoch], best: int, selection: str, score_name: str, title: str, path: Path) -> None:
    """Writes a PNG to `path`: the training loss above, the clean and robust scores below, and a line at the best epoch.

    `selection`: the score that is drawn. `score_name`: the score by which the best epoch was chosen, for the legend.
    """
    from matplotlib.figure import Figure  # imported here, because it takes a second; without pyplot, so without windows
    from matplotlib.ticker import MaxNLocator

    numbers = [epoch.number for epoch in epochs]
    robust = [(epoch.number, epoch.robust[selection]) for epoch in epochs if epoch.robust]
    dots = len(epochs) <= 30  # more dots would overlap
    figure = Figure(figsize=(7.2, 6.0), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot(numbers, [epoch.loss for epoch in epochs], "o-" if dots else "-", color="#333333", markersize=4)
    below.plot(
        numbers, [epoch.clean[selection] for epoch in epochs], "o-" if dots else "-", color="#0072b2", label="clean"
    )
    if robust:
        label = "robust" + score_name.removeprefix(selection)  # "robust under PGD-20"
        below.plot(*zip(*robust, strict=True), "s--" if dots else "--", color="#d55e00", markersize=4, label=label)
    for axes in (above, below):
        if best:  # 0 while no epoch has a score
            axes.axvline(best, color="#009e73", linestyle=":", linewidth=2, label=f"best {score_name}: epoch {best}")
        axes.grid(alpha=0.3)
    above.set_ylabel("mean training loss")
    below.set(xlabel="epoch", ylabel=selection, ylim=(-0.03, 1.03))
    below.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    below.legend(fontsize="small")
    figure.suptitle(title, fontsize="small", wrap=True)
    figure.savefig(path, format="png", dpi=DPI)
