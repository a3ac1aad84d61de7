"""Tables as Markdown, CSV or LaTeX, and numbers as text."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Context, Decimal

from advmia.results.latex import render_latex
from advmia.results.layout import Cell, Table
from advmia.runtime.files import csv_text

LONG = "long"  # one line for each number: it is made of the results, not of their tables (`advmia.results.long`)
EXTENSIONS = {"md": "md", "csv": "csv", LONG: "long.csv", "latex": "tex"}  # format: extension of its file
DAGGER = "†"  # marks a number of which a check warns
_EXACT = Context(prec=400)  # digits; a float has at most 309 before its decimal point


def rounded(value: float, places: int, scale: int = 1) -> str:
    """Returns `value` times `scale` with `places` decimal places; halves are rounded up.

    It rounds the decimal digits that a result file holds. The float itself is slightly above or below them, so that
    halves would be rounded up or down by chance.
    """
    exact = _EXACT.multiply(Decimal(repr(value)), Decimal(scale))
    return str(exact.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP, _EXACT))


def render_tables(tables: Sequence[Table], name: str) -> str:
    """Returns all tables as one text in the format `name`, one of `EXTENSIONS` but `LONG`."""
    if name == "latex":
        return render_latex(tables)
    return "\n".join({"md": _markdown, "csv": _csv}[name](table) for table in tables)


def _markdown(table: Table) -> str:
    body = [[_escaped(_markdown_cell(cell)) for cell in row] for row in table.rows]
    cells = [[_escaped(name) for name in table.header], *body]
    widths = [max(len(row[column]) for row in cells) for column in range(len(table.header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    notes = [
        f"\n{note}" for note in (*table.legend, *table.notes, *(f"{DAGGER} {footnote}" for footnote in table.footnotes))
    ]
    return "\n".join([table.title, "", lines[0], rule, *lines[1:], *notes]) + "\n"


def _escaped(text: str) -> str:
    return text.replace("|", r"\|")


def _csv(table: Table) -> str:
    """Returns a line with the title, the header, the rows, and a line for each note."""
    rows = [[cell.text for cell in row] for row in table.rows]
    header = list(table.header)
    if any(table.warnings):
        header.append("warnings")
        rows = [[*row, warning] for row, warning in zip(rows, table.warnings, strict=True)]
    return csv_text([[table.title], header, *rows, *([note] for note in table.notes)])


def _markdown_cell(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.best else cell.text
    return f"{text} {DAGGER}" if cell.warned else text
