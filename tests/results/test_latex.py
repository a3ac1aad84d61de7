"""Tables as LaTeX: a real pdflatex compiles them."""

from __future__ import annotations

import re
import shutil
import string
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from advmia.results.latex import render_latex
from advmia.results.latex_text import in_latex
from advmia.results.layout import Cell, Table
from tests.results.examples import EXAMPLES

PAPER = r"""\documentclass{article}
%s
\begin{document}
\listoftables
\input{tables}
\end{document}
"""
SIGNS = string.printable + "äßéñłØůāçğşżđÞ ≤±×°µ†–—‘’“”…αβε皮膚医Ж😀\u202e\u0301\ufffd"


def compiled(folder: Path, tables: str) -> str:
    """Compiles a paper that inputs the tables, with the preamble that they ask for; returns the log.

    Twice, since the list of tables is made of what the first time has written.
    """
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed (Debian: texlive-latex-recommended texlive-science)")
    preamble = re.findall(r"^%   (\\usepackage.*)$", tables, re.M)
    assert len(preamble) == 1
    (folder / "tables.tex").write_text(tables, encoding="ascii")
    (folder / "paper.tex").write_text(PAPER % preamble[0], encoding="ascii")
    for mode in (["-draftmode"], []):
        command = ["pdflatex", "-interaction=nonstopmode", *mode, "paper.tex"]
        process = subprocess.run(command, cwd=folder, capture_output=True, timeout=60, check=False)
    if b"File `siunitx.sty' not found" in process.stdout:
        pytest.skip("siunitx is not installed (Debian: texlive-science)")
    log = (folder / "paper.log").read_text(errors="replace")
    assert process.returncode == 0, log[-3000:]
    return log


def table(heads: Sequence[str], rows: int = 2, **more: Any) -> Table:
    cells = [Cell(f"{value}.5 (10.0-{value}.9)", number=f"{value}.5") for value in range(20, 20 + len(heads))]
    lines = tuple((Cell(f"method {number}"), Cell.of(15), *cells) for number in range(rows))
    return replace(Table("title", ("method", "images", *heads), lines), **more)


def test_the_examples_compile() -> None:
    """Fails if the committed tables hold a sign that pdflatex does not take everywhere."""
    (EXAMPLES / "expected.tex").read_text(encoding="ascii")


@pytest.mark.slow
def test_a_paper_with_all_kinds_of_tables(tmp_path: Path) -> None:
    """Fails if LaTeX rejects a table, or one is wider than its line or higher than its page.

    Among them: every sign in every place, a text that is no number among numbers, marks, many columns, many rows.
    """
    text = " ".join(SIGNS)
    signs = table([text[:40], text[-20:]], 1, title=text, notes=(text,), footnotes=(text,))
    signs = replace(signs, rows=((Cell(text), *signs.rows[0][1:]),))
    pieces = [SIGNS[start : start + 20] for start in range(0, len(SIGNS), 20)]
    starts = Table("starts", ("*", "[1]"), tuple((Cell(piece), Cell(piece)) for piece in ("[2]", "*", *pieces)))
    marks = Table(
        "marks",
        ("method", "clean", "pgd 8"),
        (
            (Cell("nat"), Cell("80.0 (54.8-93.0)", best=True, number="80.0"), Cell("undefined", warned=True)),
            (Cell("at"), Cell("9.5 +- 1.2 (3 seeds)", warned=True, number="9.5"), Cell()),
            (Cell("-1"), Cell("-123.125", number="-123.125"), Cell("0.0", number="0.0", best=True)),
        ),
    )
    wide = table(["clean", *(f"{name} {eps}" for name in ("fgsm", "pgd", "cw", "worst") for eps in (1, 2, 4, 8))], 30)
    names = table(["clean"], notes=("/".join(["MobileNetV2_melBin_pgdat_beta0_class2_ADV8-255"] * 3),))
    long = table(["clean", "pgd 8 (5 restarts)", "pgd 8 (20 x 2)"], 60, title="long")
    tables = [signs, starts, marks, wide, names, long, Table("empty", ("method",), ())]
    log = compiled(tmp_path, render_latex(tables))
    assert "Float too large" not in log and "undefined" not in log
    overfull = [line for line in re.findall(r"Overfull .hbox .*", log) if "alignment" in line or "paragraph" in line]
    assert not overfull


def test_numbers_are_aligned_and_marked(tmp_path: Path) -> None:
    """Fails if a column of numbers is not one of siunitx with the digits that it needs, an interval is not beneath its
    number, a head is not shared, or the best is not bold."""
    best = Cell("100.0 (79.6-100.0)", best=True, number="100.0")
    other = Cell("9.5 +- 1.2 (3 seeds)", warned=True, number="9.5")
    shown = Table("t", ("method", "pgd 2", "pgd 8"), ((Cell("nat"), best, other), (Cell("at"), other, Cell())))
    text = render_latex([shown])
    post = r", table-space-text-post={\,\dag{}}, table-align-text-after=false"
    assert rf"\begin{{tabular}}{{lS[table-format=3.1{post}]S[table-format=1.1{post}]}}" in text
    assert (
        r""" & \multicolumn{2}{c}{pgd} \\
\cmidrule(lr){2-3}
method & {2} & {8} \\
\midrule
nat & \bfseries 100.0 & 9.5 {\,\dag{}} \\[-3pt]
 & {\scriptsize (79.6\textendash{}100.0)} & {\scriptsize $\pm$ 1.2} \\[-3pt]
 &  & {\scriptsize (3 seeds)} \\
\addlinespace[2pt]
at & 9.5 {\,\dag{}} &  \\[-3pt]
"""
        in text
    )


def test_signs() -> None:
    """Fails if a sign of LaTeX stays one, two signs join to another, or a sign that pdflatex lacks is left."""
    for text, expected in [
        (r"a\b_c", r"a\textbackslash{}b\_\allowbreak{}c"),
        ("--scores ''", "-{}-scores '{}'"),
        ("+- 1", r"$\pm$ 1"),
        ("é ç Å ń", r"\'{e} \c{c} \r{A} \'{n}"),
        ("a\nb\tc\x00", "a b c "),
        ("皮", r"\unicodesign{76AE}"),
        ("\udce9", r"\textbackslash{}udce9"),
        ("[phantom]", "{[}phantom{]}"),
    ]:
        assert in_latex(text) == expected
    assert in_latex(SIGNS).isascii()
