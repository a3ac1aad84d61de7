"""Draws curves of scores over eps, which differ in colour and marker, so that grey print shows them too.

A dashed curve is one that a check warns of. Of a test that was stopped, the last marker is hollow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from advmia.results.differences import run_names
from advmia.results.rows import CLEAN, is_bounded
from advmia.results.scored import ScoredRun, Value, curve_names, guessing_score
from advmia.results.scores import SCORES, Score
from advmia.runtime.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The palette of Okabe and Ito (2008), "Color universal design", which colour-blind readers can tell apart; without its
# yellow, which is too pale on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vP*X<"
_WIDTH, _RIM = 1.3, 2.0  # points: of a line, and what a line is wider than an equal one that is drawn over it
_PANELS_ACROSS = 3  # at most
# Curves of one panel are shifted sideways: the distance of neighbours, and the largest distance, in points of print.
_STEP, _SPREAD = 2.5, 8.0
_POINTS_PER_INCH = 72
_TITLE_PER_INCH = 12  # characters of a title that fit into an inch
_TICKS = 16  # an axis has room for this many labels
_GUESSING = "guessing: the same answer for every image"
_INTERVAL, _DEVIATION = "95 % confidence interval", "standard deviation over seeds"
_LEGEND_TITLE = "bars: {bars}; markers at one eps stand side by side"
_WARNED = "\ndashed: a check warns of these scores, see the tables"


@dataclass(frozen=True)
class Point:
    """A score at one eps, and its 95 % confidence interval from `low` to `high`, in the unit of the tables."""

    grey_eps: float
    score: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """One network's points by attack, in the order of eps."""

    name: str
    points: dict[str, list[Point]]
    warned: bool = False  # a check warns of the scores
    unfinished: bool = False  # the test was stopped
    seeds: int = 0  # of which the points are means; 0 where no other seed is known
    guessing: float | None = None  # the score of the best answer that is the same for every image, in the tables' unit

    @property
    def label(self) -> str:
        """The name in the legend."""
        name = f"{self.name} ({self.seeds} seed{'s' if self.seeds > 1 else ''})" if self.seeds else self.name
        if self.unfinished:
            return f"{name} (unfinished)"
        return f"{name} (warning)" if self.warned else name


@dataclass(frozen=True)
class Picture:
    """What a picture shows beside its curves."""

    title: str
    score: Score

    @property
    def scale(self) -> float:
        """The highest score in the unit of the tables: 100 for percent."""
        return 100.0 if self.score.percent else 1.0

    @property
    def axis_label(self) -> str:
        return f"{self.score.label} (%)" if self.score.percent else self.score.label


def curves_of(group: Sequence[ScoredRun], score_name: str) -> list[Curve]:
    """Returns a curve for each run, as the rows of a table name it. The clean score stands at eps 0 of every attack."""
    scale = 100 if SCORES[score_name].percent else 1
    curves, names_of_curves = [], curve_names(group)
    for run, name in zip(group, run_names([run.record for run in group]), strict=True):
        points: dict[str, list[Point]] = {}
        for column, scores in sorted(run.values.items(), key=lambda item: item[0].order()):
            value = scores[score_name]
            if not math.isnan(value.score):
                low, high = _bar(value)
                point = Point(column.grey_eps, scale * value.score, scale * low, scale * high)
                points.setdefault(names_of_curves[column], []).append(point)
        clean = points.pop(CLEAN, [])
        guessing = guessing_score(run.record)
        curves.append(
            Curve(
                name,
                {attack: clean + attacked for attack, attacked in points.items()},
                warned=bool(run.record.warnings),
                unfinished=run.record.is_unfinished,
                seeds=max((len(scores[score_name].seeds) for scores in run.values.values()), default=0),
                guessing=None if guessing is None else scale * guessing,
            )
        )
    return curves


def _bar(value: Value) -> tuple[float, float]:
    """Returns the ends of a point's bar: the standard deviation over seeds, or the interval over images of one seed."""
    if value.deviation is not None:
        return value.score - value.deviation, value.score + value.deviation
    assert value.interval is not None, "only scores with an interval are drawn"
    return value.interval


def plot_curves(curves: Sequence[Curve], picture: Picture, stem: Path) -> list[Path]:
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
        figure = _draw(curves, attacks, picture)
        paths = []
        for kind, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None, "Producer": None})):
            paths.append(stem.with_name(f"{stem.name}.{kind}"))
            with atomic_write(paths[-1]) as temporary:
                figure.savefig(temporary, format=kind, dpi=200, metadata=metadata)
        plt.close(figure)
    return paths


