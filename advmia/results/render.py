"""Tables as Markdown, CSV or LaTeX, and numbers as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Context, Decimal

from advmia.runtime.files import csv_text

EXTENSIONS = {"md": "md", "csv": "csv", "latex": "tex"}  # format: extension of its file
DAGGER = "†"  # marks a number of which a check warns
_LATEX_DAGGER = r"\dag{}"
_EXACT = Context(prec=400)  # digits; a float has at most 309 before its decimal point

_LATEX = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    # LaTeX would read a bracket at the start of a row as an option of the line break before it.
    "[": "{[}",
    "]": "{]}",
}


@dataclass(frozen=True)
class Cell:
    """One cell of a table."""

    text: str = ""
    best: bool = False  # of its column: printed in bold, except in CSV
    warned: bool = False  # a check warns of this number: printed with a dagger, except in CSV


@dataclass(frozen=True)
class Table:
    """A table with a title above it and notes beneath it; each row has a cell for each head in `header`.

    `legend`: what bold means; CSV has neither. `warnings`: what the checks warn of in each row, "" for a row without a
    warning; empty for a table without any. CSV has them in a last column. The other formats print `footnotes` instead,
    which name the rows.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    footnotes: tuple[str, ...] = ()
    legend: tuple[str, ...] = ()


def rounded(value: float, places: int, scale: int = 1) -> str:
    """Returns `value` times `scale` with `places` decimal places; halves are rounded up.

    It rounds the decimal digits that a result file holds. The float itself is slightly above or below them, so that
    halves would be rounded up or down by chance.
    """
    exact = _EXACT.multiply(Decimal(repr(value)), Decimal(scale))
    return str(exact.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP, _EXACT))


def render_tables(tables: Sequence[Table], name: str) -> str:
    """Returns all tables as one text in the format `name`, one of `EXTENSIONS`."""
    return "\n".join({"md": _markdown, "csv": _csv, "latex": _latex}[name](table) for table in tables)


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


def _latex(table: Table) -> str:
    """Returns a `table` environment, which needs no LaTeX package."""
    rows = [[_latex_cell(cell) for cell in row] for row in table.rows]
    lines = [" & ".join(row) + r" \\" for row in [[_quoted(name) for name in table.header], *rows]]
    texts = [_quoted(text) for text in (table.title, *table.legend, *table.notes)]
    texts += [f"{_LATEX_DAGGER} {_quoted(footnote)}" for footnote in table.footnotes]
    caption = " ".join(f"{text.rstrip('.')}." for text in texts)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}}}",
            rf"\begin{{tabular}}{{{'l' * len(table.header)}}}",
            r"\hline",
            lines[0],
            r"\hline",
            *lines[1:],
            r"\hline",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _markdown_cell(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.best else cell.text
    return f"{text} {DAGGER}" if cell.warned else text


def _latex_cell(cell: Cell) -> str:
    text = _quoted(cell.text)
    if cell.best:
        text = rf"\textbf{{{text}}}"
    return rf"{text} {_LATEX_DAGGER}" if cell.warned else text


def _quoted(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text).replace("+-", r"$\pm$")
