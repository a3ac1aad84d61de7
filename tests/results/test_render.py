"""Numbers as text, and tables in each format."""

from __future__ import annotations

import csv
import io

from advmia.results.layout import Cell, Table
from advmia.results.render import render_tables, rounded


def test_halves_round_up() -> None:
    """Fails if rounding follows a float's binary digits, or Python's round-half-even."""
    for value, places, scale, text in [
        (0.0625, 1, 100, "6.3"),  # half to even: 6.2
        (0.1225, 1, 100, "12.3"),  # in binary slightly below
        (0.0625, 3, 1, "0.063"),
        (0.5545, 3, 1, "0.555"),  # in binary slightly below
        (0.99949999, 1, 100, "99.9"),
        (0.9995, 1, 100, "100.0"),
        (0.0, 1, 100, "0.0"),
        (1, 3, 1, "1.000"),
        (1e-9, 3, 1, "0.000"),
        (1e30, 1, 1, "1" + 30 * "0" + ".0"),
    ]:
        assert rounded(value, places, scale) == text


def test_formats_quote() -> None:
    """Fails if a character that has a meaning in a format breaks its table."""
    table = Table("a_b, 95 %", ("x|y", "z"), ((Cell("[1] 50% & more", best=True), Cell('say "a", b')),), ("note #1",))
    assert render_tables([table], "md").splitlines()[2].startswith(r"| x\|y ")
    assert "**[1] 50% & more**" in render_tables([table], "md")
    assert list(csv.reader(io.StringIO(render_tables([table], "csv"))))[2] == ["[1] 50% & more", 'say "a", b']
    latex = render_tables([table], "latex")
    assert r"]{a\_\allowbreak{}b, 95 \%. note \#1.}" in latex
    assert r"\textbf{{[}1{]} 50\% \& more} & say" in latex
