"""Draws a contact sheet: a row for each image, clean and attacked at each eps, with the differences, for print.

Nothing is told by colour alone: marked pictures have a frame, and outlines have line styles of their own. Lengths are
in inches, from the top left corner.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from advmia.gradcam.pictures import WRONG, shortened
from advmia.pictures.meaning import Caption, Outline
from advmia.runtime.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 160
PANEL, PANEL_GAP, COLUMN_GAP, ROW_GAP, MARGIN = 1.15, 0.05, 0.2, 0.1, 0.15
WHY = 0.35  # width of the column that says why an image was chosen
LEAST_WIDTH = 7.0  # so that title and notes have room
# Font sizes in points; the height of a line and the width of a character, for each point; how much wider bold is.
TITLE_SIZE, TEXT_SIZE, LINE_HEIGHT, CHARACTER_WIDTH, BOLD_WIDTH = 11, 8, 0.0175, 0.0077, 1.15
# For each kind of outline: the text in the legend, its colour and line style. The colours are of Okabe and Ito's
# palette, which the colour-blind can tell apart; a black edge keeps them visible on any image.
OUTLINES: dict[str, tuple[str, str, Any]] = {
    "true": ("true outline", "#F0E442", "-"),
    "clean": ("predicted on the clean image", "#56B4E9", (0, (4, 1.5))),
    "attacked": ("predicted under attack", "#D55E00", (0, (1, 1.2))),
}
OUTLINE_WIDTH, EDGE_WIDTH = 1.3, 2.1


@dataclass(frozen=True)
class Picture:
    """One picture of a sheet."""

    pixels: np.ndarray  # (H, W, 3) float in [0, 1]
    caption: Caption
    outlines: Sequence[Outline] = ()


@dataclass(frozen=True)
class AttackedPicture:
    """An image under the attack at one eps."""

    picture: Picture
    difference: np.ndarray  # attacked minus clean image, (H, W, 3) float in [-1, 1]


@dataclass(frozen=True)
class SheetRow:
    """One image of a sheet."""

    why: str
    name: str
    truth: str
    clean: Picture
    attacked: Sequence[AttackedPicture]  # at each eps


@dataclass(frozen=True)
class Column:
    """One eps of a sheet."""

    title: str
    limit: float  # the difference that is shown white, or, if negative, black; above 0


@dataclass(frozen=True)
class SheetText:
    """What stands around the pictures."""

    title: str
    columns: Sequence[Column]
    notes: Sequence[str]


def save_sheet(rows: Sequence[SheetRow], text: SheetText, path: Path) -> None:
    """Writes a contact sheet as a PNG, atomically. `rows`: with as many attacked pictures each as columns."""
    page = _Page.of(rows, text)
    page.draw_head()
    for row in rows:
        page.draw_row(row)
    page.draw_notes()
    with atomic_write(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a letter that the font lacks is drawn as a box
        page.figure.savefig(temporary, format="png", dpi=DPI)


_Line = tuple[str, bool]  # a line below a picture, and whether it is marked


@dataclass
class _Page:
    """A sheet while it is drawn, from the top down."""

    figure: Figure
    width: float
    height: float
    text: SheetText
    title: list[str]  # lines, as notes
    notes: list[str]
    kinds: list[str]  # of outlines that its pictures have
    top: float = MARGIN  # of what is drawn next

    @classmethod
    def of(cls, rows: Sequence[SheetRow], text: SheetText) -> _Page:
        """Returns an empty page of the size that the rows need."""
        from matplotlib.figure import Figure  # takes a second to import; without pyplot no window is ever opened

        columns = len(text.columns) * (COLUMN_GAP + 2 * PANEL + PANEL_GAP)
        width = max(2 * MARGIN + WHY + PANEL + columns, LEAST_WIDTH)
        title = _wrapped(text.title, (width - 2 * MARGIN) / BOLD_WIDTH, TITLE_SIZE)
        notes = [line for note in text.notes for line in _wrapped(note, width - 2 * MARGIN)]
        drawn = {outline.kind for row in rows for shown in row.attacked for outline in shown.picture.outlines}
        kinds = [kind for kind in OUTLINES if kind in drawn]
        lines = 2 + len(notes) + bool(kinds)
        height = 2 * MARGIN + len(title) * _line(TITLE_SIZE) + lines * _line() + 4 * ROW_GAP
        height += sum(PANEL + ROW_GAP + _most_lines(row) * _line() for row in rows)
        return cls(Figure(figsize=(width, height)), width, height, text, title, notes, kinds)

    def draw_head(self) -> None:
        """Draws the title, the legend of the outlines, and the columns' titles."""
        for line in self.title:
            self.write(MARGIN, line, size=TITLE_SIZE, weight="bold")
            self.top += _line(TITLE_SIZE)
        self.top += ROW_GAP
        if self.kinds:
            self.draw_legend()
        for number, column in enumerate(self.text.columns):
            self.write(self.column(number) + PANEL + PANEL_GAP / 2, column.title, ha="center", weight="bold")
        self.top += _line()
        self.write(self.clean_column + PANEL / 2, "clean", ha="center")
        for number, column in enumerate(self.text.columns):
            self.write(self.column(number) + PANEL / 2, "attacked", ha="center")
            scale = f"difference x {0.5 / column.limit:.3g}"
            self.write(self.column(number) + PANEL + PANEL_GAP + PANEL / 2, scale, ha="center")
        self.top += _line()

    def draw_legend(self) -> None:
        """Draws what the outlines mean, beside each other."""
        left, length = MARGIN, 0.45
        for kind in self.kinds:
            name, colour, style = OUTLINES[kind]
            axes = self.axes(left, self.top, length, _line(), (0, 1), (-1, 1))
            axes.axis("off")
            axes.plot([0, 1], [0, 0], color=colour, linestyle=style, linewidth=1.6, path_effects=_edge())
            self.write(left + length + 0.06, name)
            left += length + 0.3 + len(name) * TEXT_SIZE * CHARACTER_WIDTH
        self.top += _line() + ROW_GAP

    def draw_row(self, row: SheetRow) -> None:
        """Draws an image in all columns, with the captions below."""
        why = "\n".join(wrap(row.why, round(PANEL / (TEXT_SIZE * CHARACTER_WIDTH)) + 2))
        x, y = MARGIN + WHY / 2, self.top + PANEL / 2
        self.figure.text(
            x / self.width, 1 - y / self.height, why, fontsize=TEXT_SIZE, rotation=90, ha="center", va="center"
        )
        self.show(self.clean_column, row.clean, numbered=True)
        self.write_lines(self.clean_column + PANEL / 2, _clean_lines(row))
        for number, (column, shown) in enumerate(zip(self.text.columns, row.attacked, strict=True)):
            left = self.column(number)
            self.show(left, shown.picture)
            contrast = 0.5 + shown.difference / (2 * column.limit)
            self.show(left + PANEL + PANEL_GAP, Picture(contrast.clip(0, 1), Caption("")))
            self.write_lines(left + PANEL + PANEL_GAP / 2, _attacked_lines(shown))
        self.top += PANEL + _most_lines(row) * _line() + ROW_GAP

    def draw_notes(self) -> None:
        self.top += ROW_GAP
        for line in self.notes:
            self.write(MARGIN, line)
            self.top += _line()

    def show(self, left: float, picture: Picture, *, numbered: bool = False) -> None:
        """Draws one picture. `numbered`: writes each class of several into its true outline."""
        height, width = picture.pixels.shape[:2]
        axes = self.axes(left, self.top, PANEL, PANEL, (-0.5, width - 0.5), (height - 0.5, -0.5))
        axes.imshow(picture.pixels, vmin=0, vmax=1, aspect="equal")
        axes.set(xticks=[], yticks=[])
        is_marked = picture.caption.is_marked
        for spine in axes.spines.values():
            spine.set(color=WRONG if is_marked else "black", linewidth=2.5 if is_marked else 0.4)
        for outline in picture.outlines:
            draw_outline(axes, outline)
            if numbered and outline.kind == "true" and outline.mask.max() > 1:
                _write_classes(axes, outline.mask)

    def write_lines(self, centre: float, lines: Sequence[_Line]) -> None:
        """Writes lines below a picture."""
        for number, (line, is_marked) in enumerate(lines):
            how: dict[str, Any] = {"color": WRONG, "weight": "bold"} if is_marked else {}
            self.write(centre, line, down=PANEL + 0.03 + number * _line(), ha="center", **how)

    def write(self, x: float, text: str, *, size: float = TEXT_SIZE, down: float = 0.0, **how: Any) -> None:
        """Writes a line, `down` below the current top."""
        position = x / self.width, 1 - (self.top + down) / self.height
        self.figure.text(*position, text, fontsize=size, va="top", parse_math=False, **how)

    def axes(
        self, left: float, top: float, width: float, height: float, xlim: tuple[float, float], ylim: tuple[float, float]
    ) -> Axes:
        box = left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height
        return self.figure.add_axes(box, xlim=xlim, ylim=ylim)

    @property
    def clean_column(self) -> float:
        return MARGIN + WHY

    def column(self, number: int) -> float:
        """Returns where an eps's pictures begin."""
        return self.clean_column + PANEL + COLUMN_GAP + number * (2 * PANEL + PANEL_GAP + COLUMN_GAP)


