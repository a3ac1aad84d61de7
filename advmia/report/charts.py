"""Line charts as SVG elements, whose colours follow the page: light, dark, or print.

The pictures of `advmia.results.plots` are for papers; these are part of a page, so they hold text that can be read out,
and are small and made fast. The style gives each series its colour, by the classes s0 to s6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

COLOURS = 7  # classes of the style
_WIDTH, _HEIGHT = 340, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 30, 40  # margins
_MOST_MARKERS = 40  # on a line; more would overlap
_STEP, _SPREAD = 4.0, 14.0  # distance of lines at one x and the largest such distance, so that none hides another
_TICKS = 12  # labels that an axis has room for


@dataclass(frozen=True)
class Line:
    """A line of a chart. `points`: (x, y, low, high) each; low and high are equal to y where there is no bar."""

    colour: int
    name: str
    points: tuple[tuple[float, float, float, float], ...]
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """The axes of a chart. `y_range`: None for that of the lines."""

    title: str
    x_label: str
    y_label: str
    y_range: tuple[float, float] | None = None
    levels: tuple[float, ...] = ()  # of dotted horizontal lines
    is_shifted: bool = False  # whether lines are shifted sideways, so that bars at one x do not hide each other


class _Scale:
    """Maps numbers to places in the drawing."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self._low, self._span = low, (high - low) or 1.0
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        return self._start + (value - self._low) / self._span * (self._end - self._start)


def draw(panel: Panel, lines: Sequence[Line]) -> Markup:
    """Returns a chart as an SVG element. Equal arguments give equal text."""
    points = [point for line in lines for point in line.points]
    xs = [point[0] for point in points]
    low, high = panel.y_range or _padded([value for point in points for value in point[1:]])
    shift_room = _SPREAD if panel.is_shifted else 4.0
    x = _Scale(min(xs), max(xs), _LEFT + shift_room, _WIDTH - _RIGHT - shift_room)
    if min(xs) == max(xs):
        x = _Scale(min(xs) - 0.5, min(xs) + 0.5, _LEFT, _WIDTH - _RIGHT)
    y = _Scale(low, high, _HEIGHT - _BOTTOM, _TOP)
    parts = [_axes(panel, x, y, xs, (low, high))]
    for number, line in enumerate(lines):
        step = min(_STEP, _SPREAD / len(lines)) if panel.is_shifted else 0.0
        parts.append(_line(line, x, y, (number - (len(lines) - 1) / 2) * step))
    names = ", ".join(dict.fromkeys(line.name for line in lines))
    label = escape(f"{panel.title}: {panel.y_label} by {panel.x_label}, of {names}"[:600])
    head = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">'
    return Markup(head + "".join(parts) + "</svg>")


def _axes(panel: Panel, x: _Scale, y: _Scale, xs: Sequence[float], limits: tuple[float, float]) -> str:
    """Returns the frame: the title, ticks with their labels, and the lines that belong to no series."""
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    title = panel.title if len(panel.title) < 46 else panel.title[:43] + "..."
    parts = [f'<text class="t" x="{(_LEFT + right) / 2:g}" y="16">{escape(title)}</text>']
    for value in _nice(*limits):
        place = _text(y(value))
        parts.append(f'<path class="grid" d="M{_LEFT} {place}H{right}"/>')
        parts.append(f'<text class="y" x="{_LEFT - 5}" y="{place}" dy=".35em">{value:g}</text>')
    for value in _chosen(xs):
        place = _text(x(value))
        parts.append(f'<path class="axis" d="M{place} {bottom}v4"/>')
        parts.append(f'<text class="x" x="{place}" y="{bottom + 16}">{value:g}</text>')
    parts.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>')
    parts += [f'<path class="level" d="M{_LEFT} {_text(y(level))}H{right}"/>' for level in panel.levels]
    middle = _text((_TOP + bottom) / 2)
    parts.append(f'<text class="x" x="{(_LEFT + right) / 2:g}" y="{_HEIGHT - 6}">{escape(panel.x_label)}</text>')
    parts.append(f'<text class="x" transform="translate(11 {middle}) rotate(-90)">{escape(panel.y_label)}</text>')
    return "".join(parts)


def _line(line: Line, x: _Scale, y: _Scale, shift: float) -> str:
    """Returns a line with its bars and markers, whose shape differs between colours."""
    if not line.points:
        return ""
    places = [(x(point[0]) + shift, *map(y, point[1:])) for point in line.points]
    path = "L".join(f"{_text(left)} {_text(top)}" for left, top, _, _ in places)
    dash = ' stroke-dasharray="6 4"' if line.dashed else ""
    parts = [f'<g class="s{line.colour % COLOURS}"><path class="l" d="M{path}"{dash}/>']
    bars = "".join(
        f"M{_text(left)} {_text(low)}V{_text(high)}" for left, top, low, high in places if (low, high) != (top, top)
    )
    if bars:
        parts.append(f'<path class="b" d="{bars}"/>')
    if len(places) <= _MOST_MARKERS:
        for (left, top, *_), (value, score, low, high) in zip(places, line.points, strict=True):
            bar = f" ({low:.3g} to {high:.3g})" if (low, high) != (score, score) else ""
            text = escape(f"{line.name}: {score:.4g}{bar} at {value:g}")
            shape = marker(line.colour, left, top)
            parts.append(f'<path class="m" d="{shape}"><title>{text}</title></path>')
    parts.append("</g>")
    return "".join(parts)


def marker(number: int, x: float, y: float) -> str:
    """Returns the path of the marker of a series, about 7 units wide: circle, square, diamond and triangles."""
    left, top = _text(x), _text(y)
    shapes = (
        "m-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0z",
        "m-3 -3h6v6h-6z",
        "m0 -4.5l4 4.5l-4 4.5l-4 -4.5z",
        "m-4 3h8l-4 -7z",
        "m-4 -3h8l-4 7z",
        "m-1.5 -4h3v2.5h2.5v3h-2.5v2.5h-3v-2.5h-2.5v-3h2.5z",
        "m-4 -2l2 -2l2 2l2 -2l2 2l-2 2l2 2l-2 2l-2 -2l-2 2l-2 -2l2 -2z",
    )
    return f"M{left} {top}{shapes[number % len(shapes)]}"


def _text(value: float) -> str:
    """Returns a place in the drawing with one decimal, so that no machine writes other digits."""
    return f"{value:.1f}"


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = 0.05 * (high - low) or 0.5
    return low - room, high + room


def _nice(low: float, high: float) -> list[float]:
    """Returns round numbers between two, about five of them."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 10) + 0.0 for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _chosen(xs: Sequence[float]) -> list[float]:
    """Returns the x whose labels do not overlap, chosen from the right; of many, round numbers."""
    values = sorted(set(xs))
    if len(values) > _TICKS:
        return _nice(values[0], values[-1])
    chosen: list[float] = []
    for value in reversed(values):
        if not chosen or chosen[-1] - value >= (values[-1] - values[0]) / _TICKS:
            chosen.append(value)
    return chosen[::-1]
