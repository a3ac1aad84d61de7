"""What a table consists of, whatever the format in which it is written."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """One cell of a table: a text, or a number and what belongs to it, such as `84.6 (81.2-87.5)`."""

    text: str = ""
    best: bool = False  # of its column: printed in bold, except in CSV
    warned: bool = False  # a check warns of this number: printed with a dagger, except in CSV
    number: str = ""  # with which the text begins; "" if it is none. LaTeX aligns it on its decimal marker

    @classmethod
    def of(cls, number: object) -> Cell:
        """Returns the cell of a number that has nothing beside it, such as a count."""
        return cls(str(number), number=str(number))


@dataclass(frozen=True)
class Table:
    """A table with a title above it and notes beneath it; each row has a cell for each head in `header`.

    `legend`: what bold means; CSV has neither. `warnings`: what the checks warn of in each row, "" for a row without a
    warning; empty for a table without any. CSV has them in a last column. The other formats print `footnotes` instead,
    which name the rows. `facts`: what was tested, such as the number of images: for the caption that stands alone in a
    paper, so that only LaTeX has it.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    footnotes: tuple[str, ...] = ()
    legend: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()
