"""Tables as LaTeX for papers: rules of booktabs, numbers that siunitx aligns on their decimal marker.

An interval or a deviation is printed small beneath its number, so that a column is no wider than that. A table that is
still wider than its line is scaled down, a very wide one is turned, and a long one is divided.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby

from advmia.results.latex_text import SIGN, in_latex
from advmia.results.layout import Cell, Table

_HEAD = rf"""% A paper that inputs this file has in its preamble:
%   \usepackage{{booktabs, graphicx, rotating, siunitx}}
% It is made anew by the command that made it; what is changed here by hand is lost then.
\providecommand{{\fittoline}}[1]{{\setbox0\hbox{{#1}}\ifdim\wd0>\linewidth\resizebox{{\linewidth}}{{!}}{{\box0}}\else\leavevmode\box0\fi}}
{SIGN}
"""
_DAGGER = r"\dag{}"
# In characters of the usual size, of which a line of a paper holds about 70, and a turned page 110.
_LONGEST_TEXT = 26  # a longer one is broken into lines
_LONGEST_HEAD = 12
_WIDEST_UPRIGHT = 100
_SMALL = 0.7  # the width of a small character
_UPRIGHT_LINES, _TURNED_LINES = 36, 28  # at most, beside the caption


def render_latex(tables: Sequence[Table]) -> str:
    """Returns the tables as a file that a paper inputs: what its preamble needs stands in a comment at the top."""
    return _HEAD + "".join(f"\n{text}" for table in tables for text in _floats(table))


def _floats(table: Table) -> list[str]:
    """Returns an environment for each part of a table."""
    columns = [_Column(head, [row[place] for row in table.rows]) for place, head in enumerate(table.header)]
    is_turned = sum(column.width for column in columns) > _WIDEST_UPRIGHT
    environment = "sidewaystable" if is_turned else "table"
    parts = _parts(table.rows, _TURNED_LINES if is_turned else _UPRIGHT_LINES)
    floats = []
    for number, rows in enumerate(parts, start=1):
        title = in_latex(table.title + (f" (part {number} of {len(parts)})" if len(parts) > 1 else ""))
        said = (*table.facts, *table.legend, *table.notes) if number == 1 else ()
        caption = " ".join(text.rstrip(".") + "." for text in (title, *map(in_latex, said)))
        lines = [
            rf"\begin{{{environment}}}",
            r"\centering",
            r"\sisetup{detect-weight=true, mode=text}",
            r"\setlength{\belowcaptionskip}{6pt}",
            *([r"\setlength{\tabcolsep}{3pt}"] if is_turned else []),
            rf"\caption[{{{title}}}]{{{caption}}}",
            r"\fittoline{%",
            rf"\begin{{tabular}}{{{''.join(column.form for column in columns)}}}",
            r"\toprule",
            *_header(columns),
            r"\midrule",
            *_body(columns, rows),
            r"\bottomrule",
            r"\end{tabular}}",
            *(
                rf"\par\smallskip{{\footnotesize\raggedright {_DAGGER} {in_latex(text)}\par}}"
                for text in table.footnotes
            ),
            rf"\end{{{environment}}}",
        ]
        floats.append("\n".join(lines) + "\n")
    return floats


def _parts(rows: Iterable[Sequence[Cell]], limit: int) -> list[list[Sequence[Cell]]]:
    """Divides rows into parts of at most `limit` lines each, if possible where the first cell changes."""
    parts: list[list[Sequence[Cell]]] = [[]]
    used = 0
    for _, members in groupby(rows, lambda row: row[0].text):
        block = list(members)
        for piece in [block] if _height(block) <= limit else [[row] for row in block]:
            if parts[-1] and used + _height(piece) > limit:
                parts.append([])
                used = 0
            parts[-1] += piece
            used += _height(piece)
    return parts


def _height(rows: Iterable[Sequence[Cell]]) -> int:
    """Returns the number of lines that rows take."""
    return sum(1 + max(len(_beneath(cell)) for cell in row) for row in rows)


class _Column:
    """One column: its head, and how its cells are set."""

    def __init__(self, head: str, cells: Sequence[Cell]) -> None:
        self.head, self.cells = head, cells
        self.has_numbers = any(cell.number for cell in cells)
        self.has_daggers = any(cell.warned for cell in cells)

    @property
    def form(self) -> str:
        """What the column is in the argument of `tabular`."""
        if not self.has_numbers:
            longest = max((len(cell.text) for cell in self.cells), default=0)
            return "l" if longest <= _LONGEST_TEXT else rf">{{\raggedright\arraybackslash}}p{{{_LONGEST_TEXT / 2:g}em}}"
        parts = [cell.number.lstrip("-").partition(".") for cell in self.cells if cell.number]
        whole, decimals = max(len(before) for before, _, _ in parts), max(len(after) for _, _, after in parts)
        sign = "-" if any(cell.number.startswith("-") for cell in self.cells) else ""
        space = rf", table-space-text-post={{\,{_DAGGER}}}, table-align-text-after=false" if self.has_daggers else ""
        return f"S[table-format={sign}{whole}.{decimals}{space}]"

    @property
    def width(self) -> float:
        """The width in characters of the usual size, with the space between columns."""
        texts = (min(len(cell.number or cell.text), _LONGEST_TEXT) for cell in self.cells)
        beneath = (_SMALL * len(line) for cell in self.cells if self.has_numbers for line in _beneath(cell))
        return 2 + max([min(len(self.head), _LONGEST_HEAD), *texts, *beneath])


def _header(columns: Sequence[_Column]) -> list[str]:
    """Returns the lines above the rows: neighbours such as `pgd 2` and `pgd 8` have `pgd` above both."""
    groups: list[tuple[str, list[_Column]]] = []
    for name, members in groupby(columns, lambda column: column.head.partition(" ")[0] if column.has_numbers else ""):
        group = list(members)
        is_shared = name and len(group) > 1 and all(" " in column.head for column in group)
        groups += [(name, group)] if is_shared else [("", [column]) for column in group]
    heads = [
        column.head.removeprefix(f"{name} ") if name else column.head for name, group in groups for column in group
    ]
    lines = [" & ".join(map(_head, heads, columns)) + r" \\"]
    if not any(name for name, _ in groups):
        return lines
    above, rules, first = [], [], 1
    for name, group in groups:
        last = first + len(group) - 1
        above.append(rf"\multicolumn{{{len(group)}}}{{c}}{{{in_latex(name)}}}" if name else "")
        rules += [rf"\cmidrule(lr){{{first}-{last}}}"] if name else []
        first = last + 1
    return [" & ".join(above) + r" \\", "".join(rules), *lines]


def _head(text: str, column: _Column) -> str:
    quoted = in_latex(text)
    if len(text) > _LONGEST_HEAD and column.has_numbers:
        quoted = rf"\parbox[b]{{{_LONGEST_HEAD / 2:g}em}}{{\centering {quoted}}}"
    return f"{{{quoted}}}" if column.has_numbers else quoted


def _body(columns: Sequence[_Column], rows: Iterable[Sequence[Cell]]) -> list[str]:
    """Returns the lines of the rows: what stands beneath the numbers of a row follows close upon them."""
    lines: list[str] = []
    for row in rows:
        beneath = list(map(_beneath, row))
        own = [" & ".join(map(_cell, row, columns))]
        for number in range(max(map(len, beneath))):
            texts = [in_latex(texts[number]) if number < len(texts) else "" for texts in beneath]
            own.append(" & ".join(rf"{{\scriptsize {text}}}" if text else "" for text in texts))
        lines += [r"\addlinespace[2pt]"] if lines and len(own) > 1 else []
        lines += [f"{line} " + (r"\\" if line is own[-1] else r"\\[-3pt]") for line in own]
    return lines


def _cell(cell: Cell, column: _Column) -> str:
    """Returns the first line of a cell: its number, or the whole text."""
    dagger = rf"\,{_DAGGER}" if cell.warned else ""
    if not column.has_numbers:
        text = in_latex(cell.text) + dagger
        return rf"\textbf{{{text}}}" if cell.best else text
    if not cell.number:
        return f"{{{in_latex(cell.text)}{dagger}}}" if cell.text else ""
    return (r"\bfseries " if cell.best else "") + cell.number + (f" {{{dagger}}}" if dagger else "")


def _beneath(cell: Cell) -> list[str]:
    """Returns the lines beneath a number: `(81.2-87.5)`; `+- 1.2` and `(3 seeds)`; none of a text."""
    rest = cell.text.removeprefix(cell.number).strip() if cell.number else ""
    with_dashes = re.sub(r"(?<=\d)-(?=\d)", "–", rest)
    return re.split(r" (?=\()", with_dashes) if rest else []
