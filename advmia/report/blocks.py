"""What a page consists of: sections, and the blocks in them. The template has a macro for each kind of block."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from markupsafe import Markup

from advmia.results.layout import Cell, Table
from advmia.results.render import DAGGER


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of text."""

    kind: ClassVar[str] = "paragraph"
    text: str


@dataclass(frozen=True)
class Code:
    """Text to copy, such as a command line or BibTeX. `label` says what it is."""

    kind: ClassVar[str] = "code"
    label: str
    text: str


@dataclass(frozen=True)
class Listing:
    """A list of lines below a heading, such as the warnings of one network."""

    kind: ClassVar[str] = "listing"
    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Grid:
    """A table that can be sorted.

    `shades`: for each row, a shade from 0 to 9 for each cell, None for a cell without one; () for no shades at all.
    `command`: the command line that prints the table; "" where there is none.
    """

    kind: ClassVar[str] = "grid"
    table: Table
    command: str = ""
    shades: tuple[tuple[int | None, ...], ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """The lines below the table."""
        table = self.table
        return (*table.legend, *table.notes, *(f"{DAGGER} {footnote}" for footnote in table.footnotes))


@dataclass(frozen=True)
class Chart:
    """Panels side by side, SVG elements, with one legend: (number of the colour, text, whether dashed)."""

    kind: ClassVar[str] = "chart"
    caption: str
    panels: tuple[Markup, ...]
    legend: tuple[tuple[int, str, bool], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Photo:
    """A picture. `content`: of a PNG file; `alt`: what it shows, for readers who cannot see it."""

    kind: ClassVar[str] = "photo"
    caption: str
    content: bytes
    alt: str

    @property
    def source(self) -> str:
        """The picture as a data URI."""
        return f"data:image/png;base64,{base64.b64encode(self.content).decode()}"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, which stand at the beginning of every PNG file."""
        return int.from_bytes(self.content[16:20]), int.from_bytes(self.content[20:24])


@dataclass(frozen=True)
class Fold:
    """Blocks that are hidden until their title is chosen."""

    kind: ClassVar[str] = "fold"
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Browser:
    """The images of all results, one by one; the page's data hold them."""

    kind: ClassVar[str] = "browser"


Block = Paragraph | Code | Listing | Grid | Chart | Photo | Fold | Browser


@dataclass(frozen=True)
class Section:
    """A section of the page. `anchor`: its name in links. `is_alarm`: whether it stands in a box."""

    anchor: str
    title: str
    blocks: tuple[Block, ...]
    is_alarm: bool = False


def plain_table(
    title: str, header: Sequence[str], rows: Sequence[Sequence[object]], notes: Sequence[str] = ()
) -> Table:
    """Returns a table whose cells are texts."""
    cells = tuple(tuple(Cell(str(value)) for value in row) for row in rows)
    return Table(title, tuple(header), cells, tuple(notes))


def folded(parts: Sequence[tuple[str, tuple[Block, ...]]], shown: int) -> tuple[Block, ...]:
    """Returns the blocks of parts, (title, blocks) each; those after the first `shown` are folded below titles."""
    first = [block for _, blocks in parts[:shown] for block in blocks]
    return (*first, *(Fold(title, blocks) for title, blocks in parts[shown:]))