def _line(size: float = TEXT_SIZE) -> float:
    """Returns the height of a line."""
    return size * LINE_HEIGHT


def _wrapped(text: str, width: float, size: float = TEXT_SIZE) -> list[str]:
    """Breaks a text into lines that fit a width. No line ends at a no-break space."""
    return wrap(text, max(int(width / (size * CHARACTER_WIDTH)), 1))


def _clean_lines(row: SheetRow) -> list[_Line]:
    """Returns the lines below a clean image: its name, what is true, and what the network says."""
    width = PANEL + COLUMN_GAP
    name = shortened(row.name, int(width / (TEXT_SIZE * CHARACTER_WIDTH)))
    plain = [name, *(_wrapped(f"true: {row.truth}", width) if row.truth else [])]
    return [(line, False) for line in plain] + _caption_lines(row.clean.caption, width)


def _attacked_lines(shown: AttackedPicture) -> list[_Line]:
    return _caption_lines(shown.picture.caption, 2 * PANEL + PANEL_GAP)


def _caption_lines(caption: Caption, width: float) -> list[_Line]:
    """Breaks a caption into lines; marked ones are bold, and so wider."""
    lines = _wrapped(caption.text, width / (BOLD_WIDTH if caption.is_marked else 1))
    return [(line, caption.is_marked) for line in lines]


