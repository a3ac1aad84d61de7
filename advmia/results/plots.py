"""Curves of scores over eps, drawn for print: told apart by colour, marker and line style alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from advmia.runtime.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Okabe and Ito's palette, safe for the colour-blind, less its yellow, which is too pale on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vP*X<"
_LINES = ("-", "--", "-.", ":")
_PANELS_A_ROW = 3
_STEP, _SPREAD = 2.5, 8.0  # between two curves and between the outermost, at most, in points of print
_TITLES = {"simba": "simba (eps: a step, no bound)"}


@dataclass(frozen=True)
class Point:
    eps: float  # grey levels out of 255
    score: float  # percent, as its interval
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """One network; its points by attack, in the order of eps."""

    name: str
    points: dict[str, list[Point]]


def plot_curves(curves: Sequence[Curve], title: str, score: str, stem: Path) -> list[Path]:
    """Draws `<stem>.png` and `<stem>.pdf`, one panel an attack; returns their paths, none where nothing is attacked.

    Files hold no time stamp: equal curves give equal files.
    """
    import matplotlib  # here, because it takes a second to import

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    attacks = list(dict.fromkeys(attack for curve in curves for attack in curve.points))
    if not attacks:
        return []
    # Type 42 fonts stay text in the PDF, which journals ask for; no rc file of the user's makes another picture. A name
    # with dollar signs is no formula.
    with plt.style.context(["default", {"pdf.fonttype": 42, "font.size": 9, "text.parse_math": False}]):
        figure = _draw(curves, attacks, title, score)
        paths = []
        for kind, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None, "Producer": None})):
            paths.append(stem.with_name(f"{stem.name}.{kind}"))
            with atomic_write(paths[-1]) as temporary:
                figure.savefig(temporary, format=kind, dpi=200, metadata=metadata)
        plt.close(figure)
    return paths


def _draw(curves: Sequence[Curve], attacks: Sequence[str], title: str, score: str) -> Figure:
    import matplotlib.pyplot as plt

    across = min(len(attacks), _PANELS_A_ROW)
    down = -(-len(attacks) // across)
    width = max(4.6, 0.6 + 3.0 * across)
    beside = 2 if max(len(curve.name) for curve in curves) < 5 * width else 1  # names of the legend in a line
    size = (width, 0.9 + 2.7 * down + 0.2 * -(-len(curves) // beside))
    figure, grid = plt.subplots(down, across, figsize=size, sharey=True, squeeze=False, layout="constrained")
    panels = list(grid.flat)
    for panel, attack in zip(panels, attacks, strict=False):
        _draw_panel(panel, curves, attack)
    for panel in panels[len(attacks) :]:
        panel.set_axis_off()
    for row in grid:
        row[0].set_ylabel(score)
    handles: dict[str, Artist] = {}
    for panel in panels:
        drawn, names = panel.get_legend_handles_labels()
        handles |= dict(zip(names, drawn, strict=True))
    names = [curve.name for curve in curves if curve.name in handles]
    figure.legend(
        [handles[name] for name in names],
        names,
        title="bars: 95 % confidence interval; markers at one eps stand side by side",
        title_fontsize=8,
        ncols=beside,
        loc="outside lower center",
        frameon=False,
    )
    figure.suptitle(title, fontsize=10)
    return figure


def _draw_panel(panel: Axes, curves: Sequence[Curve], attack: str) -> None:
    from matplotlib.transforms import ScaledTranslation

    shown = [(number, curve) for number, curve in enumerate(curves) if curve.points.get(attack)]
    for place, (number, curve) in enumerate(shown):
        points = curve.points[attack]
        # Moved by points of print, not by grey levels: bars at one eps would hide each other.
        step = min(_STEP, _SPREAD / len(shown)) / 72
        aside = ScaledTranslation((place - (len(shown) - 1) / 2) * step, 0, panel.figure.dpi_scale_trans)
        panel.errorbar(
            [point.eps for point in points],
            [point.score for point in points],
            yerr=[
                [max(0.0, point.score - point.low) for point in points],
                [max(0.0, point.high - point.score) for point in points],
            ],
            color=_COLOURS[number % len(_COLOURS)],
            marker=_MARKERS[number % len(_MARKERS)],
            linestyle=_LINES[number % len(_LINES)],
            markersize=4.5,
            linewidth=1.3,
            elinewidth=0.8,
            capsize=2,
            label=curve.name,
            transform=panel.transData + aside,
        )
    eps = {point.eps for _, curve in shown for point in curve.points[attack]}
    margin = 0.08 * (max(eps) - min(eps)) or 1.0  # for the bars that stand aside
    panel.set_xlim(min(eps) - margin, max(eps) + margin)
    ticks = _legible(eps)
    panel.set(title=_TITLES.get(attack, attack), xlabel="eps (grey levels out of 255)", ylim=(-3, 103), xticks=ticks)
    panel.set_xticklabels([f"{tick:g}" for tick in ticks])
    panel.grid(alpha=0.3)


def _legible(ticks: set[float]) -> list[float]:
    """Those of the ticks, from the right, whose labels do not run into each other."""
    kept: list[float] = []
    for tick in sorted(ticks, reverse=True):
        if not kept or kept[-1] - tick >= (max(ticks) - min(ticks)) / 16:
            kept.append(tick)
    return kept[::-1]
