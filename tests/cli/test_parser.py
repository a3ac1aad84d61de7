"""The types of arguments, and how --help shows defaults."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable

import pytest

from advmia.cli.parser import (
    fraction,
    grey_level,
    make_parser,
    non_negative,
    one_of,
    positive,
    whole_number,
    with_choices,
)


def check_refused(parse: Callable[[str], object], texts: list[str], message: str) -> None:
    for text in texts:
        with pytest.raises(ArgumentTypeError, match=message) as caught:
            parse(text)
        assert repr(text) in str(caught.value)


def test_numbers() -> None:
    """Fails if a type accepts a number outside its range, infinity, NaN or text, or refuses a number at its limits."""
    assert [grey_level("0"), grey_level("2.5"), grey_level("255")] == [0, 2.5, 255]
    check_refused(
        grey_level, ["-1", "256", "nan", "inf", "eight", ""], "expected a number of grey levels from 0 to 255"
    )
    check_refused(grey_level, ["8/256", "0.1/1", "8/", "/255", "8/255/1", "256/255"], "write 8 or 8/255")
    assert positive("1e-9") == 1e-9
    check_refused(positive, ["0", "-1", "inf"], "expected a number above 0")
    assert non_negative("0") == 0
    check_refused(non_negative, ["-1e-9", "nan"], "expected a number of at least 0")
    assert fraction("0.1") == 0.1
    check_refused(fraction, ["0", "1", "x"], "expected a number between 0 and 1")


def test_eps() -> None:
    """Fails if an eps of [0, 1] passes for grey levels, advice names another eps, or two eps look alike in files."""
    spelled = {"8/255": 8, "0.1/255": 0.1, "8.0000001": 8, "0.5": 0.5, "1e-6/255": 1e-6, "0.12345678/255": 0.123457}
    assert {text: grey_level(text) for text in spelled} == spelled
    for share, levels in {"0.031": "8", "0.0157": "4", "0.1": "25.5", "1e-2": "2.55", "0.498": "127"}.items():
        with pytest.raises(ArgumentTypeError) as caught:
            grey_level(share)
        advice = f"{share} grey levels? If you mean {share} of 1, write {levels}/255; if you mean grey levels, write"
        assert str(caught.value) == f"{advice} {share}/255"
        assert abs(grey_level(f"{levels}/255") / 255 - float(share)) < 0.015 * float(share)
    check_refused(grey_level, ["1e-7/255"], "at least a millionth")


def test_whole_numbers() -> None:
    """Fails if a fraction, a number out of range or one of thousands of digits is not refused in one line."""
    parse = whole_number(1, 100)
    assert [parse("1"), parse("+7"), parse("100")] == [1, 7, 100]
    check_refused(parse, ["0", "-1", "1.5", "x", ""], "expected a whole number of at least 1")
    check_refused(parse, ["101", "9" * 5000], "expected a whole number of at most 100")


def test_names() -> None:
    """Fails if the letter case of a name or an alias matters, or the message for an unknown name lacks the choices."""
    parse = one_of(["melBin", "melMulti"], {"melanomaBin": "melBin"})
    assert [parse("MELBIN"), parse("melmulti"), parse("Melanomabin")] == ["melBin", "melMulti", "melBin"]
    check_refused(parse, ["mel"], "unknown name 'mel': choose from melBin, melMulti$")


def test_help_shows_defaults_as_typed(capsys: pytest.CaptureFixture) -> None:
    """Fails if --help shows a list or a truth value as Python writes it, or changes the lines of the description."""
    parser = make_parser("First line.\n\nexample: python x.py --eps 8", prog="x.py")
    parser.add_argument("--eps", nargs="+", default=[1.0, 2.5], help="budgets")
    parser.add_argument("--names", nargs="+", default=[], help=with_choices("names", ["a", "b"]))
    parser.add_argument("--resume", action="store_true", help="continue")
    parser.add_argument("--out", help="folder")
    parser.add_argument("--bs", default=32, help="batch size")
    with pytest.raises(SystemExit):
        parser.parse_args(["--HELP"])
    shown = capsys.readouterr().out
    assert "First line.\n\nexample: python x.py --eps 8\n" in shown
    for line in ("budgets (default: 1 2.5)\n", "names: a, b\n", "continue\n", "folder\n", "batch size (default: 32)\n"):
        assert line in shown


def test_flags_in_any_case(capsys: pytest.CaptureFixture) -> None:
    """Fails if `--SAVEDIR=x` is not --saveDir, a value changes its case, or an abbreviated flag is accepted."""
    parser = make_parser(None, prog="x.py")
    parser.add_argument("--saveDir")
    assert parser.parse_args(["--SAVEDIR=Maps"]).saveDir == "Maps"
    assert parser.parse_args(["--savedir", "Maps"]).saveDir == "Maps"
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["--save", "Maps"])
    assert caught.value.code == 2
    assert capsys.readouterr().err == "x.py: error: unrecognized arguments: --save Maps (see x.py --help)\n"
