"""Any text as LaTeX, in ASCII: what pdflatex cannot print is left to the macro `SIGN`."""

from __future__ import annotations

import re
import unicodedata

# Prints the sign with a code in XeLaTeX and LuaLaTeX, whose fonts may have it, and the code in pdfLaTeX.
# Not robust, so that a list of tables, which comes before them, holds what it stands for.
SIGN = r"""\providecommand{\unicodesign}[1]{\ifdefined\Umathchar\char"#1\relax\else\texttt{[U+#1]}\fi}"""
_GREEK = (
    *("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu"),
    *("xi", "pi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega"),
)
_SIGNS = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#{}"},
    "_": r"\_\allowbreak{}",  # long names of files have no other place where a line may end
    "/": r"/\allowbreak{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    # LaTeX would read a bracket or an asterisk at the start of a row as an option of the line break before it.
    **{sign: f"{{{sign}}}" for sign in "[]*"},
    # The usual font has other signs in the places of these.
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"{\ttfamily\char34}",
    "`": r"\`{}",
    "–": r"\textendash{}",
    "—": r"\textemdash{}",
    "‘": "`",
    "’": "'",
    "“": r"\textquotedblleft{}",
    "”": r"\textquotedblright{}",
    "…": r"\dots{}",
    "†": r"\dag{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "°": r"$^\circ$",
    "µ": r"$\mu$",
    **{sign: rf"$\{name}$" for sign, name in zip("αβγδεζηθικλμνξπρστυφχψω", _GREEK, strict=True)},
    **{"ß": r"\ss{}", "æ": r"\ae{}", "Æ": r"\AE{}", "œ": r"\oe{}", "Œ": r"\OE{}", "ø": r"\o{}", "Ø": r"\O{}"},
    **{"ł": r"\l{}", "Ł": r"\L{}"},
}
# By the code of the combining mark, which follows its letter: the macro, which stands before it.
_ACCENTS = dict(zip("\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c", "`'^~=u.\"rHv", strict=True))
_ACCENTS |= {"\u0327": "c", "\u0323": "d", "\u0331": "b"}


def in_latex(text: str) -> str:
    """Returns a text as LaTeX prints it; `+-` becomes a sign. Line breaks and other white space become spaces."""
    signs = "".join(map(_sign, unicodedata.normalize("NFC", text).replace("+-", "±")))
    return re.sub(r"([-'])(?=\1)", r"\1{}", signs)  # else two hyphens would become a dash, two apostrophes a quote


def _sign(sign: str) -> str:
    if sign in _SIGNS:
        return _SIGNS[sign]
    if sign.isspace() or unicodedata.category(sign) == "Cc":
        return " "
    if sign.isascii():
        return sign
    if unicodedata.category(sign) == "Cs":  # a byte of a file's name that is not UTF-8
        return rf"\textbackslash{{}}u{ord(sign):x}"
    letter, *marks = list(unicodedata.normalize("NFD", sign))
    if letter.isascii() and len(marks) == 1 and marks[0] in _ACCENTS:
        return rf"\{_ACCENTS[marks[0]]}{{{letter}}}"
    return rf"\unicodesign{{{ord(sign):04X}}}"
