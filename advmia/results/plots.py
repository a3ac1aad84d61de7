"""Draws curves of scores over eps, which differ in colour, marker and line style, so that grey print shows them too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from advmia.results.differences import identity_columns
from advmia.results.rows import CLEAN, is_bounded
from advmia.results.scored import ScoredRun
from advmia.runtime.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The palette of Okabe and Ito (2008), "Color universal design", which colour-blind readers can tell apart; without its
# yellow, which is too pale on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vP*X<"
_LINES = ("-", "--", "-.", ":")
_PANELS_ACROSS = 3  # at most
# Curves of one panel are shifted sideways: the distance of neighbours, and the largest distance, in points of print.
_STEP, _SPREAD = 2.5, 8.0
_POINTS_PER_INCH = 72
_TICKS = 16  # an axis has room for this many labels


@dataclass(frozen=True)
class Point:
    """A score at one eps, and its 95 % confidence interval from `low` to `high`; all three in percent."""

    grey_eps: float
    score: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """One network's points by attack, in the order of eps."""

    name: str
    points: dict[str, list[Point]]


def curves_of(group: Sequence[ScoredRun], score_name: str) -> list[Curve]:
    """Returns a curve for each run, as the rows of a table name it. The clean score stands at eps 0 of every attack."""
    show_images = len({run.record.images for run in group}) > 1
    curves = []
    for run, (method, *settings) in zip(group, identity_columns([run.record for run in group])[1], strict=True):
        points: dict[str, list[Point]] = {}
        for column, scores in sorted(run.values.items(), key=lambda item: item[0].order()):
            value = scores[score_name]
            if not math.isnan(value.score):
                assert value.interval is not None, f"{score_name} has no interval"
                low, high = value.interval
                point = Point(column.grey_eps, 100 * value.score, 100 * low, 100 * high)
                points.setdefault(column.attack, []).append(point)
        clean = points.pop(CLEAN, [])
        details = [*settings, f"{run.record.images} images" if show_images else ""]
        name = " ".join([method, *(f"({detail})" for detail in details if detail)])
        curves.append(Curve(name, {attack: clean + attacked for attack, attacked in points.items()}))
    return curves


def plot_curves(curves: Sequence[Curve], title: str, axis_label: str, stem: Path) -> list[Path]:
    """Draws `<stem>.png` and `<stem>.pdf` with a panel for each attack, and returns their paths.

    Draws nothing where there is no attack. Equal curves give equal files: these have no time stamp.
    """
    import matplotlib  # here, because the import takes a second

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    attacks = list(dict.fromkeys(attack for curve in curves for attack in curve.points))
    if not attacks:
        return []
    # "default" overrides the user's own settings. Journals ask for Type 42 fonts, which keep text as text in the PDF.
    # Dollar signs in a name do not make it a formula.
    with plt.style.context(["default", {"pdf.fonttype": 42, "font.size": 9, "text.parse_math": False}]):
        figure = _draw(curves, attacks, title, axis_label)
        paths = []
        for kind, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None, "Producer": None})):
            paths.append(stem.with_name(f"{stem.name}.{kind}"))
            with atomic_write(paths[-1]) as temporary:
                figure.savefig(temporary, format=kind, dpi=200, metadata=metadata)
        plt.close(figure)
    return paths


def _draw(curves: Sequence[Curve], attacks: Sequence[str], title: str, axis_label: str) -> Figure:
    """Draws the panels, and the legend below them."""
    import matplotlib.pyplot as plt

    across = min(len(attacks), _PANELS_ACROSS)
    down = -(-len(attacks) // across)
    width = max(4.6, 0.6 + 3.0 * across)  # inches
    legend_columns = 2 if max(len(curve.name) for curve in curves) < 5 * width else 1
    size = (width, 0.9 + 2.7 * down + 0.2 * -(-len(curves) // legend_columns))
    figure, grid = plt.subplots(down, across, figsize=size, sharey=True, squeeze=False, layout="constrained")
    panels = list(grid.flat)
    for panel, attack in zip(panels, attacks, strict=False):
        _draw_panel(panel, curves, attack)
    for panel in panels[len(attacks) :]:
        panel.set_axis_off()
    for panel in grid[:, 0]:
        panel.set_ylabel(axis_label)
    artists: dict[str, Artist] = {}
    for panel in panels:
        handles, names = panel.get_legend_handles_labels()
        artists |= dict(zip(names, handles, strict=True))
    names = [curve.name for curve in curves if curve.name in artists]
    figure.legend(
        [artists[name] for name in names],
        names,
        title="bars: 95 % confidence interval; markers at one eps stand side by side",
        title_fontsize=8,
        ncols=legend_columns,
        loc="outside lower center",
        frameon=False,
    )
    figure.suptitle(title, fontsize=10)
    return figure


def _draw_panel(panel: Axes, curves: Sequence[Curve], attack: str) -> None:
    """Draws the curves of one attack. Each curve has the same style in every panel."""
    from matplotlib.transforms import ScaledTranslation

    shown = [(number, curve) for number, curve in enumerate(curves) if curve.points.get(attack)]
    for position, (number, curve) in enumerate(shown):
        points = curve.points[attack]
        # Curves are shifted in points of print, not in grey levels, so that bars at one eps do not hide each other.
        step = min(_STEP, _SPREAD / len(shown)) / _POINTS_PER_INCH
        shift = ScaledTranslation((position - (len(shown) - 1) / 2) * step, 0, panel.figure.dpi_scale_trans)
        panel.errorbar(
            [point.grey_eps for point in points],
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
            transform=panel.transData + shift,
        )
    grey_eps = {point.grey_eps for _, curve in shown for point in curve.points[attack]}
    margin = 0.08 * (max(grey_eps) - min(grey_eps)) or 1.0  # room for the shifted bars
    panel.set_xlim(min(grey_eps) - margin, max(grey_eps) + margin)
    ticks = _legible(grey_eps)
    title = attack if is_bounded(attack) else f"{attack} (eps: a step, no bound)"
    panel.set(title=title, xlabel="eps (grey levels out of 255)", ylim=(-3, 103), xticks=ticks)
    panel.set_xticklabels([f"{tick:g}" for tick in ticks])
    panel.grid(alpha=0.3)


def _legible(ticks: set[float]) -> list[float]:
    """Returns the ticks whose labels do not overlap, chosen from the right, in ascending order."""
    chosen: list[float] = []
    for tick in sorted(ticks, reverse=True):
        if not chosen or chosen[-1] - tick >= (max(ticks) - min(ticks)) / _TICKS:
            chosen.append(tick)
    return chosen[::-1]