def _most_lines(row: SheetRow) -> int:
    """Returns the number of lines below the pictures of a row."""
    return max(len(lines) for lines in (_clean_lines(row), *map(_attacked_lines, row.attacked)))


def _edge() -> list[Any]:
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=EDGE_WIDTH, foreground="black")]


def draw_outline(axes: Axes, outline: Outline) -> None:
    """Draws the outline of each class but the background, along the pixels' edges; also where it is at the border."""
    from contourpy import contour_generator  # a part of matplotlib's installation

    _, colour, style = OUTLINES[outline.kind]
    for label in range(1, int(outline.mask.max()) + 1):
        inside = np.pad((outline.mask == label).astype(float), 1)  # so that the outline is closed at the border
        for line in contour_generator(z=inside).lines(0.5):
            x, y = np.asarray(line).T - 1  # without the padding
            how: dict[str, Any] = {
                "linewidth": OUTLINE_WIDTH,
                "path_effects": _edge(),
                "clip_on": False,
            }  # whole at the border too
            axes.plot(x, y, color=colour, linestyle=style, **how)


def _write_classes(axes: Axes, mask: np.ndarray) -> None:
    """Writes the number of each class but the background where it is widest."""
    from scipy import ndimage  # takes half a second to import

    for label in np.unique(mask[mask > 0]).tolist():
        depth = ndimage.distance_transform_edt(np.pad(mask == label, 1))[1:-1, 1:-1]
        y, x = np.unravel_index(depth.argmax(), mask.shape)
        how: dict[str, Any] = {"ha": "center", "va": "center", "path_effects": _edge()}
        axes.text(float(x), float(y), str(label), fontsize=TEXT_SIZE, color="white", **how)