def _draw(curves: Sequence[Curve], attacks: Sequence[str], picture: Picture) -> Figure:
    """Draws the panels, and the legend below them."""
    import matplotlib.pyplot as plt

    across = min(len(attacks), _PANELS_ACROSS)
    down = -(-len(attacks) // across)
    width = max(4.6, 0.6 + 3.0 * across)  # inches
    labels = [*(curve.label for curve in curves), _GUESSING]
    legend_columns = 2 if max(map(len, labels)) < 5 * width else 1
    size = (width, 0.9 + 2.7 * down + 0.2 * -(-len(labels) // legend_columns))
    figure, grid = plt.subplots(down, across, figsize=size, sharey=True, squeeze=False, layout="constrained")
    panels = list(grid.flat)
    for panel, attack in zip(panels, attacks, strict=False):
        _draw_panel(panel, curves, attack)
        panel.set_ylim(-0.03 * picture.scale, 1.03 * picture.scale)
    for panel in panels[len(attacks) :]:
        panel.set_axis_off()
    for panel in grid[:, 0]:
        panel.set_ylabel(picture.axis_label)
    artists: dict[str, Artist] = {}
    for panel in panels:
        handles, names = panel.get_legend_handles_labels()
        artists |= dict(zip(names, handles, strict=True))
    names = [label for label in labels if label in artists]
    figure.legend(
        [artists[name] for name in names],
        names,
        title=_LEGEND_TITLE.format(bars=_bars(curves)) + (_WARNED if any(curve.warned for curve in curves) else ""),
        title_fontsize=8,
        ncols=legend_columns,
        loc="outside lower center",
        frameon=False,
    )
    figure.suptitle(fill(picture.title, round(_TITLE_PER_INCH * width)), fontsize=10)
    return figure


def _bars(curves: Sequence[Curve]) -> str:
    """Returns what the bars show."""
    kinds = [_DEVIATION if curve.seeds > 1 else _INTERVAL for curve in curves]
    return " or, of one seed, ".join(sorted(set(kinds), reverse=True))


def _draw_panel(panel: Axes, curves: Sequence[Curve], attack: str) -> None:
    """Draws the curves of one attack. Each curve has the same colour and marker in every panel."""
    from matplotlib.transforms import ScaledTranslation

    shown = [(number, curve) for number, curve in enumerate(curves) if curve.points.get(attack)]
    for position, (number, curve) in enumerate(shown):
        points = curve.points[attack]
        # Of equal curves, the first is the widest, so that it shows beneath the others.
        equal = sum(later.points[attack] == points for _, later in shown[position + 1 :])
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
            linestyle="--" if curve.warned else "-",
            markersize=4.5,
            linewidth=_WIDTH + _RIM * equal,
            elinewidth=0.8,
            capsize=2,
            label=curve.label,
            transform=panel.transData + shift,
        )
        if curve.unfinished:
            last = points[-1]
            panel.plot(
                last.grey_eps,
                last.score,
                marker="o",
                color=_COLOURS[number % len(_COLOURS)],
                markerfacecolor="white",
                transform=panel.transData + shift,
                zorder=4,
            )
    for guessing in sorted({curve.guessing for _, curve in shown if curve.guessing is not None}):
        panel.axhline(guessing, color="#666666", linestyle=(0, (1, 3)), linewidth=1.0, label=_GUESSING)
    grey_eps = {point.grey_eps for _, curve in shown for point in curve.points[attack]}
    margin = 0.08 * (max(grey_eps) - min(grey_eps)) or 1.0  # room for the shifted bars
    panel.set_xlim(min(grey_eps) - margin, max(grey_eps) + margin)
    ticks = _legible(grey_eps)
    title = attack if is_bounded(attack) else f"{attack} (eps: a step, no bound)"
    panel.set(title=title, xlabel="eps (grey levels out of 255)", xticks=ticks)
    panel.set_xticklabels([f"{tick:g}" for tick in ticks])
    panel.grid(alpha=0.3)


def _legible(ticks: set[float]) -> list[float]:
    """Returns the ticks whose labels do not overlap, chosen from the right, in ascending order."""
    chosen: list[float] = []
    for tick in sorted(ticks, reverse=True):
        if not chosen or chosen[-1] - tick >= (max(ticks) - min(ticks)) / _TICKS:
            chosen.append(tick)
    return chosen[::-1]
